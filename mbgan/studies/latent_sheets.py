"""Pictures of a generator's latent space: what lies between its images, and what moves them.

Sheets are images [3, H, W] and frames images [N, 3, S, S], both uint8. Between two latents the
way is along the arc, between two styles along the line (Karras et al. 2019, sec. 4.1).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mbgan.images import grid, to_uint8
from mbgan.latents import slerp
from mbgan.networks import Generator
from mbgan.regularizers import Styled

BLOCK_GAP = 12  # white pixels between the parts of a sheet


def interpolation(generator: Generator, z: Tensor, steps: int, psi: float = 1.0) -> Tensor:
    """Return a sheet: a row a pair of neighboring latents, from one to the other.

    Args:
        generator: in eval mode.
        z: latents [2 R, z_dim]; rows 2 i and 2 i + 1 are a pair.
        steps: images of a row, the ends included.
        psi: truncation, in (0, 1].

    Raises:
        ValueError: if steps is under 2, or z holds no pairs.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, both ends of a row, got {steps}")
    if len(z) < 2 or len(z) % 2:
        raise ValueError(f"z must hold pairs of latents, got {len(z)}")
    points = place(generator, z)
    path = between(generator, points[::2], points[1::2], torch.linspace(0, 1, steps))
    return grid(draw(generator, path, psi), columns=steps)


def walk(generator: Generator, z: Tensor, steps: int, psi: float = 1.0) -> Tensor:
    """Return the frames [k steps, 3, S, S] of a walk through k latents and back to the first.

    Args:
        generator: in eval mode.
        z: latents [k, z_dim].
        steps: frames from one latent to the next.
        psi: truncation, in (0, 1].

    Raises:
        ValueError: if there are fewer than 2 latents, or steps is under 1.
    """
    if len(z) < 2:
        raise ValueError(f"a walk needs at least 2 latents, got n={len(z)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1 frame, got {steps}")
    points = place(generator, z)
    t = torch.arange(steps) / steps  # the end of each way is the start of the next
    return draw(generator, between(generator, points, points.roll(-1, 0), t), psi)


def mixing(generator: Generator, rows: Tensor, columns: Tensor, psi: float = 1.0) -> Tensor:
    """Return a sheet of three tables: each row's image with some styles of each column's.

    Coarse, middle and fine styles, from left to right: a third of the layers each (Karras et al.
    2019, fig. 3). The images that they are mixed of stand at the left and on top.

    Args:
        generator: one with styles, in eval mode.
        rows: latents [R, z_dim].
        columns: latents [C, z_dim].
        psi: truncation, in (0, 1].

    Raises:
        ValueError: if the generator has no styles.
    """
    if not isinstance(generator, Styled):
        raise ValueError(
            "mixing needs a generator with styles, which of the presets model=stylegan_lite has, "
            f"got a {type(generator).__name__}; choose another show"
        )
    of_rows, of_columns = place(generator, rows), place(generator, columns)
    heads, sides = draw(generator, of_columns, psi), draw(generator, of_rows, psi)
    corner = torch.full_like(heads[:1], 255)
    tables = []
    for layers in torch.arange(of_rows.shape[1]).tensor_split(3):
        mixed = of_rows[:, None].repeat(1, len(columns), 1, 1)  # [R, C, layers, w_dim]
        mixed[:, :, layers] = of_columns[:, layers]
        images = draw(generator, mixed.flatten(0, 1), psi).unflatten(0, mixed.shape[:2])
        body = torch.cat([sides[:, None], images], 1).flatten(0, 1)
        tables.append(grid(torch.cat([corner, heads, body]), columns=len(columns) + 1))
    return grid(torch.stack(tables), columns=3, gap=BLOCK_GAP)


def truncation(generator: Generator, z: Tensor, psis: Sequence[float]) -> Tensor:
    """Return a sheet: the same latents z [N, z_dim] in each row, a row a psi in (0, 1]."""
    points = place(generator, z)
    return grid(torch.cat([draw(generator, points, psi) for psi in psis]), columns=len(z))


def projections(pairs: Sequence[tuple[Tensor, Tensor]], columns: int = 8) -> Tensor:
    """Return a sheet of blocks side by side: targets, and below each what it was projected to.

    Args:
        pairs: a block each: targets and reconstructions, both [N, 3, S, S], uint8; N may differ.
        columns: targets in a row.
    """
    longest = max(len(targets) for targets, _ in pairs)
    columns = min(columns, longest)
    rows = -(-longest // columns) * columns
    blocks = []
    for pair in pairs:
        filled = [F.pad(x, (0, 0) * 3 + (0, rows - len(x)), value=255) for x in pair]
        lines = zip(*(x.split(columns) for x in filled), strict=True)
        blocks.append(grid(torch.cat([part for line in lines for part in line]), columns))
    return grid(torch.stack(blocks), columns=len(blocks), gap=BLOCK_GAP)


@torch.no_grad()
def place(generator: Generator, z: Tensor) -> Tensor:
    """Return the points of latents z [N, z_dim], on the generator's device."""
    return generator.points(z.to(next(generator.parameters())))


def between(generator: Generator, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the points [N T, ...] at shares t [T] of the ways from points a to b, [N, ...]."""
    steps = t.to(a).view(-1, *[1] * (a.dim() - 1))  # [T, 1, ...]
    move = torch.lerp if isinstance(generator, Styled) else slerp
    return move(a[:, None], b[:, None], steps).flatten(0, 1)


@torch.no_grad()
def draw(generator: Generator, points: Tensor, psi: float = 1.0, batch_size: int = 64) -> Tensor:
    """Return the images [N, 3, S, S], uint8, on the CPU, of N points after truncation."""
    parts = generator.truncate(points, psi).split(batch_size)
    return torch.cat([to_uint8(generator.render(part)).cpu() for part in parts])
