"""Augmentation inside the loop: `(x, draws, name) -> x`, differentiable, real and fake alike.

Generated images are augmented as real ones are, in every step, so that the critic never tells
them apart by it, and the generator gets its gradient through it (Zhao et al. 2020, sec. 3).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbgan.images import from_uint8, grid, to_uint8
from mbgan.latents import Draws
from mbgan.stains import EOSIN, HEMATOXYLIN

DARKEST = 1 / 255  # added to intensities in [0, 1], so that black has a density and a slope


class Augment(nn.Module):
    """No augmentation; the base of those that are one.

    Differentiable, with its own numbers for each image; the same on real and generated images.

    Attributes:
        needs_zero: reads the signs of scores, so needs a loss whose scores divide at 0.
    """

    needs_zero = False

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W] in [-1, 1], augmented.

        Args:
            x: images [N, 3, H, W] in [-1, 1].
            draws: the step's random numbers.
            name: what these images are; another name draws other numbers.
        """
        return x

    def observe(self, d_real: Tensor, draws: Draws) -> None:
        """Take note of the scores [N] or [N, K] of real images, once a critic step."""


class Chain(Augment):
    """Several augmentations, one after the other.

    Args:
        parts: by name, such as {turn: ..., translation: ...}; each draws its own numbers.
    """

    def __init__(self, **parts: Augment) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W] with every part applied."""
        for key, part in self.parts.items():
            x = part(x, draws.of(key), name)
        return x


class Adaptive(Augment):
    """Applies each part to an image with probability p, driven by overfitting (ADA).

    Karras et al. 2020, sec. 3: r_t = E[sign D(x_real)] rises as the critic learns the training
    images by heart. Every so many critic steps p goes up if r_t is over the target and down if
    not, so fast that it would take `rise` images from 0 to 1.

    The sign means something where 0 is the border between real and fake: with the
    non-saturating and the hinge loss, not with those that compare scores. Unlike theirs, p has a
    cap: above 0.8 augmentations leak into generated images (their sec. 2.2).

    Args:
        chain: the parts.
        target: of r_t, in (-1, 1).
        rise: images from p = 0 to p = 1.
        every: critic steps from one change of p to the next.
        cap: largest p, in [0, 0.8].

    Raises:
        ValueError: if a number is out of range.
    """

    needs_zero = True
    p: Tensor  # [], probability of each part
    signs: Tensor  # [2]: sum of signs since the last change, and their number

    def __init__(
        self,
        chain: Chain,
        target: float = 0.6,
        rise: float = 500_000,
        every: int = 4,
        cap: float = 0.8,
    ) -> None:
        super().__init__()
        if not -1 < target < 1:
            raise ValueError(f"target must be in (-1, 1), got {target}")
        if not rise > 0:
            raise ValueError(f"rise must be over 0 images, got {rise}")
        if every < 1:
            raise ValueError(f"every must be at least 1 critic step, got {every}")
        check_share("cap", cap, 0.8)
        self.chain, self.target, self.rise, self.every = chain, target, rise, every
        self.cap = cap
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(2))

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W], each with its own choice of the parts applied."""
        for key, part in self.chain.parts.items():
            own = draws.of(key)
            chosen = own.uniform(f"chosen/{name}", len(x), 1, 1, 1).to(self.p) < self.p
            x = torch.where(chosen, part(x, own, name), x)
        return x

    @torch.no_grad()
    def observe(self, d_real: Tensor, draws: Draws) -> None:
        """Count the signs of the scores of all ranks, and adapt p when its time has come."""
        seen = torch.stack([d_real.sign().sum(), d_real.new_tensor(d_real.numel())])
        if draws.world_size > 1:  # at once, as each rank's buffers are replaced by the first's
            torch.distributed.all_reduce(seen)
        self.signs += seen.to(self.signs)
        if (draws.step + 1) % self.every:
            return
        images = len(d_real) * draws.world_size * self.every
        overfit = (self.signs[0] / self.signs[1] - self.target).sign()
        self.p.add_(overfit * images / self.rise).clamp_(0, self.cap)
        self.signs.zero_()


class Turn(Augment):
    """One of the eight poses of the square (D4) for each image: tissue has no upright."""

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W] with H = W, mirrored and turned."""
        left_right, top_bottom, swap = (
            coin.view(-1, 1, 1, 1).to(x.device)
            for coin in (draws.uniform(f"turn/{name}", len(x), 3) < 0.5).unbind(1)
        )
        x = torch.where(left_right, x.flip(3), x)
        x = torch.where(top_bottom, x.flip(2), x)
        return torch.where(swap, x.transpose(2, 3), x)


class Translation(Augment):
    """Shift each image by whole pixels, zero-padded (DiffAugment; Zhao et al. 2020, sec. 3).

    Args:
        ratio: largest shift in each direction, as a share of the side; 0.125 in the paper.

    Raises:
        ValueError: if ratio is outside [0, 0.5].
    """

    def __init__(self, ratio: float = 0.125) -> None:
        super().__init__()
        check_share("ratio", ratio, 0.5)
        self.ratio = ratio

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W], each shifted by its own amount."""
        n, _, height, width = x.shape
        reach = round(self.ratio * height)
        shift = (draws.uniform(f"translation/{name}", n, 2) * (2 * reach + 1)).long().to(x.device)
        rows = torch.arange(height, device=x.device) + shift[:, :1]  # [N, H]
        columns = torch.arange(width, device=x.device) + shift[:, 1:]  # [N, W]
        padded = F.pad(x, [reach] * 4)  # [N, 3, H + 2 reach, W + 2 reach]
        batch = torch.arange(n, device=x.device)[:, None, None]
        moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)  # [N, 3, H, W], channels last in memory


class Cutout(Augment):
    """Set a square of each image to zero (DiffAugment; Zhao et al. 2020, sec. 3).

    Its center lies anywhere in the image, so that a part of the square may lie outside.

    Args:
        ratio: side of the square, as a share of the image's; 0.5 in the paper.

    Raises:
        ValueError: if ratio is outside [0, 1].
    """

    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__()
        check_share("ratio", ratio, 1)
        self.ratio = ratio

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W], each with its own hole."""
        side = x.shape[2]
        hole = round(self.ratio * side)
        # Of a hole of even side the center lies between two pixels.
        places = side + 1 - hole % 2
        first = (draws.uniform(f"cutout/{name}", len(x), 2) * places).long() - hole // 2
        away = torch.arange(side) - first[:, :, None]  # [N, 2, H], from the hole's first pixel
        rows, columns = ((away >= 0) & (away < hole)).unbind(1)  # [N, H] each
        kept = ~(rows[:, None, :, None] & columns[:, None, None, :])
        return x * kept.to(x)


class Brightness(Augment):
    """Add a number of [-reach, reach] to each image (DiffAugment; Zhao et al. 2020, sec. 3).

    Raises:
        ValueError: if reach is outside [0, 2].
    """

    def __init__(self, reach: float = 0.5) -> None:
        super().__init__()
        check_share("reach", reach, 2)
        self.reach = reach

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W], lighter or darker; not clipped to [-1, 1]."""
        u = draws.uniform(f"brightness/{name}", len(x), 1, 1, 1).to(x)
        return x + self.reach * (2 * u - 1)


class Saturation(Augment):
    """Scale each pixel's distance from its gray by [1 - reach, 1 + reach] (DiffAugment).

    Raises:
        ValueError: if reach is outside [0, 1].
    """

    def __init__(self, reach: float = 1.0) -> None:
        super().__init__()
        check_share("reach", reach, 1)
        self.reach = reach

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W], grayer or more colorful."""
        u = draws.uniform(f"saturation/{name}", len(x), 1, 1, 1).to(x)
        return torch.lerp(x.mean(1, keepdim=True).expand_as(x), x, 1 + self.reach * (2 * u - 1))


class Contrast(Augment):
    """Scale each image's distance from its mean by [1 - reach, 1 + reach] (DiffAugment).

    Raises:
        ValueError: if reach is outside [0, 1].
    """

    def __init__(self, reach: float = 0.5) -> None:
        super().__init__()
        check_share("reach", reach, 1)
        self.reach = reach

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W], flatter or starker."""
        u = draws.uniform(f"contrast/{name}", len(x), 1, 1, 1).to(x)
        mean = x.mean((1, 2, 3), keepdim=True).expand_as(x)
        return torch.lerp(mean, x, 1 + self.reach * (2 * u - 1))


class Stain(Augment):
    """Scale the amounts of hematoxylin and of eosin in each image (Tellez et al. 2019, HED).

    Light that passes two stains loses the sum of their optical densities (Beer-Lambert), so the
    amounts are coordinates of -log intensity (Ruifrok & Johnston 2001); what is neither stain,
    and glass, stays as it is. Hues turn no further than the stains themselves do.

    Args:
        reach: each amount is scaled by a factor of its own from [1 - reach, 1 + reach].

    Raises:
        ValueError: if reach is outside [0, 1].
    """

    to_amounts: Tensor  # [3, 2], optical density in red, green, blue -> amounts
    vectors: Tensor  # [2, 3], of the two stains

    def __init__(self, reach: float = 0.1) -> None:
        super().__init__()
        check_share("reach", reach, 1)
        self.reach = reach
        stains = F.normalize(torch.tensor([HEMATOXYLIN, EOSIN], dtype=torch.float64))
        rest = F.normalize(torch.linalg.cross(*stains), dim=0)
        basis = torch.stack([*stains, rest])  # [3, 3]
        to_amounts = torch.linalg.inv(basis)[:, :2]
        dtype = torch.get_default_dtype()
        self.register_buffer("to_amounts", to_amounts.to(dtype), persistent=False)
        self.register_buffer("vectors", stains.to(dtype), persistent=False)

    def forward(self, x: Tensor, draws: Draws, name: str) -> Tensor:
        """Return images x [N, 3, H, W] in [-1, 1], each stained more or less."""
        u = draws.uniform(f"stain/{name}", len(x), 1, 1, 2).to(self.vectors)
        change = self.reach * (2 * u - 1)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 densities would band
            intensity = (x.to(self.vectors).permute(0, 2, 3, 1) + 1) / 2  # [N, H, W, 3]
            # Of white the density is 0, of black log(1 / DARKEST + 1).
            density = -torch.log((intensity + DARKEST) / (1 + DARKEST))
            density = density + (density @ self.to_amounts * change) @ self.vectors
            stained = (1 + DARKEST) * torch.exp(-density) - DARKEST
        return (2 * stained - 1).permute(0, 3, 1, 2).to(x.dtype)  # channels last in memory


def check_share(name: str, value: float, most: float) -> None:
    """Refuse a number outside [0, most].

    Raises:
        ValueError: if it is.
    """
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be in [0, {most}], got {value}")


@torch.no_grad()
def preview(augment: Augment, x: Tensor, rows: int = 1, seed: int = 0) -> Tensor:
    """Return a sheet [3, H', W'], uint8: the originals above, augmented ones below.

    Args:
        augment: what to show; an adaptive one at its probability of the moment.
        x: images [N, 3, H, W], uint8: the columns.
        rows: augmented ones of each image.
        seed: of the augmentation.
    """
    shown = [augment(from_uint8(x), Draws(seed, step), "preview") for step in range(rows)]
    return grid(torch.cat([x, *(to_uint8(part) for part in shown)]), columns=len(x))
