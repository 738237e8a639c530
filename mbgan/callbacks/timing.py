"""How fast a training goes and what it takes, from a few of its steps."""

import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mbgan.gan import GAN


class FlopCounter(TorchDispatchMode):
    """Counts the floating-point operations of convolutions and matrix products while it is entered.

    By torch's formulas, in which a product and a sum are two. Not by torch's own counter: that
    follows modules by hooks, which cannot stand the gradient that a penalty takes.
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


class StepTimer(L.Callback):
    """Stops a training as soon as its speed is known: after whole turns of critic and generator.

    The first turn is not timed: memory is laid out and kernels are chosen then. In it operations
    are counted, those of a penalty at intervals included, which has its turn first.

    Args:
        seconds: to measure for, at least one turn.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start: tuple[float, int, int] | None = None
        self.images_per_s, self.steps = 0.0, 0
        self.flops_per_image = 0.0  # of convolutions and matrix products, backward included
        self.watts: list[float] = []  # of this rank's GPU, at the end of each turn
        self.memory_bytes = 0
        self.operations, self._counting = FlopCounter(), ExitStack()

    def on_train_start(self, trainer: L.Trainer, gan: L.LightningModule) -> None:
        """Count from here."""
        self._counting.enter_context(self.operations)

    def on_exception(
        self, trainer: L.Trainer, gan: L.LightningModule, error: BaseException
    ) -> None:
        """Count no more: others may go on in this process."""
        self._counting.close()

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *rest: Any) -> None:
        """Look at the clock when the generator had its turn."""
        if gan.critic_steps % gan.n_critic:
            return
        if gan.device.type == "cuda":
            torch.cuda.synchronize()
        now = (time.perf_counter(), gan.images_seen, gan.critic_steps)
        if self.start is None:
            self._counting.close()
            flops = self.operations.total * trainer.world_size  # of all ranks
            self.flops_per_image = flops / gan.images_seen
            self.start = now
            return
        elapsed, images, steps = (b - a for a, b in zip(self.start, now, strict=True))
        self.images_per_s, self.steps = images / elapsed, int(steps)
        if gan.device.type == "cuda":
            self.watts += power_draw(gan.device)
        self.memory_bytes = peak_memory(gan.device)
        trainer.should_stop = elapsed >= self.seconds


def power_draw(gpu: torch.device) -> list[float]:
    """Return the watts that a GPU draws now, as nvidia-smi says; nothing where it does not."""
    uuid = f"GPU-{torch.cuda.get_device_properties(gpu).uuid}"  # other numbers than torch's
    query = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", uuid]
    try:
        asked = subprocess.run(  # noqa: S603  # our own words
            query, capture_output=True, text=True, timeout=10, check=True
        )
        return [float(asked.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):  # "[N/A]" on some boards
        return []


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: of a GPU's memory, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
