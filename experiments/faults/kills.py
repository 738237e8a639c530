"""Kills verbs at random moments, lets them go on, and compares with what was never killed.

Most verbs run in a fork of this process, which has loaded all libraries: so kills fall into the
work, not into imports. Those called "typed" run as a user types them, start-up and all.
"""

import csv
import importlib
import json
import logging
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

KILLS = Path(__file__).parent / "kills.csv"
COLUMNS = [
    *("verb", "trial", "signal", "moment_s", "life_s", "exit_code", "ended_after_s"),
    *("kills", "resumes", "losses"),
]
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
INTERRUPTED = 3  # the exit code of what was asked to end
WAIT_S = 600
Differ = Callable[[Path, Path], list[str]]


@dataclass(frozen=True)
class Verb:
    """What is killed.

    Args:
        words: what is typed, of the trial's folder.
        again: what is typed to go on, of the trial's folder.
        differ: what two trials' folders do not have in common.
        ranks: processes that share a run; 0 for a verb that is typed.
        brings: folder of the base that a trial gets its own copy of.
    """

    words: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    differ: Differ
    ranks: int = 1
    brings: str | None = None


def warm() -> None:
    """Load what verbs would load, and nothing that has threads."""
    for name in (
        *("train", "evaluate", "generate", "compare", "prepare", "assembly", "callbacks.wandb"),
        *("studies.scoring", "studies.report", "studies.audit", "studies.card"),
    ):
        importlib.import_module(f"mbgan.{name}")
    from mbgan.metrics.features import EfficientNetLite0

    EfficientNetLite0()


def run_verb(words: Sequence[str], log: Path) -> None:
    """Be the verb, in a process that was forked for it; never returns."""
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        sys.argv = ["mbgan", *words[1:]]
        importlib.import_module(f"mbgan.{words[0]}").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(code)


def start(verb: Verb, words: Sequence[str], log: Path) -> int:
    """Start the verb as the leader of a process group of its own, and return its number."""
    if verb.ranks == 0:
        typed = [sys.executable, "-m", f"mbgan.{words[0]}", *words[1:]]
        with log.open("ab") as file:

            def hear() -> None:  # a job in the background is deaf to Ctrl-C
                signal.signal(signal.SIGINT, signal.SIG_DFL)

            return subprocess.Popen(
                typed, stdout=file, stderr=file, start_new_session=True, preexec_fn=hear
            ).pid
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pid = os.fork()
    os.setpgid(pid, pid)  # of itself in the child; in both, so that it is done when either goes on
    if pid:
        return pid
    if verb.ranks > 1:  # as torchrun starts them
        os.environ |= {
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "0"},
            **{"WORLD_SIZE": str(verb.ranks), "LOCAL_WORLD_SIZE": str(verb.ranks)},
        }
        rank = next((r for r in range(1, verb.ranks) if os.fork() == 0), 0)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    run_verb(words, log)
    return 0


def end_of(pid: int, seconds: float) -> int | None:
    """Wait for a process, at most so long; return its exit code, None while it runs."""
    limit = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            return None
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """Return the processes below one, in groups of their own too."""
    below = defaultdict(list)
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        below[int(fields[1])].append(int(status.parent.name))
    found = below[pid][:]
    for each in found:
        found += below[each]
    return found


def kill(pid: int, number: int) -> None:
    """Send a signal to a verb's group; SIGKILL to its jobs' groups, too."""
    jobs = children(pid) if number == signal.SIGKILL else []
    os.killpg(pid, number)
    for job in jobs:
        try:
            os.kill(job, number)
        except ProcessLookupError:
            continue


def finish(verb: Verb, words: Sequence[str], log: Path) -> tuple[int | None, float]:
    """Run the verb to its end, and return exit code and wall time."""
    began = time.monotonic()
    pid = start(verb, words, log)
    code = end_of(pid, WAIT_S)
    if code is None:
        kill(pid, signal.SIGKILL)
        end_of(pid, WAIT_S)
    return code, time.monotonic() - began


def campaign(
    base: Path, verbs: dict[str, Verb], plan: dict[str, int], seed: int, each: int = 6
) -> Iterator[dict[str, object]]:
    """Yield a row a kill: so many of each verb, `each` of them in a trial.

    Args:
        base: folder of what verbs need; trials lie in it.
        verbs: by name.
        plan: kills by verb.
        seed: of the moments.
        each: kills of a trial before it is let go on to its end.
    """
    for name, kills in plan.items():
        verb, draws = verbs[name], random.Random(f"{seed} {name}")
        whole, log = _trial(base, verb, name, "whole"), base / f"{name}.log"
        code, life_s = finish(verb, verb.words(whole), log)
        if code != 0:
            raise RuntimeError(f"{name} does not even end by itself: {log.read_text()[-2000:]}")
        done = trial = 0
        while done < kills:
            folder, words, rows = _trial(base, verb, name, str(trial)), verb.words, []
            for _ in range(min(each, kills - done)):
                number = SIGNALS[(done + len(rows)) % len(SIGNALS)]
                moment_s = draws.uniform(0.02, 1) * life_s / (1 + len(rows) / 2)
                pid = start(verb, words(folder), log)
                early = end_of(pid, moment_s)
                if early is not None:  # it was done before the moment came
                    if early != 0:
                        rows.append([number, moment_s, early, 0.0, "failed before the kill"])
                    break
                sent = time.monotonic()
                kill(pid, number)
                code = end_of(pid, WAIT_S)
                rows.append([number, moment_s, code, time.monotonic() - sent, ""])
                words = verb.again
            if not rows:  # it was done before its first kill
                trial += 1
                continue
            code, _ = finish(verb, words(folder), log)
            lost = verb.differ(whole, folder) if code == 0 else [f"going on ended with {code}"]
            lost += [f"left {path.name}" for path in folder.rglob(".*.part")]
            for number, moment_s, ended, after_s, note in rows:
                # 0: it was done just then; a signal's own: before the verb could listen.
                expected = (0, -number) if number == signal.SIGKILL else (0, -number, INTERRUPTED)
                wrong = [*lost, note] if note else lost
                wrong = wrong if ended in expected else [*wrong, f"exit code {ended}"]
                if wrong:
                    print(f"{name} trial {trial}: {'; '.join(wrong)}", file=sys.stderr)
                yield dict(
                    zip(
                        COLUMNS,
                        [
                            *(name, trial, signal.Signals(number).name, round(moment_s, 2)),
                            *(round(life_s, 2), ended, round(after_s, 2), 1, 1, int(bool(wrong))),
                        ],
                        strict=True,
                    )
                )
            done, trial = done + len(rows), trial + 1


def _trial(base: Path, verb: Verb, name: str, trial: str) -> Path:
    folder = base / "trials" / re.sub(r"\W+", "_", name) / trial
    folder.mkdir(parents=True)
    if verb.brings:
        copytree(base / verb.brings, folder / verb.brings)
    return folder


def same_bytes(*skip: str, rows: Sequence[str] = ()) -> Differ:
    """Compare all files, where the folder's own name may differ.

    Args:
        skip: names, or endings, of files that say when, or how often, something was done.
        rows: files whose lines may come in another order.
    """

    def contents(folder: Path) -> dict[str, bytes | list[bytes]]:
        found: dict[str, bytes | list[bytes]] = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not any(word in name for word in skip):
                content = path.read_bytes().replace(str(folder).encode(), b"HERE")
                found[name] = sorted(content.splitlines()) if path.name in rows else content
        return found

    def differ(one: Path, other: Path) -> list[str]:
        a, b = contents(one), contents(other)
        names = sorted(a.keys() | b.keys())
        return [f"{name} differs" for name in names if a.get(name) != b.get(name)]

    return differ


def same_training(one: Path, other: Path) -> list[str]:
    """Compare weights, averages, moments and clock of both checkpoints, metrics and pictures."""
    import torch

    found = []

    def compare(name: str, a: object, b: object) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in a.keys() | b.keys():
                compare(f"{name}.{key}", a.get(key), b.get(key))
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
            for i, pair in enumerate(zip(a, b, strict=True)):
                compare(f"{name}.{i}", *pair)
        elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if not torch.equal(a, b):
                found.append(f"{name} differs")
        elif a != b:
            found.append(f"{name} differs")

    kept = ("state_dict", "optimizer_states", "counters", "conditions", "since_evaluation")
    for name in ("last", "best"):
        a, b = (
            torch.load(folder / f"run/checkpoints/{name}.ckpt", weights_only=True)
            for folder in (one, other)
        )
        compare(name, {k: a[k] for k in kept}, {k: b[k] for k in kept})
    files = same_bytes(".hydra", "csv/", "run.json", ".log", ".lock", ".ckpt", "SHA256SUMS")
    return found + files(one, other)


def same_scores(one: Path, other: Path) -> list[str]:
    """Compare the scores, and that each file is there."""

    def names(folder: Path) -> set[str]:
        return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}

    found = [f"{name} is on one side only" for name in sorted(names(one) ^ names(other))]
    a, b = (
        json.loads((folder / "run/scores.json").read_text().replace(str(folder), "HERE"))
        for folder in (one, other)
    )
    return found + [
        f"scores.json: {k} differs" for k in a.keys() | b.keys() if a.get(k) != b.get(k)
    ]


def same_sweep(one: Path, other: Path) -> list[str]:
    """Compare the trainings of a sweep's jobs."""
    found = []
    jobs = {p.parent.name for p in one.glob("sweep/*/run.json")}
    for job in sorted(jobs | {p.parent.name for p in other.glob("sweep/*/run.json")}):
        pair = [folder / "sweep" / job for folder in (one, other)]
        for folder in pair:
            (folder / "run").unlink(missing_ok=True)
            (folder / "run").symlink_to(".", target_is_directory=True)
        found += [f"{job}: {what}" for what in same_training(*pair)]
    return found


def same_prepared(one: Path, other: Path) -> list[str]:
    """Compare all files, and what the journal has seen."""
    seen = []
    for folder in (one, other):
        database = sqlite3.connect(folder / "prepared/journal.sqlite")
        seen.append(sorted(database.execute("SELECT key, rows FROM seen")))
        database.close()
    files = same_bytes("journal.sqlite", ".lock")(one, other)
    return files + ["journal.sqlite differs"] * (seen[0] != seen[1])


def draw_images(root: Path, n: int) -> None:
    """Save n small pictures of two classes and twelve patients."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n):
        path = root / "40x" / ("tumor" if i % 2 else "normal") / f"patient{i % 12:02d}_{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        field = rng.normal(170, 30, (6, 6, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(field).resize((40, 40), Image.Resampling.BICUBIC).save(path)


def prepare_base(base: Path) -> dict[str, Verb]:
    """Draw images, train the run that others need, and return the verbs to kill."""
    draw_images(base / "images", 48)
    data = [f"data.root={base}/images", f"cache_dir={base}/cache"]
    small = [
        *("data=folder", *data, "magnification=40x", "image_size=32", "batch_size=8"),
        *("total_images=160", "eval_every=40", "extractor=efficientnet_lite0", "trainer=cpu"),
        *("metrics.max_images=8", "full_metrics=null", "model=wgan_gp_small"),
        *("model.generator.width=4", "model.critic.width=4", "callbacks.samples.n=4"),
    ]

    def train(*more: str) -> Callable[[Path], list[str]]:
        return lambda folder: ["train", *small, f"hydra.run.dir={folder}/run", *more]

    def resume(folder: Path) -> list[str]:
        begun = (folder / "run/.hydra/config.yaml").is_file()
        begun = begun and (folder / "run/run.json").is_file()
        return ["train", f"resume={folder}/run"] if begun else train()(folder)

    def resume_pair(folder: Path) -> list[str]:
        words = resume(folder)
        return words if words[1].startswith("resume") else train("trainer=ddp_cpu")(folder)

    def same(*words: str) -> Callable[[Path], list[str]]:
        return lambda folder: [word.replace("HERE", str(folder)) for word in words]

    def repeat(words: Callable[[Path], list[str]], differ: Differ, ranks: int = 1) -> Verb:
        return Verb(words, words, differ, ranks)

    prepare = ["prepare", *data, "out=HERE/prepared", "image_size=32", "forecast=false"]
    generate = ("generate", f"run={base}/run", "n=200", "out=HERE/out")
    sweep = [w for w in small if not w.startswith(("total", "eval"))]
    sweep += ["total_images=80", "eval_every=40"]
    evaluate = same("evaluate", "run=HERE/run", "metrics.floor_splits=2", "cache_dir=HERE/cache")
    compare = same("compare", f"runs={base}/run", "out=HERE/compared")
    pictures = same_bytes(".lock")
    verbs = {
        "prepare": repeat(same(*prepare, "workers=1"), same_prepared),
        "train": Verb(train(), resume, same_training),
        "train, 2 workers": Verb(train("data.num_workers=2"), resume, same_training),
        "train, 2 processes": Verb(train("trainer=ddp_cpu"), resume_pair, same_training, ranks=2),
        "evaluate": Verb(evaluate, evaluate, same_scores, brings="run"),
        "generate": repeat(same(*generate), pictures),
        "generate, shards": repeat(same(*generate, "shard_size=48", "format=jpeg"), pictures),
        "compare": repeat(compare, pictures),
        "train, typed": Verb(train(), resume, same_training, ranks=0),
        "train, 2 processes, typed": Verb(
            train("trainer=ddp_cpu"), resume_pair, same_training, ranks=0
        ),
        "sweep, typed": repeat(
            lambda folder: ["train", "-m", "seed=0,1", *sweep, f"hydra.sweep.dir={folder}/sweep"],
            same_sweep,
            ranks=0,
        ),
    }
    log, score = base / "base.log", ["evaluate", f"run={base}/run", "metrics.floor_splits=2"]
    for words in () if (base / "run/scores.json").is_file() else (train()(base), score):
        code, _ = finish(Verb(train(), train(), same_bytes()), words, log)
        if code != 0:
            raise RuntimeError(f"{words} failed: {log.read_text()[-2000:]}")
    return verbs


def table() -> str:
    """Return the table of question.md: a line a verb."""
    with KILLS.open() as file:
        rows = list(csv.DictReader(file))
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["verb"]].append(row)
    groups["all"] = list(rows)
    head = ["", *(number.name for number in SIGNALS), "kills", "resumes"]
    head += ["slowest end of those that save, s", "losses"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for verb, part in groups.items():
        counts = [sum(row["signal"] == number.name for row in part) for number in SIGNALS]
        slow = max((float(r["ended_after_s"]) for r in part if r["signal"] != "SIGKILL"), default=0)
        resumes, losses = (sum(int(row[key]) for row in part) for key in ("resumes", "losses"))
        cells = [verb, *counts, len(part), resumes, f"{slow:.1f}", losses]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


PLAN = {  # of 112 kills
    "train, 2 processes": 10,
    "sweep, typed": 3,
    "train": 24,
    "train, 2 workers": 6,
    "generate": 10,
    "prepare": 12,
    "evaluate": 10,
    "compare": 10,
    "generate, shards": 6,
    "train, typed": 3,
    "train, 2 processes, typed": 18,
}


def main(base: Path, plan: dict[str, int], seed: int = 0) -> None:
    """Do the whole campaign, and write a row a kill into kills.csv in the folder as it comes."""
    base.mkdir(parents=True, exist_ok=True)  # one of an earlier campaign need not be made again
    os.environ |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    warm()
    verbs = prepare_base(base)
    with (base / "kills.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in campaign(base, verbs, plan, seed):
            writer.writerow(row)
            file.flush()
            print(*row.values(), flush=True)


if __name__ == "__main__":
    chosen = dict(pair.split("=") for pair in sys.argv[2:])
    main(Path(sys.argv[1]).absolute(), {k: int(v) for k, v in chosen.items()} or PLAN)
