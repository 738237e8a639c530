"""The mathematics of a mbgan training in a bare loop: its networks and numbers, no Lightning.

What mbgan.train takes longer than this is the price of its trainer, callbacks, loggers and
resumability. The loop is checked to train the same weights as mbgan.gan.GAN.

python -m benchmarks.bare RUN_DIR TURNS OVERRIDE ...: a worker, as benchmarks.ours is one.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ours import config
from benchmarks.workers import Gate
from mbgan.assembly import assemble
from mbgan.ema import ema_decay, update_ema
from mbgan.gan import GAN
from mbgan.images import from_uint8
from mbgan.latents import Draws, seed_of
from mbgan.regularizers import CriticStep, Score
from mbgan.verbs import keep_freed_memory

Batch = tuple[Tensor, Tensor]


def turns(gan: GAN, batches: Iterator[Batch], bf16: bool) -> Iterator[int]:
    """Train; yield the images that the critic saw after each turn of critic and generator.

    For presets without conditions, schedules, real images in the generator's loss, or batch norm in
    the critic.
    """
    simple = not (gan.apart or gan.loss.needs_real or gan.generator.conditions)
    assert simple and gan.lr_schedule is gan.beta2_schedule is None, "see above"  # noqa: PT018
    gan.settle()  # as when a run begins
    gan.train()
    opt_g, opt_d = gan.configure_optimizers()
    step = seen = 0

    def autocast() -> AbstractContextManager[None]:
        return torch.autocast("cpu", torch.bfloat16, enabled=bf16)

    while True:
        for _ in range(gan.n_critic):
            if gan.critic_batches == "fresh" or step % gan.n_critic == 0:
                images, condition = next(batches)
                x_real = from_uint8(images).contiguous(memory_format=torch.channels_last)
            draws = Draws(gan.seed, step)
            torch.manual_seed(seed_of(gan.seed, "dropout", step, 0))
            gan.critic.requires_grad_(True)
            with autocast():
                with torch.no_grad():
                    of = draws.of("critic")
                    z = of.normal("z", len(x_real), gan.generator.z_dim)
                    x_fake = gan.generator(z, of).to(x_real.dtype)
                judged = [gan.augment(x_real, draws, "real"), gan.augment(x_fake, draws, "fake")]
                both = gan.critic(torch.cat(judged), condition.repeat(2)).float()
                d_real, d_fake = both.chunk(2)
                loss = gan.loss.critic(d_real, d_fake)
                score = through(gan, draws)
                penalty = gan.regularizer(CriticStep(score, x_real, x_fake, d_real, d_fake, draws))
            opt_d.zero_grad()
            (loss + penalty).backward()
            opt_d.step()
            step, seen = step + 1, seen + len(x_real)
        gan.critic.requires_grad_(False)
        with autocast():
            of = draws.of("generator")
            z = of.normal("z", len(x_real), gan.generator.z_dim)
            d_fake = gan.critic(gan.augment(gan.generator(z, of), draws, "generator")).float()
            loss = gan.loss.generator(None, d_fake)
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        images_a_turn = len(x_real) * gan.n_critic
        decay = ema_decay(gan.ema_half_life, images_a_turn, seen, gan.ema_ramp_up)
        update_ema(gan.generator_ema, gan.generator, decay)
        yield images_a_turn


def through(gan: GAN, draws: Draws) -> Score:
    """Return the critic as the penalty sees it."""
    return lambda x: gan.critic(gan.augment(x, draws, "penalty"))


def begin(run_dir: Path, overrides: list[str]) -> tuple[GAN, Iterator[int]]:
    """Return a GAN, and its turns."""
    parts = assemble(config(run_dir, False, *overrides))
    stream: Any = parts.datamodule.stream(parts.datamodule.batch_size)
    bf16 = "bf16" in str(parts.trainer.precision)
    return parts.gan, turns(parts.gan, iter(stream), bf16)


def main() -> None:
    """Be a worker."""
    run_dir, per, *overrides = sys.argv[1:]
    gate, (_, training) = Gate(), begin(Path(run_dir), overrides)
    keep_freed_memory()
    images = 0
    while True:
        gate.wait(images)
        images = sum(next(training) for _ in range(int(per)))


if __name__ == "__main__":
    main()
