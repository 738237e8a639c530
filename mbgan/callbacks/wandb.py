"""Weights & Biases, which must neither ask for a key nor wait for a network."""

import logging
import netrc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import loggers

from mbgan.runs import Run

log = logging.getLogger(__name__)


def has_key() -> bool:
    """Tell whether a W&B key is at hand: in WANDB_API_KEY, or left in ~/.netrc by wandb login."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def mode() -> str:
    """Return how a run begins: as WANDB_MODE says, else online if a key is at hand, or offline."""
    return os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")


class WandbLogger(loggers.WandbLogger):
    """A logger that is online if a key is at hand (or WANDB_MODE says so), else offline.

    Runs are named, grouped and tagged by their folders: those of a sweep share a group. A run that
    goes on after it was cut off stays the same W&B run. If W&B's own process ends (memory was
    short), training goes on without it.

    Args:
        save_dir: the run folder.
        project: W&B project.
        group: runs that belong together; None for the folder that holds the run folder.
        tags: words to find the run by, beside the model's name.
        upload_best: whether the best checkpoint goes to W&B, when online.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        group: str | None,
        tags: Sequence[str],
        upload_best: bool,
    ) -> None:
        folder, self.upload_best = Path(save_dir).absolute(), upload_best
        self.gone = False
        earlier = sorted(folder.glob("wandb/*run-*-*"))
        model = Run(folder).choices.get("model")
        settings: dict[str, Any] = {
            "name": f"{folder.parent.name}/{folder.name}",
            "save_dir": save_dir,
            "id": earlier[0].name.rpartition("-")[2] if earlier else None,
            "project": project,
            "group": group or folder.parent.name,
            "tags": [*tags, *([model] if model else [])],
        }
        super().__init__(**settings, mode=mode())
        if mode() != "online":
            return
        from wandb.errors import Error  # loads all of wandb, which the logger has done by now

        try:
            _ = self.experiment  # connects
        except Error as error:
            log.warning("wandb: offline, as the server did not answer (%s)", error)
            super().__init__(**settings, mode="offline")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers, tables and pictures, all of which come by here, while W&B takes them."""
        if self.gone:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # of many classes, which differ from version to version
            self.gone = True
            log.warning(
                "wandb: took nothing more (%s); the run goes on without it, all numbers are in "
                "metrics.jsonl, and resume begins it again",
                error,
            )

    def upload(self, checkpoint: Path, metadata: dict[str, float]) -> None:
        """Upload the best checkpoint as an artifact with its scores, if this run is online."""
        if not self.upload_best or self.gone or self.experiment.offline:
            return
        import wandb

        artifact = wandb.Artifact(f"{self.experiment.id}-best", "model", metadata=metadata)
        artifact.add_file(str(checkpoint))
        self.experiment.log_artifact(artifact, aliases=["best"])


@contextmanager
def finished() -> Iterator[None]:
    """End the W&B run, if one began: the next job of a sweep begins its own."""
    ended_well = False
    try:
        yield
        ended_well = True
    finally:
        if wandb := sys.modules.get("wandb"):
            try:
                wandb.finish(exit_code=int(not ended_well))
            except Exception as error:  # its process is gone
                log.warning("wandb: its run was not closed (%s)", error)
                with suppress(Exception):
                    wandb.teardown()  # or it would try once more at the very end
                wandb.run = None  # or the next job of a sweep would go on with it
