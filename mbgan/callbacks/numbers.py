"""What a run does about a loss, a gradient or a weight that is infinite or NaN."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from mbgan.gan import GAN, SkipStep
from mbgan.latents import seed_of
from mbgan.runs import Run
from mbgan.weights import read_checkpoint

log = logging.getLogger(__name__)

SHOWN = 3  # names in a message; run.json has them all


class Numbers(Callback):
    """Looks at losses and gradients before each step is taken, and at the weights after a batch.

    So nothing broken is ever written into weights, averages, moments or a checkpoint. Each look
    waits for the device. All ranks decide alike: gradients are averaged by then, losses asked for.
    Listed first, as the clock goes back at a rollback.

    Args:
        run_dir: the run folder.
        on_nonfinite: "stop" ends the run with an error; "skip" leaves the step out and goes on;
            "rollback" goes back to the last checkpoint and on from there with other random
            numbers and the images that come next.
        retries: steps left out in a row by one player, or rollbacks in all, after which the run
            is stopped nevertheless.

    Raises:
        ValueError: if on_nonfinite is none of the three, or retries is under 1.
    """

    def __init__(
        self, run_dir: str, on_nonfinite: Literal["stop", "skip", "rollback"], retries: int
    ) -> None:
        if on_nonfinite not in ("stop", "skip", "rollback"):
            raise ValueError(f"on_nonfinite must be stop, skip or rollback, got {on_nonfinite!r}")
        if retries < 1:
            raise ValueError(f"callbacks.numbers.retries must be at least 1, got {retries}")
        self.run, self.policy, self.retries = Run(run_dir), on_nonfinite, retries
        self.counts = {"skipped_steps": 0, "rollbacks": 0}
        self.last: dict[str, Any] | None = None  # what broke last, for run.json
        self._in_a_row = Counter[str]()  # steps left out, by player
        self._due = False  # a rollback, at the end of this batch

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"counts": dict(self.counts), "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.counts, self.last = state_dict["counts"], state_dict["last"]

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        """Go on with the random numbers of the last rollback."""
        self._seed = gan.seed
        self._draw_others(gan)

    def _draw_others(self, gan: GAN) -> None:
        if turns := self.counts["rollbacks"]:
            gan.seed = seed_of(self._seed, "rollback", turns)

    def on_train_batch_start(
        self, trainer: L.Trainer, gan: GAN, batch: Any, batch_idx: int
    ) -> None:
        """Keep what a step that is left out must not have changed."""
        self._position, self._losses = gan.images_drawn, dict(gan.losses)
        self._buffers = [b.clone() for b in gan.buffers()] if self.policy == "skip" else []

    def on_before_optimizer_step(self, trainer: L.Trainer, gan: GAN, optimizer: Optimizer) -> None:
        """Look at the losses and the gradients of the step that is about to be taken.

        Raises:
            FloatingPointError: if one is not finite, and the run is to stop.
            SkipStep: if the step is to be left out.
        """
        player = "generator" if optimizer is trainer.optimizers[0] else "critic"
        losses = {name: x for name, x in gan.losses.items() if name.startswith(player)}
        grads = {
            f"{player}.{name}": weight.grad
            for name, weight in getattr(gan, player).named_parameters()
            if weight.grad is not None
        }
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            grads = {}  # fp16's own scaler looks for overflow, and leaves such steps out
        sound = finite([*losses.values(), *grads.values()])
        if trainer.strategy.reduce_boolean_decision(sound) and not self._due:
            self._in_a_row[player] = 0
            return
        if not self._due:
            what = broken(dict(gan.named_parameters())) or broken(losses) or broken(grads)
            self._meet(trainer, gan, f"{player} step", what or "a number on another rank", player)
        gan.losses = {  # those of the step before
            name: self._losses.get(name, torch.zeros_like(x)) for name, x in gan.losses.items()
        }
        if self.policy == "skip":  # such as running statistics; a rollback replaces them too
            for buffer, kept in zip(gan.buffers(), self._buffers, strict=True):
                buffer.copy_(kept)
        raise SkipStep

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the weights, which are the same on all ranks, and roll back if that is due.

        Raises:
            FloatingPointError: if one is not finite, and no rollback mends it.
        """
        trained = [weight for weight in gan.parameters() if weight.requires_grad]  # of no average
        if not self._due and not finite(trained):
            self._meet(trainer, gan, "batch", broken(dict(gan.named_parameters())), None)
        if self._due:
            self._roll_back(trainer, gan)

    def _meet(
        self, trainer: L.Trainer, gan: GAN, where: str, what: str, player: str | None
    ) -> None:
        """Record what broke, and decide what is done about it."""
        assert trainer.train_dataloader is not None, "it trains"
        stream, files = trainer.train_dataloader.dataset, trainer.datamodule.train_files
        rows = stream.rows(range(self._position, self._position + stream.batch_size))
        names = [f"{row} ({files[row].name})" for row in rows]
        self.last = {"what": what, "images_seen": gan.images_seen, "training_images": names}
        message = (
            f"{what} became infinite or NaN after {gan.images_seen} images, in a {where} with the "
            f"training images {shortened(names)}"
        )
        there = self.run.has("last")
        if self.policy == "skip" and player is not None:
            self._in_a_row[player] += 1
            if self._in_a_row[player] <= self.retries:
                self.counts["skipped_steps"] += 1
                log.warning("%s: step left out (%d so far)", message, self.counts["skipped_steps"])
                return
            message += f"; {self.retries} such steps before it were left out"
        if self.policy == "rollback":
            if there and self.counts["rollbacks"] < self.retries:
                log.warning("%s", message)
                self._due = True
                return
            message += f"; {self.retries} rollbacks were of no help" if there else ""
        raise FloatingPointError(
            f"{message}; {'the last checkpoint is from before' if there else 'no checkpoint yet'}; "
            "try a lower model.make_opt_d.lr or trainer.precision=32-true"
        )

    def _roll_back(self, trainer: L.Trainer, gan: GAN) -> None:
        position, self._due = gan.images_drawn, False
        content = read_checkpoint(self.run.whole("last"))
        gan.on_load_checkpoint(content)
        for callback in trainer.callbacks:
            callback.on_load_checkpoint(trainer, gan, content)
        gan.load_state_dict(content["state_dict"])
        trainer.strategy.load_optimizer_state_dict(content)
        gan.on_train_start()  # the optimizers' settings
        gan.images_drawn = position  # the stream goes on
        self.counts["rollbacks"] += 1
        self._draw_others(gan)
        log.warning(
            "went back to %d images, on from there with other random numbers (rollback %d of %d)",
            *(gan.images_seen, self.counts["rollbacks"], self.retries),
        )


def finite(tensors: Iterable[Tensor]) -> bool:
    """Tell whether every tensor has a finite norm; waits for the device once.

    The squares must be finite too: Adam keeps them, and a weight whose gradient is over 1e19 would
    stand still for ever.
    """
    norms = torch._foreach_norm([x.detach() for x in tensors])
    return not norms or bool(torch.stack(norms).isfinite().all())


def broken(tensors: Mapping[str, Tensor]) -> str:
    """Return the names of those that are not finite, as text; empty if all are."""
    return shortened([name for name, x in tensors.items() if not finite([x])])


def shortened(names: list[str]) -> str:
    """Return the first few names, and how many more there are.

    >>> shortened(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
