"""A blinded real-or-synthetic study: python -m mbgan.reader_study run=RUN, then score=[ANSWERS]."""

import json
import logging
import secrets
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("reader_study")
def main(cfg: DictConfig) -> None:
    """Write a study's page and key, or score what its readers answered."""
    from mbgan.studies.reader_report import plan

    given = [key for key in ("run", "real", "fake", "score") if cfg[key] is not None]
    if sorted(given) not in ([] if cfg.plan else None, ["run"], ["fake", "real"], ["score"]):
        raise ValueError(
            "reader_study needs run=RUN, or real=DIR fake=DIR, or score=[ANSWERS] key=FILE, or "
            f"plan=true, got {', '.join(given) or 'none of them'}"
        )
    if given == ["score"]:
        score(cfg)
        return
    lines = plan(cfg.accuracy, cfg.power, cfg.n)
    if given:
        build_study(cfg)
    for line in lines:
        log.info("%s", line)


def build_study(cfg: DictConfig) -> None:
    """Write study.html and key.json.

    Raises:
        FileExistsError: if a study is there already: without its key, its answers are lost.
    """
    from hydra.utils import instantiate

    from mbgan.assembly import load_data, load_generator, quiet_libraries
    from mbgan.runs import Run, write_text
    from mbgan.studies.reader_page import Design, build, sides_of_folders, sides_of_run

    out = Path(cfg.out).expanduser()
    for name in ("key.json", "study.html"):
        if (out / name).exists():
            raise FileExistsError(
                f"out must be a folder without a study, got {out} with {name}; set out=DIR"
            )
    quiet_libraries()
    seed = secrets.token_hex(16) if cfg.seed is None else str(cfg.seed)
    classes = [str(name) for name in cfg.classes]
    design = Design(cfg.n, cfg.repeats, classes, cfg.encoding, cfg.quality, seed)
    if cfg.run is not None:
        run = Run(Path(cfg.run).expanduser())
        run.require(checkpoint=cfg.checkpoint)
        generator = load_generator(run, cfg.checkpoint)
        real, fake = sides_of_run(*generator, load_data(run), cfg.image_size, design)
    else:
        folders = {"real": cfg.real, "fake": cfg.fake}
        naming = instantiate(cfg.naming)
        settings = (cfg.magnification, cfg.image_size, naming, cfg.cache_dir)
        real, fake = sides_of_folders(folders, *settings, design)
    page, key = build(real, fake, design)
    write_text(out / "key.json", json.dumps(key, indent=1) + "\n")  # never a page without its key
    write_text(out / "study.html", page)
    log.info(
        "%d images, %d of them twice, in %s (%.1f MB): for the readers; it shows real images",
        *(cfg.n, cfg.repeats, out / "study.html", len(page) / 1e6),
    )
    log.info("which are real is in %s: keep it from the readers", out / "key.json")
    log.info("then: python -m mbgan.reader_study score=[ANSWERS] out=%s", out)


def score(cfg: DictConfig) -> None:
    """Write and print what the readers' answers say."""
    from mbgan.studies import reader_report
    from mbgan.studies.reader_answers import read_answers, read_key
    from mbgan.studies.reader_scores import score_readers

    paths = list(cfg.score) if isinstance(cfg.score, ListConfig) else [cfg.score]
    if not paths:
        raise ValueError("score must name at least one answer file, got an empty list")
    key_file, out = Path(cfg.key).expanduser(), Path(cfg.out).expanduser()
    key = read_key(key_file)
    answers = read_answers([Path(str(path)).expanduser() for path in paths], key)
    result = score_readers(key, answers)
    reader_report.write(result, out, key_file.with_name("study.html"))
    log.info("%s", reader_report.table(result))
    log.info("report.html, scores.json, readers.csv, images.csv in %s", out)


if __name__ == "__main__":
    main()
