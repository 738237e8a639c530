"use strict";
// Sort a table by the column whose button is pressed; numbers stand in data-sort, missing ones go last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = button.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      return "sort" in cell.dataset ? cell.dataset.sort : cell.textContent.trim();
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const apart = x !== "" && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y, "en", {numeric: true});
      return down ? -apart : apart;
    };
    body.append(...[...body.rows].sort(order));
  });
}

// Show a picture as large as the window.
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll("button.zoom")) {
  button.addEventListener("click", () => {
    dialog.querySelector("img").src = button.querySelector("img").src;
    dialog.querySelector("img").alt = button.querySelector("img").alt;
    dialog.querySelector("p").textContent = button.querySelector("img").alt;
    dialog.showModal();
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});

// List the settings in which two runs differ.
const settings = JSON.parse(document.getElementById("settings").textContent);
const [left, right] = document.querySelectorAll("select");
const names = Object.keys(settings);
function differ() {
  const body = document.getElementById("differences").tBodies[0];
  body.replaceChildren();
  const shown = (value) => value === null ? "not set" : typeof value === "string" ? value : JSON.stringify(value);
  for (const key of Object.keys(settings[left.value] ?? {})) {
    const [a, b] = [settings[left.value][key], settings[right.value][key]].map(shown);
    if (a === b) continue;
    const row = body.insertRow();
    for (const text of [key, a, b]) row.insertCell().textContent = text;
  }
  document.getElementById("same").hidden = body.rows.length > 0;
}
for (const select of [left, right]) {
  for (const name of names) select.add(new Option(name, name));
  select.addEventListener("change", differ);
}
if (names.length > 1) right.selectedIndex = 1;
differ();
