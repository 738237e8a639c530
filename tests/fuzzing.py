"""Damaged files by the thousand: python tests/fuzzing.py 2000 experiments/faults/fuzzing.csv.

Each reader gets files that were right before bytes of them were changed, or a part of their content
was replaced (with hashes and seals made anew, as who forges a file would). It may return, or raise
what a verb tells in one line; anything else would be a traceback.
"""

import copy
import csv
import io
import json
import logging
import random
import sys
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from mbgan import bundle, production
from mbgan.assembly import check_same_data
from mbgan.compare import load
from mbgan.data import manifest
from mbgan.data.folder import ImageFile
from mbgan.data.listing import ListedDataModule, write_listing
from mbgan.data.splits import check, merge_groups
from mbgan.labels import image_files
from mbgan.networks.dcgan import DCGANGenerator
from mbgan.runs import Run, sha256_of
from mbgan.saved import portable, read_config
from mbgan.studies.comparison import compare, results
from mbgan.studies.reader_answers import read_answers, read_key, seal_of, study_of
from mbgan.studies.run_table import read_run
from mbgan.studies.scoring import VERSION
from mbgan.sweeps import check_same_config, outcome
from mbgan.verbs import USER_ERRORS, conf_dir, one_line, register_resolvers
from mbgan.weights import fill, part_of, read_checkpoint

SETTINGS = {"z_dim": 4, "image_size": 16, "width": 4}
TOKENS = (
    *(b"null", b"{}", b"[]", b'""', b"-1", b"1e999", b"NaN", b"\\ud800", b"\xff\xfe", b"\x00"),
    *(b"[" * 3000, b"9" * 5000, b"true", b"0.5", b'"../../x"', b"${oc.env:HOME}", b"*a", b"&a "),
)
VALUES = (
    *(None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x", "../../x", "\ud800"),
    *("$\\frac{$", [], {}, [[]], [None], {"": None}, ["x", 1], {"value": "x"}, [1.0, 2.0, 3.0]),
)


class Reader(NamedTuple):
    """What is read: files below a folder, how, and how a forger makes their hashes anew."""

    paths: list[Path]
    read: Callable[[], Any]
    replace: Callable[[Path, random.Random], None] | None = None
    sign: Callable[[], None] = lambda: None


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to four changes."""
    for _ in range(rng.randint(1, 4)):
        a = rng.randrange(len(content) + 1)
        b = min(len(content), a + rng.choice((1, 1, 2, 8, 64, 4096)))
        content = rng.choice(
            (
                content[:a] + bytes(rng.randrange(256) for _ in content[a:b]) + content[b:],
                content[:a] + content[b:],
                content[:a] + content[a:b] * 2 + content[b:],
                content[:a] + rng.choice(TOKENS) + content[b:],
                content[:a],
                content[:a]
                + bytes([content[a] ^ 1 << rng.randrange(8)] * (a < len(content)))
                + content[a + 1 :]
                if a < len(content)
                else b"",
            )
        )
    return content


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a content with each of its keys."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(pairs):
        yield node, key
        if isinstance(value, dict | list):
            yield from places(value)


def altered(content: Any, rng: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """Return a content of which one or two parts were replaced, or taken out."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 2)):
        if found := list(places(content)):
            node, key = rng.choice(found)
            if isinstance(node, dict) and rng.random() < 0.2:
                del node[key]
            else:
                node[key] = copy.deepcopy(rng.choice(values))
    return content


def alter_json(path: Path, rng: random.Random) -> None:
    """Alter a JSON file, or a line of one that has one a line."""
    *lines, last = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    path.write_text("\n".join([*lines, json.dumps(altered(json.loads(last), rng))]) + "\n")


def alter_yaml(path: Path, rng: random.Random) -> None:
    """Alter a config."""
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    path.write_text(json.dumps(altered(content, rng)))  # JSON is YAML


def alter_checkpoint(path: Path, rng: random.Random) -> None:
    """Alter a checkpoint's content, or the pickle in it under a checksum that fits."""
    if rng.random() < 0.5:
        strange = (torch.zeros(0), torch.zeros(2, 2, dtype=torch.bool), torch.tensor(1j))
        torch.save(altered(torch.load(path, weights_only=True), rng, (*VALUES, *strange)), path)
        return
    with zipfile.ZipFile(path) as before:
        parts = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w") as after:
        for name, content in parts.items():
            after.writestr(name, mutated(content, rng) if "pkl" in name else content)


def alter_parquet(path: Path, rng: random.Random) -> None:
    """Alter a column, or values of one."""
    table = pd.read_parquet(path)
    column = rng.choice(list(table.columns))
    plain = [v for v in VALUES if not isinstance(v, dict | list) and v not in (10**30, "\ud800")]
    value = rng.choice(plain)
    if rng.random() < 0.5:
        table[column] = [value] * len(table)
    elif rng.random() < 0.5:
        table = table.drop(columns=column)
    else:
        table[column] = table[column].astype(str)
    try:
        table.to_parquet(path, index=False)
    except (ValueError, TypeError):  # a table that Parquet cannot hold is no input
        path.write_bytes(mutated(path.read_bytes(), rng))


def readers(root: Path) -> dict[str, Reader]:
    """Write right files of every kind below a folder, and return who reads them."""
    made = {}
    for make in (_run, _manifest, _checkpoint, _bundle, _study, _listing, _generated, _shard):
        made |= make(root / make.__name__)
    return made


def _run(folder: Path) -> dict[str, Reader]:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["model=dcgan", "run_dir=/runs/a", "data=folder", "data.root=/data"])
    run, kid = Run(folder), "kid/efficientnet_lite0"
    run.config.parent.mkdir(parents=True)
    run.config.write_text(OmegaConf.to_yaml(portable(cfg)))
    asked, chosen = (run.config.with_name(f"{name}.yaml") for name in ("asked", "hydra"))
    asked.write_text(OmegaConf.to_yaml(cfg))
    run.checkpoint("last").parent.mkdir()
    run.checkpoint("last").touch()
    chosen.write_text("hydra:\n  runtime:\n    choices:\n      model: dcgan\n      augment: none\n")
    data = {"sha256": "d" * 64, "n_train": 9, "n_held_out": 80, "magnification": "100x"}
    record = {"status": "done", "images_seen": 800, "best_images_seen": 800, "wall_s": 90.0}
    record |= {"parameters": {"generator": 9, "critic": 5}, "earlier": [{"wall_s": 5.0}]}
    run.status.write_text(json.dumps(record | {"data": data, "init_from": None}))
    rows = [{"images_seen": n, kid: 0.5, "n_real": 80, "extractor_sha256": "e"} for n in (0, 800)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    floor = {"n_each": 40, "splits": 20, "mean": 0.0, "range": [-0.004, 0.004]}
    entry = {"value": 0.25, "interval": [0.2, 0.3], "floor": floor, "p": 0.01}
    fakes = {"n_real": 80, "n_fake": 80, "scores": {kid: entry}}
    fakes["memorization"] = {"verdict": "fine", "share": 0.0, "rule": "x"}
    scores = {"version": VERSION, "checkpoint_sha256": "c", "images_seen": 800, "data_sha256": "d"}
    scores |= {"run": "/runs/a", "checkpoint": "best", "magnification": "100x"}
    scores |= {"extractor": "efficientnet_lite0", "extractor_sha256": "e", **fakes}
    run.scores().write_text(json.dumps(scores | {"by_condition": {"a": fakes}}))

    class Data:
        sha256, train, held_out = "d" * 64, (), ()

    def compared() -> None:
        found = [read_run(folder, "a", load)]
        compare(found)
        results(found)

    def of_status() -> None:
        compared()
        outcome(run)
        check_same_data(run, Data)  # type: ignore[arg-type]

    def of_metrics() -> None:
        compared()
        run.read_metrics()

    def of_config() -> None:
        compared()
        read_config(run.config)

    return {
        "run.json": Reader([run.status], of_status, alter_json),
        "metrics.jsonl": Reader([run.metrics], of_metrics, alter_json),
        "scores.json": Reader([run.scores()], lambda: (compared(), outcome(run)), alter_json),
        "config.yaml": Reader([run.config, chosen], of_config, alter_yaml),
        "asked.yaml": Reader([asked], lambda: check_same_config(run, cfg), alter_yaml),
    }


def _manifest(folder: Path) -> dict[str, Reader]:
    folder.mkdir()
    rows = []
    for i in range(6):
        row = dict.fromkeys(manifest.TEXTS, "x") | {"name": f"{i}.png", "image": f"images/{i}.png"}
        row |= {"patient": str(i // 2), "width": 9, "height": 9, "cluster": i, "conflict": False}
        row |= {"um_per_pixel": None, "verdict": "keep", "tile": "", "split": "train"}
        rows.append(row | dict.fromkeys(manifest.AFTER, 0.5))
    manifest.write(pd.DataFrame(rows), folder)

    def read() -> None:
        table = manifest.read(folder)
        check(merge_groups(table["patient"], table["cluster"], table["name"]), table["split"])
        manifest.image_files(table, folder)
        manifest.sha256(table)

    return {"manifest.parquet": Reader([folder / manifest.FILE], read, alter_parquet)}


def _checkpoint(folder: Path) -> dict[str, Reader]:
    folder.mkdir()
    path, generator = folder / "best.ckpt", DCGANGenerator(**SETTINGS)
    weights = {f"generator_ema.{name}": x for name, x in generator.state_dict().items()}
    counters = {"images_seen": 8, "critic_steps": 2}
    content = {"state_dict": weights, "counters": counters, "conditions": [], "epoch": 0}
    torch.save(content | {"critic_extractor": None}, path)

    def read() -> None:
        fill(generator, part_of(read_checkpoint(path), "generator_ema"), path)

    return {"checkpoint": Reader([path], read, alter_checkpoint)}


def _bundle(folder: Path) -> dict[str, Reader]:
    folder.mkdir()
    generator = DCGANGenerator(**SETTINGS)
    generator.condition_on(["a", "b"], seed=0)
    save_file(generator.state_dict(), folder / bundle.WEIGHTS)
    config = {"version": 1, "architecture": "mbgan.networks.dcgan.DCGANGenerator"}
    config |= {"settings": SETTINGS, "conditions": ["a", "b"], "jpeg_quality": None}
    config["origin"] = {"checkpoint": "best", "checkpoint_sha256": "0" * 64, "images_seen": 1}
    (folder / bundle.CONFIG).write_text(json.dumps(config))

    def sign() -> None:
        files = [folder / bundle.CONFIG, folder / bundle.WEIGHTS]
        sums = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
        (folder / bundle.SUMS).write_text(sums)

    sign()
    read = lambda: bundle.read_bundle(folder)  # noqa: E731
    return {
        "bundle: config.json": Reader([folder / bundle.CONFIG], read, alter_json, sign),
        "bundle: safetensors": Reader([folder / bundle.WEIGHTS], read, None, sign),
        "bundle: SHA256SUMS": Reader([folder / bundle.SUMS], read),
    }


def _study(folder: Path) -> dict[str, Reader]:
    folder.mkdir()
    names = [f"{i:016x}" for i in range(6)]
    known = {"source": "x.png", "class": "a", "patient": None}
    images = {n: known | {"truth": ("real", "synthetic")[i % 2]} for i, n in enumerate(names)}
    key: dict[str, Any] = {"version": 1, "secret": "s", "classes": [], "trials": names}
    key |= {"images": images, "seed": "0", "image_size": 16, "confidence": []}
    key["study"] = study_of(key)
    rows = [
        {"trial": i, "image": n, "answer": "real", "confidence": 2, "class": None}
        | {"note": "", "ms": 9, "at": "x"}
        for i, n in enumerate(names)
    ]
    answers: dict[str, Any] = {"version": 1, "study": key["study"], "reader": "r", "session": "s"}
    answers["answers"] = rows
    answers["seal"] = seal_of(answers)
    key_path, path = folder / "key.json", folder / "answers.json"
    key_path.write_text(json.dumps(key))
    path.write_text(json.dumps(answers))

    def seal() -> None:
        try:
            content = json.loads(path.read_text())
            path.write_text(json.dumps(content | {"seal": seal_of(content)}))
        except (ValueError, TypeError, KeyError, RecursionError):  # no JSON any more
            pass

    def name() -> None:
        try:
            content = json.loads(key_path.read_text())
            key_path.write_text(json.dumps(content | {"study": study_of(content)}))
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass

    read = lambda: read_answers([path], read_key(key_path))  # noqa: E731
    return {
        "reader answers": Reader([path], read, alter_json, seal),
        "reader key": Reader([key_path], read, alter_json, name),
    }


def _listing(folder: Path) -> dict[str, Reader]:
    files = []
    for i in range(3):
        path = folder / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(path)
        files.append(ImageFile(path, path.name, "100x", "a", None))
    write_listing(folder / "images.json", files[:2], files[2:])

    def read() -> None:
        settings = {"root": folder, "magnification": "100x", "image_size": 16, "batch_size": 1}
        ListedDataModule(folder / "images.json", cache_dir=folder / "cache", **settings).read()

    return {"listing": Reader([folder / "images.json"], read, alter_json)}


def _generated(folder: Path) -> dict[str, Reader]:
    folder.mkdir()
    row = {"file": "0.png", "synthetic": True, "index": 0, "rejected": None}
    (folder / "manifest.jsonl").write_text((json.dumps(row) + "\n") * 3)
    (folder / "settings.json").write_text(json.dumps(settings := {"seed": 0, "format": "png"}))

    def read() -> None:
        production._check_folder(folder, settings)
        Counter(reason for _, reason in production._rows(folder / "manifest.jsonl"))

    paths = [folder / "manifest.jsonl", folder / "settings.json"]
    return {"generated images": Reader(paths, read, alter_json)}


def _shard(folder: Path) -> dict[str, Reader]:
    folder.mkdir()
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 100
            tar.addfile(info, io.BytesIO(bytes(100)))
    return {"shard": Reader([folder / "shard.tar"], lambda: list(image_files(folder)))}


def fuzz(reader: Reader, n: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Return how often a reader returned and refused, and the tracebacks otherwise."""
    before = {path: path.read_bytes() for path in reader.paths}
    reader.read()  # right files are read
    rng, counts, found = random.Random(seed), Counter[str](), list[str]()
    for _ in range(n):
        path = rng.choice(reader.paths)
        if reader.replace is not None and rng.random() < 0.6:
            reader.replace(path, rng)
        else:
            path.write_bytes(mutated(before[path], rng))
        reader.sign()
        try:
            reader.read()
            counts["read"] += 1
        except USER_ERRORS as error:
            counts["refused"] += 1
            if "\n" in one_line(error):
                found.append(f"more than one line: {error!r}")
        except Exception:
            found.append(traceback.format_exc())
        for path, content in before.items():
            path.write_bytes(content)
        reader.sign()
    counts["tracebacks"] = len(found)
    return counts, found


def measure(name: str, n: int) -> tuple[list[Any], list[str]]:
    """Return a reader's row of the table, and some of its tracebacks."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        counts, found = fuzz(readers(Path(folder))[name], n, seed=0)
    row = [name, n, *(counts[key] for key in ("read", "refused", "tracebacks"))]
    print(*row, *sorted(set(found))[:3], sep="\n", flush=True)
    return row, found


def main() -> None:
    """Write a table of readers, inputs and what became of them."""
    n, out = int(sys.argv[1]), Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        names = list(readers(Path(folder)))
    with ProcessPoolExecutor(5, get_context("fork")) as pool:
        rows = [row for row, _ in pool.map(measure, names, [n] * len(names))]
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["reader", "inputs", "read", "refused", "tracebacks"], *rows])
    sys.exit(any(row[-1] for row in rows))


if __name__ == "__main__":
    main()
