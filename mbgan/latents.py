"""Random numbers with names: every draw is a function of a seed and of what it is for.

Nothing here has a state, so a resumed run goes on exactly where it stopped, and a run on several
devices draws what one device would.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


def seed_of(*names: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on every name, and on their order.

    >>> seed_of(0, "z", 1) == seed_of(0, "z", 1), seed_of(0, "z", 1) == seed_of(0, "z", 2)
    (True, False)
    """
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_of(*names: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `seed_of`: the same numbers on every kind of device."""
    return torch.Generator().manual_seed(seed_of(*names))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one critic step.

    Each rank draws the rows of the whole batch and keeps its own, so that a batch spread over
    several devices meets the same latents as on one.

    Args:
        seed: the run's seed.
        step: critic steps taken so far.
        rank: this process, in [0, world_size).
        world_size: number of processes that share the batch.
        prefix: of all names.
    """

    seed: int
    step: int
    rank: int = 0
    world_size: int = 1
    prefix: str = ""

    def of(self, name: str) -> "Draws":
        """Return the numbers of one part of the step; parts share none."""
        return replace(self, prefix=f"{self.prefix}{name}/")

    def normal(self, name: str, n: int, *shape: int) -> Tensor:
        """Return numbers `[n, *shape]` of N(0, 1), named within this step; n is per rank."""
        whole = torch.randn(n * self.world_size, *shape, generator=self._generator(name))
        return whole[self.rank * n : (self.rank + 1) * n]

    def uniform(self, name: str, n: int, *shape: int) -> Tensor:
        """Return numbers `[n, *shape]` of U[0, 1), named within this step; n is per rank."""
        whole = torch.rand(n * self.world_size, *shape, generator=self._generator(name))
        return whole[self.rank * n : (self.rank + 1) * n]

    def _generator(self, name: str) -> torch.Generator:
        return generator_of(self.seed, self.prefix + name, self.step)


def fixed_latents(indices: Sequence[int], z_dim: int, seed: int) -> Tensor:
    """Return z [len(indices), z_dim] ~ N(0, I): row i depends on its index and the seed alone."""
    rows = [torch.randn(z_dim, generator=generator_of(seed, "image", i)) for i in indices]
    return torch.stack(rows)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Return latents [..., z_dim] on the way from a (t = 0) to b (t = 1), along the shorter arc.

    White 2016 (sec. 2.1), with directions turned evenly and norms interpolated between those of
    the ends. The middle of a straight line is shorter than the ends by sqrt(2): no z ~ N(0, I) of
    many dimensions is ever found there.

    Args:
        a: latents [..., z_dim].
        b: latents [..., z_dim].
        t: shares of the way in [0, 1], [..., 1] if a tensor; broadcast.

    Raises:
        ValueError: if a and b point in opposite directions.
    """
    from_a, to_b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    cosine = (from_a * to_b).sum(-1, keepdim=True).clamp(-1, 1)
    if (cosine < -1 + 1e-6).any():
        raise ValueError("a and b must not point in opposite directions: many arcs join them")
    turn = cosine.acos() / torch.pi  # [..., 1], of a half circle
    # sin(t x) / sin(x), written so that it is t where the angle x is 0.
    share_a, share_b = (s * torch.sinc(s * turn) / torch.sinc(turn) for s in (1 - t, t))
    norm = torch.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), t)
    return norm * (share_a * from_a + share_b * to_b)
