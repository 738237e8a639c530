"""Look this machine over, with what to do about each finding: python -m mbgan.doctor."""

import logging
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mbgan.verbs import FAILED, USER_ERRORS, one_line, verb

if TYPE_CHECKING:
    from mbgan.studies.checkup import Finding

log = logging.getLogger(__name__)


@verb("doctor")
def main(cfg: DictConfig) -> None:
    """Print a table of findings, ready for an issue; the exit code is 1 if one is in trouble."""
    import json
    import sys
    from collections import Counter
    from dataclasses import asdict
    from pathlib import Path

    from hydra import compose
    from rich.console import Console

    from mbgan.assembly import pick_precision
    from mbgan.callbacks.wandb import mode
    from mbgan.runs import write_text
    from mbgan.studies import checkup

    train = compose("train", overrides=list(cfg.train))
    limits: dict[str, Any] = {k: cfg[k] for k in ("write_mb", "slow_mb_per_s", "min_free_gb")}
    cache = Path(cfg.cache_dir).expanduser().absolute()
    log.info("looking, and training for %g s", cfg.seconds)
    findings = [
        check_mbgan(),
        checkup.check_packages(),
        checkup.check_extras(),
        checkup.check_device(),
        checkup.check_precision(pick_precision(train.trainer)),
        checkup.check_extractors(),
        checkup.check_wandb(mode()),
        checkup.check_folder("run folders", Path.cwd(), "hydra.run.dir=DIR", **limits),
        checkup.check_folder("cache", cache, "cache_dir=DIR (or MBGAN_CACHE=DIR)", **limits),
        check_training(train, cfg.seconds),
    ]
    console = Console()
    console.width = max(100, console.width)  # of a pipe it is 80
    console.print(checkup.table(findings))
    if cfg.out is not None:
        content = {"findings": [asdict(finding) for finding in findings]}
        write_text(Path(cfg.out).expanduser(), json.dumps(content, indent=2) + "\n")
    n = Counter(finding.state for finding in findings)
    console.print(f"{n['ok']} ok, {n['notice']} to notice, {n['trouble']} in trouble")
    if n["trouble"]:
        sys.exit(FAILED)


def check_mbgan() -> "Finding":
    """Tell which mbgan this is."""
    from importlib.metadata import version

    from mbgan.callbacks.provenance import git_state
    from mbgan.studies.checkup import Finding, about

    git, seen = git_state(), f"{version('mbgan')}; {about()}"
    if git is None:
        return Finding("mbgan", "ok", f"{seen}; installed, no checkout")
    seen = f"{seen}; commit {git['commit'][:12]}"
    if git["clean"]:
        return Finding("mbgan", "ok", seen)
    advice = "commit your changes, so that a run's record tells what made it"
    return Finding("mbgan", "notice", f"{seen}, changed since", advice)


def check_training(train: DictConfig, seconds: float) -> "Finding":
    """Train for some seconds on a few drawn images, in a folder that is removed again."""
    from tempfile import TemporaryDirectory

    from mbgan.assembly import quiet_libraries, time_training
    from mbgan.studies.checkup import Finding

    quiet_libraries()
    logging.getLogger("mbgan").setLevel(logging.ERROR)  # of such a training nothing else is told
    try:
        with TemporaryDirectory() as scratch:
            train.run_dir = train.cache_dir = scratch
            speed = time_training(train, seconds)
    except (*USER_ERRORS, RuntimeError) as error:  # of CUDA, among others
        advice = "mend what is in trouble above; if nothing is, open an issue with this table"
        return Finding("training", "trouble", one_line(error), advice)
    finally:
        logging.getLogger("mbgan").setLevel(logging.NOTSET)
    size = f"{train.image_size} px, batch {speed['batch_size']}"
    seen = f"{speed['images_per_s']:.0f} images/s in {speed['steps_timed']} steps ({size}), "
    return Finding("training", "ok", seen + speed["device"])


if __name__ == "__main__":
    main()
