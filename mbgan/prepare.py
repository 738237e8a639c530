"""Check, split and describe a folder of images: python -m mbgan.prepare data.root=DIR out=DIR."""

import logging
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from mbgan.verbs import one_line, verb

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from mbgan.data.folder import Scan
    from mbgan.data.quality import Check
    from mbgan.studies.card_summary import Facts, Forecast, Speed

log = logging.getLogger(__name__)

MAX_SCORED = 1000  # images of a magnification whose halves are compared, so that it takes a minute
COMPARISONS = 200
UNSAID = ("data", "cache_dir", "out", "workers")  # settings that change nothing in the result


@verb("prepare")
def main(cfg: DictConfig) -> None:
    """Write a prepared folder: images, manifest.parquet, card.html and card.json."""
    from hydra.utils import instantiate

    from mbgan.data.decode import UnreadableImage, read_image
    from mbgan.data.folder import scan
    from mbgan.data.preparation import Preparation
    from mbgan.data.rendering import cut
    from mbgan.data.verdicts import DuplicateRules
    from mbgan.studies.card import write_card

    out = Path(cfg.out).expanduser().absolute()
    training = training_config(cfg, out) if cfg.forecast else None
    checks = instantiate(cfg.checks, _convert_="all")  # those set to null are left out
    preparation = Preparation(
        out,
        cfg.image_size,
        instantiate(cfg.fields),
        {name: check for name, check in checks.items() if check},
        DuplicateRules(**cfg.duplicates),
        instantiate(cfg.stain.normalizer),
        Path(cfg.stain.target).expanduser() if cfg.stain.target else None,
        {"val": cfg.split.val, "test": cfg.split.test},
        cfg.split.seed,
        cfg.workers,
    )
    naming = instantiate(cfg.naming)
    root = cfg.data.root if isinstance(cfg.data.root, str) else instantiate(cfg.data.root)
    root = Path(root).expanduser().absolute()
    check_apart(root, out)
    found = scan(root, naming)
    if not found.files:
        raise FileNotFoundError(f"no images under {root}; set data.root=DIR to your images")
    table = preparation.run(found)
    log.info("%s", summary(table))
    paths = {file.name: file.path for file in found.files}

    def original(name: str, tile: str) -> "Image.Image | None":
        try:
            return cut(read_image(paths[name]).rgb, tile)
        except UnreadableImage:
            return None

    forecasts = forecast(training, cfg, table, out) if training else {}
    write_card(out, table, facts(cfg, table, found, preparation.checks, forecasts, root), original)
    kept = table[table["image"] != ""]
    magnification = kept["magnification"].value_counts().index[0]
    log.info("what you have: %s", out / "card.html")
    log.info(
        "train on it: python -m mbgan.train data=prepared data.root=%s magnification=%s "
        "image_size=%d",
        *(out, magnification, trainable_size(cfg)),
    )


def check_apart(root: Path, out: Path) -> None:
    """Refuse to prepare a folder into itself, or into a folder of somebody's files.

    Raises:
        ValueError: if one lies in the other.
        FileExistsError: if out holds anything but an earlier preparation.
    """
    a, b = root.resolve(), out.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise ValueError(f"out must lie outside data.root {root}, got {out}; set out=DIR")
    if out.is_dir() and any(out.iterdir()) and not (out / "journal.sqlite").is_file():
        raise FileExistsError(
            f"out must be a new or empty folder, or one that mbgan.prepare made, got {out}; "
            "set out=DIR"
        )


def summary(table: "pd.DataFrame") -> str:
    """Return what became of the images, as lines for the terminal."""
    lines = [
        f"{len(table)} images, of {table['patient'].nunique() or 'unknown'} patients",
        f"{'magnification, class':34} {'found':>7} {'kept':>7} {'train':>7} {'val':>7} {'test':>7}",
    ]
    for (magnification, label), rows in table.groupby(["magnification", "class"]):
        numbers = [len(rows), (rows["verdict"] != "drop").sum()]
        numbers += [(rows["split"] == split).sum() for split in ("train", "val", "test")]
        name = f"{magnification or 'unknown'}, {label}"
        lines.append(f"{name:34} " + " ".join(f"{n:7d}" for n in numbers))
    marked = Counter[tuple[str, str]]()
    for verdict, text in zip(table["verdict"], table["reasons"], strict=True):
        marked[verdict, text.split(" (")[0]] += bool(text)
    for (verdict, check), n in sorted(marked.items()):
        if n:
            fate = "dropped" if verdict == "drop" else "kept with a warning"
            lines.append(f"{n} {fate}: {check}")
    unplaced = table["name"][table["magnification"] == ""]
    if len(unplaced):
        lines.append(
            f"{len(unplaced)} could not be placed, such as {unplaced.iloc[0]!r}: tell their "
            "magnification by naming.magnification=100x, 'naming.magnifications={FOLDER: 100x}' or "
            "naming.magnification_pattern"
        )
    return "\n".join(lines)


def trainable_size(cfg: DictConfig) -> int:
    """Return the largest image size that a training on the prepared images can have."""
    return min(256, 2 ** (int(cfg.image_size).bit_length() - 1))


def training_config(cfg: DictConfig, out: Path) -> DictConfig:
    """Return the config of the training that the forecast is about."""
    from hydra import compose

    train = compose("train", overrides=[*cfg.forecast_train, "data=prepared"])
    train.run_dir, train.data.root = str(out), str(out)
    train.image_size = min(train.image_size, trainable_size(cfg))
    return train


def forecast(
    train: DictConfig, cfg: DictConfig, table: "pd.DataFrame", out: Path
) -> "dict[str, Forecast | str]":
    """Return for each magnification what its images suffice for, or why that is not known."""
    import numpy as np
    import torch
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    from mbgan.assembly import quiet_libraries, time_training
    from mbgan.metrics.floor import real_vs_real, smallest_difference

    quiet_libraries()
    extractor = instantiate(cfg.extractor)
    speeds, forecasts = list["Speed"](), dict[str, "Forecast | str"]()
    for magnification, rows in table[table["image"] != ""].groupby("magnification"):
        train.magnification = magnification
        try:
            images, sides = instantiate(train.data, image_size=cfg.image_size).read()
            if not speeds:  # the same at every magnification
                log.info("timing a few steps of the training at %d px", train.image_size)
                speeds.append(time_training(train))
        except (ValueError, HydraException) as error:  # too few images, or too small for the model
            forecasts[magnification] = one_line(error)
            log.warning("%s: no forecast: %s", magnification, one_line(error))
            continue
        log.info("%s: scoring real images against real ones", magnification)
        some = np.random.default_rng(0).permutation(len(images.files))[:MAX_SCORED]
        group_of = dict(zip(rows["image"], rows["group"], strict=True))
        groups = [group_of[images.files[i].path.relative_to(out).as_posix()] for i in some]
        features = extractor.extract(torch.from_numpy(images.images[some])).features
        n_each = min(len(sides["test"]), len(some) // 2)
        kids = real_vs_real(features, groups, n_each, COMPARISONS)
        if len(kids) < 2:
            forecasts[magnification] = "its images are of one patient, or too few to compare halves"
            continue
        forecasts[magnification] = {
            "n_train": len(sides["train"]),
            "n_held_out": len(sides["test"]),
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "n_each": n_each,
            "comparisons": len(kids),
            "unit": "patient" if rows["patient"].notna().all() else "duplicate cluster",
            "kid_floor": float(np.mean(kids)),
            "kid_floor_range": tuple(np.percentile(kids, [2.5, 97.5]).tolist()),
            "smallest_difference": smallest_difference(kids),
            "total_images": train.total_images,
            "speeds": speeds,
        }
    return forecasts


def facts(
    cfg: DictConfig,
    table: "pd.DataFrame",
    found: "Scan",
    checks: Mapping[str, "Check"],
    forecasts: Mapping[str, "Forecast | str"],
    root: Path,
) -> "Facts":
    """Return what the card tells beyond the manifest: `mbgan.studies.card_summary.Facts`."""
    from mbgan.data import manifest
    from mbgan.studies.card_summary import CheckRule

    rules: dict[str, CheckRule] = {
        "unreadable": {"rule": "no image can be decoded", "verdict": "drop"},
        "no_magnification": {"rule": "the path tells no magnification", "verdict": "drop"},
        **{name: {"rule": check.rule, "verdict": check.verdict} for name, check in checks.items()},
        "duplicate": {"rule": "the pixels of another image", "verdict": cfg.duplicates.exact},
        "near_duplicate": {"rule": "nearly another image", "verdict": cfg.duplicates.near},
        "label_conflict": {
            "rule": "a duplicate has another class or magnification",
            "verdict": cfg.duplicates.conflict,
        },
        "unnormalized": {"rule": "the stain cannot be normalized", "verdict": "warn"},
    }
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict), "a config is a mapping"
    return {
        "root": str(root),
        "settings": {str(key): value for key, value in settings.items() if key not in UNSAID},
        "data_sha256": manifest.sha256(table),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("mbgan", "pillow", "numpy", "torchstain", "imagehash")},
        "license": cfg.license,
        "checks": rules,
        "ignored": found.ignored,
        "unreadable_folders": found.closed,
        "forecast": forecasts,
    }


if __name__ == "__main__":
    main()
