"""Do synthetic images help a classifier? python -m mbgan.utility data.root=DIR."""

import json
import logging
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mbgan.documents import check_kinds, read_object
from mbgan.runs import Run, write_text
from mbgan.sweeps import outcome, train_job
from mbgan.verbs import verb

if TYPE_CHECKING:  # heavy imports wait until --help had its chance
    from mbgan.data.folder import ImageFile
    from mbgan.networks import Generator
    from mbgan.studies.utility_folds import Fold, Material

log = logging.getLogger(__name__)
# What may change when a study goes on: it adds folds, or says where things are.
FREE = ("out", "cache_dir", "n_repeats", "train_shares")


@verb("utility")
def main(cfg: DictConfig) -> None:
    """Train classifiers on real, synthetic, both and classically augmented images, and compare."""
    import torch
    from hydra.utils import instantiate

    from mbgan.assembly import quiet_libraries
    from mbgan.studies import utility_report as report
    from mbgan.studies.arms import arms_of, wanted
    from mbgan.studies.utility_folds import material, plan

    quiet_libraries()
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    built = instantiate(deepcopy(cfg), _convert_="all")  # it writes into the config it is given
    arms, classifiers = arms_of(built["ratios"]), built["classifiers"]
    if not classifiers:
        raise ValueError("classifiers must be at least one, got none")
    found, _ = built["data"].read()
    images = material(found)
    wanted(images.labels, 1, cfg.balance)  # refuses what it does not know before hours of training
    folds = plan(
        images,
        n_folds=cfg.n_folds,
        n_repeats=cfg.n_repeats,
        n_inner=cfg.n_inner,
        shares=built["train_shares"],
        seed=cfg.seed,
    )
    if cfg.generator is not None:
        load_given(cfg, images, folds)  # refused before anything is done
    out = Path(cfg.out).expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    with Run(out).alone():
        check_same_study(out, settings, images.sha256)
        log.info("%s; %d folds in %s", images.summary, len(folds), out)
        seen: dict[str, torch.Tensor] = {}
        results = []
        for i, fold in enumerate(folds):
            path = out / "folds" / fold.name / "result.json"
            if not path.is_file():
                log.info("%s (%d of %d)", fold.name, i + 1, len(folds))
                for name in classifiers.keys() - seen.keys():
                    seen[name] = classifiers[name].look(torch.tensor(images.pixels))
                generator, origin = generator_of_fold(cfg, images, fold, path.parent)
                result = measure_fold(built, images, fold, arms, seen, generator)
                write_text(path, json.dumps(result | {"generator": origin}, indent=1) + "\n")
            results.append(read_object(path, "fold", "rows"))
        summary = report.write(results, settings, images, out)
    log.info("%s", report.table(summary))
    log.info("utility.html, utility.csv, utility.json and figures/ in %s", out)


def check_same_study(out: Path, settings: dict[str, Any], sha256: str) -> None:
    """Refuse to go on with a study of other settings or images; begin one in a new folder.

    Raises:
        ValueError: if they are others.
    """
    path, now = out / "settings.json", {k: v for k, v in settings.items() if k not in FREE}
    now["data"] = {"sha256": sha256}  # not its root: images may have moved
    now = json.loads(json.dumps(now | {"cache_dir": None}))
    for classifier in now["classifiers"].values():
        classifier.pop("cache_dir", None)
    if not path.is_file():
        write_text(path, json.dumps(now, indent=1) + "\n")
        return
    then = read_object(path)
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            raise ValueError(
                f"{key} must be as when {out} was begun, {then.get(key)}, got {now.get(key)}; "
                "name another out, or remove that folder"
            )


def generator_of_fold(
    cfg: DictConfig, images: "Material", fold: "Fold", folder: Path
) -> tuple["Generator", dict[str, Any]]:
    """Return a generator that saw nothing of what tests it, and where it came from.

    The one that was given; else one that is trained on the images that fit, in a process of its
    own, and goes on where it was cut off. Those that tune only say how far it came; the last
    checkpoint is taken, so that they pick nothing.

    Raises:
        ValueError: if its training failed, or it has seen test images.
    """
    if cfg.generator is not None:
        return load_given(cfg, images, [fold])
    from mbgan.assembly import load_generator
    from mbgan.studies.utility_folds import check_unseen

    run = Run(folder / "gan")
    if outcome(run).get("status") != "done":
        train_job(training(cfg, images, fold, folder, run), run)
    check_unseen(images, [fold], seen_by(run), str(run.folder))
    return load_generator(run, "last")


def training(
    cfg: DictConfig, images: "Material", fold: "Fold", folder: Path, run: Run
) -> DictConfig:
    """Return the config of mbgan.train for the generator of a fold, and list its images."""
    import hydra

    from mbgan.data.listing import write_listing

    fit, val = ([images.files[i] for i in places] for places in (fold.fit, fold.val))
    listing = folder / "images.json"
    write_listing(listing, fit, val)
    words = [
        *(f"model={cfg.gan.model}", "model.condition=class", "data=folder", "data.root=."),
        *("metrics.max_images=100", "full_metrics=null", f"seed={cfg.seed}"),
        *("extractor=efficientnet_lite2", f"image_size={cfg.image_size}"),
        *(f"total_images={cfg.gan.total_images}", f"eval_every={cfg.gan.total_images}"),
        *(f"batch_size={cfg.gan.batch_size}", *cfg.gan.also),
    ]
    made = hydra.compose("train", words)
    with open_dict(made):
        kept = (
            "magnification image_size batch_size d4 transforms num_workers cache_dir condition seed"
        )
        data = OmegaConf.to_container(made.data, resolve=False)
        assert isinstance(data, dict), "it is a mapping"
        made.cache_dir, made.magnification = cfg.cache_dir, cfg.magnification
        made.data = {
            "_target_": "mbgan.data.listing.ListedDataModule",
            "root": str(cfg.data.root if isinstance(cfg.data.root, str) else folder),
            "listing": str(listing),
            **{key: data[key] for key in kept.split()},
        }
    return made


def seen_by(run: Run, after: tuple[Path, ...] = ()) -> list["ImageFile"]:
    """Return all images that a run's generator, or the run it began with, learned from.

    Those that picked its best checkpoint are among them.

    Args:
        run: whose generator it is.
        after: the runs that began with it.

    Raises:
        ValueError: if they are not there as they were, or runs began with each other: nobody could
            say what it saw.
    """
    from mbgan.assembly import load_data

    data = load_data(run)
    seen = [*data.train_files, *data.held_out_files]
    record = read_object(run.status)
    check_kinds(record, {"init_from": dict | None}, run.status)
    if not (before := record.get("init_from")):
        return seen
    if run.folder in after or not isinstance(before.get("run"), str):
        raise ValueError(f"{run.status} must name the run that it began with, got {before}")
    return seen + seen_by(Run(before["run"]), (*after, run.folder))


def load_given(
    cfg: DictConfig, images: "Material", folds: list["Fold"]
) -> tuple["Generator", dict[str, Any]]:
    """Return the generator that the user gave, and where it came from.

    Raises:
        ValueError: if it has seen test images, or does not draw images of these classes and size.
    """
    from mbgan.assembly import load_generator
    from mbgan.studies.utility_folds import check_unseen

    run = Run(Path(cfg.generator).expanduser())
    generator, origin = load_generator(run, cfg.checkpoint)
    check_unseen(images, folds, seen_by(run), str(run.folder))
    if generator.image_size != cfg.image_size:
        raise ValueError(
            f"image_size must be the generator's, {generator.image_size}, got {cfg.image_size}"
        )
    for name in images.classes:
        generator.matching(name, None)
    return generator, origin


def measure_fold(
    built: dict[str, Any],
    images: "Material",
    fold: "Fold",
    arms: list[Any],
    seen: dict[str, Any],
    generator: "Generator",
) -> dict[str, Any]:
    """Return the scores of all arms in a fold, and how their extra images came about."""
    import torch

    from mbgan.latents import seed_of
    from mbgan.studies import arms as sets

    generator.to("cuda" if torch.cuda.is_available() else "cpu")
    fit, labels = images.pixels[fold.fit], images.labels[fold.fit]
    balance, most = built["balance"], max(arm.ratio for arm in arms)
    counts = sets.wanted(labels, most, balance)
    magnification = (
        None if len(generator.conditions) == len(images.classes) else (built["magnification"])
    )
    conditions = [generator.matching(name, magnification) for name in images.classes]
    accept = None
    if built["reject_copies"]:
        accept = sets.no_copies(built["extractor"], torch.from_numpy(fit))
    seed = seed_of(built["seed"], "utility", fold.repeat, fold.number)
    transforms = list((built["transforms"] or {}).values())
    pools = {
        "synthetic": sets.synthetic(generator, conditions, counts, seed, accept),
        "classical": sets.classical(fit, labels, counts, transforms, seed),
    }
    rows = sets.measure(
        arms, built["classifiers"], seen, images.labels, fold, pools, balance, images.classes, seed
    )
    rejected = dict(zip(images.classes, pools["synthetic"].rejected, strict=True))
    return {"fold": fold.name, "n_fit": len(fold.fit), "rejected": rejected, "rows": rows}


if __name__ == "__main__":
    main()
