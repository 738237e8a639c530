"""Make a W&B project open as a dashboard: python -m mbgan.dashboard entity=LAB."""

import logging

from omegaconf import DictConfig

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("dashboard")
def main(cfg: DictConfig) -> None:
    """Save a workspace of scores beside their floors, curves and samples, and say where it is."""
    from mbgan.callbacks.wandb import has_key
    from mbgan.studies.workspace import save, workspace

    made = workspace(cfg.entity, cfg.project, cfg.extractor)
    if not has_key():
        raise ValueError("a dashboard lives on W&B's server: give a key with wandb login")
    log.info("%s", save(made))


if __name__ == "__main__":
    main()
