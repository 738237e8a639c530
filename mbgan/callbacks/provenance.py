"""run.json: what was run, on what, from which code and data, and how it ended."""

import platform
import subprocess
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.guard import Guard
from mbgan.callbacks.numbers import Numbers
from mbgan.documents import read_object
from mbgan.gan import GAN
from mbgan.runs import Run

PACKAGES = ("mbgan", "torch", "lightning", "torchmetrics", "torch-fidelity", "hydra-core", "numpy")


def git_state() -> dict[str, Any] | None:
    """Return commit and cleanliness of the checkout that holds this file; None without one."""

    def git(*words: str) -> str:
        return subprocess.run(  # noqa: S603 - of words, without a shell
            ["git", *words],  # noqa: S607 - the user's own git, wherever it is installed
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", Path(__file__).name):
            return {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain")}
    except (OSError, subprocess.CalledProcessError):  # no git, or installed from a wheel
        pass
    return None


class Provenance(Callback):
    """Writes run.json at the start and at the end, with status running, done, interrupted, failed.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: str) -> None:
        self.run = Run(run_dir)
        self.init_from: dict[str, Any] | None = None  # the run that gave the first weights

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Write what is known before the first batch."""
        self._clock = time.monotonic()
        data = trainer.datamodule
        earlier: list[dict[str, Any]] = []  # what a resume goes on from
        if gan.images_seen > 0 and self.run.status.is_file():
            last = read_object(self.run.status)
            earlier = [*last.pop("earlier", []), last]
            self.init_from = last.get("init_from")
        self.record: dict[str, Any] = {
            "status": "running",
            "earlier": earlier,
            "init_from": self.init_from,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
            "machine": platform.platform(),
            "device": str(gan.device),
            "device_name": torch.cuda.get_device_name() if gan.device.type == "cuda" else "cpu",
            "devices": trainer.world_size,
            "precision": trainer.precision,
            "git": git_state(),
            "data": {
                "root": str(data.root),
                "magnification": data.magnification,
                "sha256": data.sha256,
                "n_train": len(data.train),
                "n_held_out": len(data.held_out),
            },
            "parameters": {
                part: sum(p.numel() for p in getattr(gan, part).parameters())
                for part in ("generator", "critic")
            },
        }
        self._write(gan, "running")

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        """Say how the run ended, and where it was best."""
        guard, best = find(trainer, Guard), find(trainer, Evaluation).best
        self.record |= {
            "stopped_early": not guard.interrupted and gan.images_seen < guard.total_images,
            "best_images_seen": best and best["images_seen"],
        }
        self._write(gan, "interrupted" if guard.interrupted else "done")

    @rank_zero_only
    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        """Say that it failed, and why."""
        if hasattr(self, "record"):
            self.record["error"] = f"{type(exception).__name__}: {exception}"
            self._write(gan, "failed")

    def _write(self, gan: GAN, status: str) -> None:
        for numbers in (c for c in gan.trainer.callbacks if isinstance(c, Numbers)):
            self.record["nonfinite"] = numbers.counts | {"last": numbers.last}
        self.record |= {
            "status": status,
            "images_seen": gan.images_seen,
            "wall_s": round(time.monotonic() - self._clock, 1),
            "peak_memory_bytes": (  # on the GPU; what a CPU run takes is mostly its libraries
                torch.cuda.max_memory_allocated(gan.device) if gan.device.type == "cuda" else None
            ),
            "cpu_s": round(time.process_time(), 1),  # of all threads, start-up included
        }
        self.run.write_json(self.run.status, self.record)
