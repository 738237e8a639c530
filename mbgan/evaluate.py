"""Score a run against its held-out images: python -m mbgan.evaluate run=RUN."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("evaluate")
def main(cfg: DictConfig) -> None:
    """Write scores.json into the run folder and print it as a table."""
    from hydra.utils import instantiate

    from mbgan.assembly import load_data, quiet_libraries, score
    from mbgan.metrics.suite import table
    from mbgan.runs import Run

    quiet_libraries()
    run = Run(Path(cfg.run).expanduser())
    run.require(checkpoint=cfg.checkpoint)
    if "extractor" not in cfg:
        with open_dict(cfg):
            cfg.extractor = OmegaConf.load(run.config).extractor
    result = score(run, cfg.checkpoint, instantiate(cfg.metrics), load_data(run), cfg.seed)
    log.info("%s", table(result))
    log.info("in %s", run.scores)


if __name__ == "__main__":
    main()
