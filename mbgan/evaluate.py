"""Score a run against its held-out images: python -m mbgan.evaluate run=RUN."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("evaluate")
def main(cfg: DictConfig) -> None:
    """Write scores.json into the run folder and print it as a table."""
    from hydra.utils import instantiate

    from mbgan.assembly import load_data, score
    from mbgan.metrics.suite import table
    from mbgan.runs import Run

    run = Run(Path(cfg.run).expanduser())
    run.require(checkpoint=cfg.checkpoint)
    suite = instantiate(cfg.metrics)
    log.info("%s", table(score(run, cfg.checkpoint, suite, load_data(run), cfg.seed)))
    log.info("in %s", run.scores)


if __name__ == "__main__":
    main()
