"use strict";
const study = JSON.parse(document.getElementById("study").textContent);
const at = (id) => document.getElementById(id);
const place = `mbgan reader study ${study.study}`, judge = at("judge");
let memory = null, state = null, ms = 0, since = 0, saved = false;

// What is answered so far, kept by the browser; where it keeps nothing, in memory.
function load() {
  try { state = JSON.parse(localStorage.getItem(place)); } catch { state = memory; }
}
function keep() {
  memory = state;
  try {
    if (state) localStorage.setItem(place, JSON.stringify(state)); else localStorage.removeItem(place);
  } catch {
    at("trouble").textContent = "This browser does not keep your answers: do not close or reload the page before you have downloaded them.";
    at("trouble").hidden = false;
  }
}

// Time in which the image was to be seen, in ms.
function clock(running) {
  if (since) ms += performance.now() - since;
  since = running ? performance.now() : 0;
}
document.addEventListener("visibilitychange", () => {
  if (!at("task").hidden) clock(!document.hidden);
});

function show() {
  const done = state ? state.answers.length : 0, all = study.trials.length;
  at("start").hidden = Boolean(state);
  at("task").hidden = !state || done >= all;
  at("done").hidden = !state || done < all;
  at("pause").hidden = at("task").hidden || done === 0;
  clock(false);
  ms = 0;
  if (at("task").hidden) {
    at(state ? "json" : "reader").focus();
    return;
  }
  at("progress").value = done;
  at("place").textContent = `${done + 1} of ${all}`;
  judge.reset();
  ready();
  at("picture").src = study.images[study.trials[done]];
  at("picture").decode().catch(() => {}).then(() => clock(!document.hidden));
  scrollTo(0, 0);
  document.activeElement.blur();
}
function ready() {
  at("next").disabled = !judge.checkValidity();
}
judge.addEventListener("change", ready);

at("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  const reader = clean(at("reader").value);
  if (!reader) return;
  const session = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  state = { version: study.version, study: study.study, reader, session, started: new Date().toISOString(), answers: [] };
  keep();
  show();
});

judge.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!judge.checkValidity()) return;
  clock(false);
  const given = new FormData(judge), trial = state.answers.length;
  state.answers.push({
    trial, image: study.trials[trial], answer: given.get("answer"), confidence: Number(given.get("confidence")),
    class: given.get("class"), note: clean(given.get("note")), ms: Math.round(ms), at: new Date().toISOString(),
  });
  saved = false;
  keep();
  show();
});

document.addEventListener("keydown", (event) => {
  if (at("task").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const note = judge.elements.note;
  if (document.activeElement === note) {
    if (event.key === "Escape") note.blur();
    return;
  }
  const key = event.key.toLowerCase();
  const choice = { r: "real", s: "synthetic" }[key];
  if (choice) judge.elements.answer.value = choice;
  else if (/^[1-4]$/.test(key)) judge.elements.confidence.value = key;
  else if (key === "c" && study.classes.length) {
    const now = study.classes.indexOf(judge.elements.class.value);
    judge.elements.class.value = study.classes[(now + 1) % study.classes.length];
  } else if (key === "n") note.focus();
  else if (key !== "enter" || document.activeElement.tagName === "BUTTON") return;
  else if (judge.checkValidity()) judge.requestSubmit();
  event.preventDefault();
  if (!at("task").hidden) ready();
});

// Text that every program reads alike: one form of each letter, no half ones, no control characters.
function clean(text) {
  return text.normalize("NFC").replace(/[\p{Cc}\p{Cs}]/gu, " ").trim();
}

function sealed() {
  const body = { ...state, exported: new Date().toISOString(), trials: study.trials.length };
  return { ...body, seal: sha256(`${study.study}\n${JSON.stringify(body)}`) };
}
function download(text, type, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = `answers-${state.reader.replace(/[^\p{L}\p{N}_-]+/gu, "_")}-${study.study.slice(0, 8)}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
function asJSON() {
  download(JSON.stringify(sealed(), null, 1) + "\n", "application/json", "json");
  saved = true;
}
function asCSV() {
  const names = ["trial", "image", "answer", "confidence", "class", "note", "ms", "at"];
  // A leading = + - @ would be a formula to a spreadsheet.
  const cell = (value) => `"${String(value ?? "").replace(/^(?=[=+\-@])/, "'").replaceAll('"', '""')}"`;
  const rows = state.answers.map((answer) => [state.reader, ...names.map((name) => answer[name])]);
  const lines = [["reader", ...names], ...rows].map((row) => row.map(cell).join(",") + "\r\n");
  download("\ufeff" + lines.join(""), "text/csv", "csv");
}
at("json").addEventListener("click", asJSON);
at("early").addEventListener("click", asJSON);
at("csv").addEventListener("click", asCSV);
at("another").addEventListener("click", () => {
  const words = `This deletes the answers of ${state.reader} from this device` + (saved ? "." : ", and they were not downloaded as JSON.");
  if (!confirm(words)) return;
  state = null;
  keep();
  show();
});

// SHA-256 (FIPS 180-4); the browser's own is missing where a page is opened from a mail or over http.
function sha256(text) {
  const bytes = new TextEncoder().encode(text), n = bytes.length, size = ((n + 72) >> 6) << 6;
  const padded = new Uint8Array(size), view = new DataView(padded.buffer);
  padded.set(bytes);
  padded[n] = 128;
  view.setUint32(size - 8, Math.floor(n / 2 ** 29));
  view.setUint32(size - 4, n << 3);
  const bits = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0, turn = (x, k) => (x >>> k) | (x << (32 - k));
  const k = [], h = [];
  for (let p = 2; k.length < 64; p++) {
    let prime = true;
    for (let d = 2; d * d <= p; d++) prime &&= p % d > 0;
    if (prime && h.length < 8) h.push(bits(Math.sqrt(p)));
    if (prime) k.push(bits(Math.cbrt(p)));
  }
  const w = new Int32Array(64);
  for (let start = 0; start < size; start += 64) {
    for (let i = 0; i < 64; i++) {
      if (i < 16) { w[i] = view.getInt32(start + 4 * i); continue; }
      const a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
    }
    let s = [...h];
    for (let i = 0; i < 64; i++) {
      const [a, b, c, d, e, f, g, last] = s;
      const one = last + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + k[i] + w[i];
      const two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      s = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
    }
    s.forEach((x, i) => { h[i] = (h[i] + x) | 0; });
  }
  return h.map((x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
}

addEventListener("storage", () => { load(); show(); });  // answered in another tab
load();
show();
