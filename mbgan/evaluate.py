"""Score generated images against held-out ones: python -m mbgan.evaluate run=RUN."""

import json
import logging
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from mbgan.verbs import conf_dir, verb

log = logging.getLogger(__name__)


@verb("evaluate")
def main(cfg: DictConfig) -> None:
    """Score checkpoints of a run, or fake=DIR against real=DIR: a table, JSON, CSV and pictures."""
    from hydra.utils import instantiate

    from mbgan.assembly import load_data, quiet_libraries, score
    from mbgan.runs import Run, write_text
    from mbgan.saved import read_config
    from mbgan.studies import score_sheet
    from mbgan.studies.scoring import score_folders

    given = {key: cfg[key] for key in ("run", "real", "fake", "train") if cfg[key] is not None}
    if set(given) - {"train"} != {"real", "fake"} and set(given) != {"run"}:
        raise ValueError(
            "evaluate needs run=RUN, or real=DIR fake=DIR (and train=DIR, what the generator "
            f"learned from), got {', '.join(given) or 'none of them'}"
        )
    quiet_libraries()
    if cfg.run is None:
        if "extractor" not in cfg:
            with open_dict(cfg):
                cfg.extractor = OmegaConf.load(conf_dir() / "extractor" / "auto.yaml")
        suite, naming = instantiate(cfg.metrics), instantiate(cfg.naming)
        scored = score_folders(
            given, cfg.magnification, cfg.image_size, naming, suite, cfg.cache_dir
        )
        out = Path(cfg.out).expanduser()
        write_text(out / "scores.json", json.dumps(scored.result, indent=2) + "\n")
        score_sheet.write(scored, out)
        log.info("%s", score_sheet.table(scored.result))
        log.info("scores.json, scores.csv and pictures in %s", out)
        return
    run = Run(Path(cfg.run).expanduser())
    names = list(cfg.checkpoint) if isinstance(cfg.checkpoint, ListConfig) else [cfg.checkpoint]
    for name in names:
        run.require(checkpoint=name)
    if "extractor" not in cfg:
        with open_dict(cfg):
            cfg.extractor = read_config(run.config).extractor
    suite, datamodule = instantiate(cfg.metrics), load_data(run)
    for name in names:
        result = score(run, name, suite, datamodule, cfg.seed)
        log.info("%s", score_sheet.table(result))
        log.info("in %s; table and pictures in %s", run.scores(name), run.scored(name))


if __name__ == "__main__":
    main()
