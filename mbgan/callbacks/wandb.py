"""Weights & Biases, which must neither ask for a key nor wait for a network."""

import netrc
import os
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger


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
    return WandbLogger(
        name=name, save_dir=save_dir, project=project, group=group, tags=list(tags or []), mode=mode
    )
