"""A generator to hand on, read and run without the rest of mbgan: python -m mbgan.bundle DIR n=16.

Needs torch, safetensors, numpy and Pillow alone. Nothing in a bundle is run: weights are plain
tensors, and the config names an architecture of this package.
"""

import importlib
import inspect
import logging
import pkgutil
import sys
from pathlib import Path
from typing import Any

from mbgan import networks
from mbgan.documents import check_kinds, read_object
from mbgan.networks import Generator
from mbgan.production import Order, produce
from mbgan.runs import sha256_of

VERSION = 1
MAX_SUMS = 100_000  # bytes; ours have 500
MAX_SETTING = 4096  # of an architecture: the widest of ours has 512
KEYS = {  # of config.json, with their kinds
    "version": int,
    "architecture": str,
    "settings": dict,
    "conditions": list,
    "conditions.*": str,
    "jpeg_quality": int | None,
    "origin.checkpoint_sha256": str,
}
WEIGHTS, CONFIG, SUMS = "generator.safetensors", "config.json", "SHA256SUMS"


def check_sums(folder: Path) -> str:
    """Check every file of a bundle against SHA256SUMS, and return the hash of that list.

    Raises:
        FileNotFoundError: if this is no bundle, or a file is missing.
        ValueError: if a file is not what it was, or is not in the list.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise FileNotFoundError(
            f"bundle must be a folder that mbgan.export made (with {SUMS}), got {folder}"
        )
    if sums.stat().st_size > MAX_SUMS:
        raise ValueError(f"{sums} must have at most {MAX_SUMS} bytes; get the bundle again")
    lines = [line.split("  ", 1) for line in sums.read_text("utf-8", "replace").splitlines()]
    if any(len(line) != 2 for line in lines):
        raise ValueError(f"{sums} has a line that is no hash and name; get the bundle again")
    listed = {name: digest for digest, name in lines}
    inside = list(folder.rglob("*"))
    for path in inside:  # a link leads out of the folder, and a pipe never ends
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{folder} must hold plain files only, got {path.name}; take it out")
    there = {p.relative_to(folder).as_posix() for p in inside if not p.is_dir()}
    if strange := sorted(there - set(listed) - {SUMS}):
        raise ValueError(f"{folder} holds {strange[0]}, which is not in {SUMS}; take it out")
    for name in (WEIGHTS, CONFIG):
        if name not in listed:
            raise ValueError(f"{sums} must list {name}; get the bundle again")
    for name, digest in listed.items():
        if name not in there:
            raise FileNotFoundError(f"{folder} must hold {name}; get the bundle again")
        if sha256_of(folder / name) != digest:
            raise ValueError(f"{folder / name} was changed since mbgan.export; get it again")
    return sha256_of(sums)


def architecture(name: str, settings: dict[str, Any]) -> Generator:
    """Return a generator of an architecture of this package.

    Raises:
        ValueError: if there is no such one, or it has other settings.
    """
    package, _, inside = name.rpartition("networks.")
    module, _, kind = inside.partition(".")
    own = {found.name for found in pkgutil.iter_modules(networks.__path__)}
    if package != "mbgan." or module not in own:
        raise ValueError(f"the architecture must be one of mbgan.networks, got {name}")
    make = getattr(importlib.import_module(f"mbgan.networks.{module}"), kind, None)
    if not (isinstance(make, type) and issubclass(make, Generator)):
        raise ValueError(f"the architecture must be a generator, got {name}")
    strange = sorted(set(settings) - set(inspect.signature(make).parameters))
    numbers = all(type(x) in (int, float) and 0 <= x <= MAX_SETTING for x in settings.values())
    if strange or not numbers:
        raise ValueError(
            f"settings of {name} must be its own, and numbers up to {MAX_SETTING}, got {settings}"
        )
    try:
        generator: Generator = make(**settings)
    except (TypeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"settings of {name} must fit together, got {settings}: {error}") from None
    return generator


def read_bundle(folder: Path) -> tuple[Generator, dict[str, Any], dict[str, Any]]:
    """Return a bundle's generator in eval mode, where it came from, and its config.

    Raises:
        FileNotFoundError: if this is no bundle, or a file is missing.
        ValueError: if it was changed, is of a newer version, or holds something else than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    digest = check_sums(folder)
    config = read_object(folder / CONFIG, *(key for key in KEYS if "*" not in key))
    check_kinds(config, KEYS, folder / CONFIG)
    conditions = config["conditions"]
    if config["version"] != VERSION:
        raise ValueError(
            f"{folder} must be a bundle of version {VERSION}, got {config['version']}; update mbgan"
        )
    generator = architecture(config["architecture"], config["settings"])
    if conditions:
        generator.condition_on(conditions, seed=0)  # its weights follow
    try:
        generator.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder / WEIGHTS} must hold the generator, got: {reason}") from None
    return generator.eval(), {**config["origin"], "bundle_sha256": digest}, config


def main() -> None:
    """Write n images of a bundle: the settings are those of mbgan.generate, by the same names."""
    known: dict[str, Any] = {
        "n": 64,
        "out": "generated",
        "class": None,
        "magnification": None,
        "seed": 0,
        "truncation": 1.0,
        "format": "png",
        "quality": None,
        "shard_size": None,
        "devices": 1,
        "watermark": "mbgan",
    }
    usage = "usage: python -m mbgan.bundle DIR " + " ".join(f"{k}={v}" for k, v in known.items())
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv):
        print(usage)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for word in sys.argv[2:]:
        key, _, value = word.partition("=")
        if key not in known:
            print(f"error: no setting is called {key!r}\n{usage}", file=sys.stderr)
            sys.exit(2)
        try:
            known[key] = None if value == "null" else type(known[key] or "")(value)
            if key in ("quality", "shard_size") and known[key] is not None:
                known[key] = int(value)
        except ValueError:
            print(f"error: {key} must be a number, got {value!r}", file=sys.stderr)
            sys.exit(2)
    try:
        generate_from(Path(sys.argv[1]), known)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def generate_from(folder: Path, wanted: dict[str, Any]) -> None:
    """Write images of a bundle, as `wanted` by the names of mbgan.generate.

    Raises:
        ValueError: if the bundle or a setting is not as it must be.
    """
    generator, origin, config = read_bundle(folder)
    order = Order(
        n=wanted["n"],
        seed=wanted["seed"],
        conditions=generator.matching(wanted["class"], wanted["magnification"]),
        truncation=wanted["truncation"],
        kind=wanted["format"],
        quality=wanted["quality"] or config["jpeg_quality"] or 95,
        shard_size=wanted["shard_size"],
        key=wanted["watermark"],
        origin=origin,
        judged={},
    )
    produce(generator, order, Path(wanted["out"]).expanduser(), wanted["devices"])
    logging.getLogger(__name__).info("images and manifest.jsonl in %s", wanted["out"])


if __name__ == "__main__":
    main()
