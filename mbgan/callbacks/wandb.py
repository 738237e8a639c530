"""Weights & Biases, which must neither ask for a key nor wait for a network."""

import logging
import netrc
import os
import sys
from functools import partial
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def has_key() -> bool:
    """Tell whether a W&B key is at hand: in WANDB_API_KEY, or left in ~/.netrc by wandb login."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(
    save_dir: str, project: str, group: str | None = None, tags: list[str] | None = None
) -> WandbLogger:
    """Return a logger that is online if a key is at hand (or WANDB_MODE says so), else offline.

    Args:
        save_dir: the run folder; its name is the run's name.
        project: W&B project.
        group: runs that belong together.
        tags: words to find the run by.
    """
    folder = Path(save_dir)
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    name = f"{folder.parent.name}/{folder.name}"
    make = partial(WandbLogger, name, save_dir, project=project, group=group, tags=list(tags or []))
    logger = make(mode=mode)
    if mode == "online":
        from wandb.errors import Error  # loads all of wandb, which the logger has done by now

        try:
            _ = logger.experiment  # connects
        except Error as error:
            log.warning("wandb: offline, as the server did not answer (%s)", error)
            logger = make(mode="offline")
    return logger


def finish() -> None:
    """End the W&B run, if there is one: the next job of a sweep begins its own."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()
