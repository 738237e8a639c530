"""Regularizers: penalties, already weighted, on the critic's step or on the generator's."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mbgan.latents import Draws
from mbgan.schedules import Constant, Schedule
from mbgan.slopes import Score, input_gradient


@dataclass(frozen=True)
class CriticStep:
    """What a regularizer sees of one step of the critic."""

    critic: Score  # through the augmentation
    x_real: Tensor  # [N, 3, H, W] in [-1, 1], not augmented
    x_fake: Tensor  # the same shape and range, detached
    d_real: Tensor  # scores of the augmented images, with their graph
    d_fake: Tensor
    draws: Draws

    @property
    def images(self) -> int:
        """Return the images that the critic saw before this step, on all devices."""
        return self.draws.step * len(self.x_real) * self.draws.world_size


class Regularizer(nn.Module):
    """No penalty; the base of those that are one.

    Attributes:
        per_image: differentiates each score by its own image, which batch norm would mix.
        lipschitz: bounds the critic's slope, as the Wasserstein loss needs.
        clips: bounds it by the critic's stored weights.
    """

    per_image = False
    lipschitz = False
    clips = False

    def forward(self, step: CriticStep) -> Tensor:
        """Return the weighted penalty, a scalar []."""
        return step.x_real.new_zeros(())

    def after_step(self, critic: nn.Module) -> None:
        """Do what must be done to the critic's weights when its optimizer has changed them."""


def check_weight(name: str, value: float) -> None:
    """Refuse a negative weight.

    Raises:
        ValueError: if it is one.
    """
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def check_interval(interval: int) -> None:
    """Refuse an interval that is none.

    Raises:
        ValueError: if it is below 1.
    """
    if interval < 1:
        raise ValueError(f"interval must be at least 1, got {interval}")


class GradientPenalty(Regularizer):
    """Two-sided gradient penalty of WGAN-GP (Gulrajani et al. 2017, eq. 3).

    Draws one point per pair on the segment between x_real and x_fake and pushes the norm of the
    critic's gradient there towards 1:  gp_weight * E[(||grad D(x_hat)||_2 - 1)^2].

    Args:
        gp_weight: lambda.
        interval: critic steps from one penalty to the next, which is that much stronger.
        full_precision: see `input_gradient`.

    Raises:
        ValueError: if gp_weight is negative or interval below 1.
    """

    per_image = True

    def __init__(
        self, gp_weight: float = 10.0, interval: int = 1, full_precision: bool = False
    ) -> None:
        super().__init__()
        check_weight("gp_weight", gp_weight)
        check_interval(interval)
        self.gp_weight, self.interval, self.full_precision = gp_weight, interval, full_precision
        self.lipschitz = gp_weight > 0

    def forward(self, step: CriticStep) -> Tensor:
        """Return the weighted penalty [], 0 between the intervals.

        Raises:
            ValueError: if x_real and x_fake differ in shape.
        """
        x_real, x_fake = step.x_real, step.x_fake
        if x_real.shape != x_fake.shape:
            raise ValueError(
                "x_real and x_fake must have the same shape, "
                f"got {list(x_real.shape)} and {list(x_fake.shape)}"
            )
        if step.draws.step % self.interval:
            return x_real.new_zeros(())
        t = step.draws.uniform("penalty", len(x_real), 1, 1, 1).to(x_real)
        x_hat = torch.lerp(x_fake.to(x_real), x_real, t)
        grad = input_gradient(step.critic, x_hat, self.full_precision)
        return self.interval * self.gp_weight * (grad.norm(dim=1) - 1).square().mean()


class ZeroCentered(Regularizer):
    """Penalties on the critic's slope at the images themselves (Mescheder et al. 2018, eq. 9).

    gamma / 2 * E[||grad D(x)||^2], of real images (R1), of generated ones (R2), or of both, in
    every interval-th step, and then interval times as strong (Karras et al. 2020, app. B: lazy
    regularization; the optimizer's lr and betas must be corrected in the config).

    Args:
        gamma: strength, a number or a schedule over images seen.
        real: penalize at real images.
        fake: penalize at generated images.
        interval: critic steps from one penalty to the next.

    Raises:
        ValueError: if gamma is negative, interval below 1 or neither side is chosen.
    """

    per_image = True

    def __init__(
        self, gamma: float | Schedule, real: bool = True, fake: bool = False, interval: int = 1
    ) -> None:
        super().__init__()
        self.gamma = gamma if callable(gamma) else Constant(gamma)
        check_weight("gamma", self.gamma(0))
        self.lipschitz = self.gamma(0) > 0
        check_interval(interval)
        if not (real or fake):
            raise ValueError("a zero-centered penalty must be of real or fake images, or of both")
        self.real, self.fake, self.interval = real, fake, interval

    def forward(self, step: CriticStep) -> Tensor:
        """Return the weighted penalty [], 0 between the intervals."""
        penalty = step.x_real.new_zeros(())
        if step.draws.step % self.interval:
            return penalty
        for chosen, x in ((self.real, step.x_real), (self.fake, step.x_fake)):
            if chosen:
                grad = input_gradient(step.critic, x.to(step.x_real))
                penalty = penalty + grad.square().sum(1).mean()
        return self.interval * self.gamma(step.images) / 2 * penalty


class Drift(Regularizer):
    """Keeps the scores of real images from drifting away (Karras et al. 2018, app. A.1).

    Raises:
        ValueError: if drift_weight is negative.
    """

    def __init__(self, drift_weight: float = 1e-3) -> None:
        super().__init__()
        check_weight("drift_weight", drift_weight)
        self.drift_weight = drift_weight

    def forward(self, step: CriticStep) -> Tensor:
        """Return drift_weight * E[D(x_real)^2]."""
        return self.drift_weight * step.d_real.square().mean()


class LeCam(Regularizer):
    """Draws scores towards the moving average of the other side's (Tseng et al. 2021, eq. 6).

    lecam_weight * (E[(D(x_real) - a_fake)^2] + E[(D(x_fake) - a_real)^2]), with a the average
    of scores so far. With one-sided squares, as in their code.

    Args:
        lecam_weight: lambda; its scale is that of the scores: 0.3 for BigGAN on CIFAR.
        decay: of the averages, in [0, 1).
        warmup: critic steps before it begins.

    Raises:
        ValueError: if a number is out of range.
    """

    anchors: Tensor  # [2]: of real scores, of fake ones

    def __init__(self, lecam_weight: float, decay: float = 0.99, warmup: int = 1000) -> None:
        super().__init__()
        check_weight("lecam_weight", lecam_weight)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.lecam_weight, self.decay, self.warmup = lecam_weight, decay, warmup
        self.register_buffer("anchors", torch.zeros(2))

    def forward(self, step: CriticStep) -> Tensor:
        """Return the weighted penalty [], 0 during the warm-up."""
        means = torch.stack([step.d_real.detach().mean(), step.d_fake.detach().mean()])
        if step.draws.world_size > 1:  # the averages are of the whole batch
            torch.distributed.all_reduce(means)
            means = means / step.draws.world_size
        self.anchors.lerp_(means.to(self.anchors), 1 - self.decay if step.draws.step else 1)
        if step.draws.step < self.warmup:
            return step.x_real.new_zeros(())
        real, fake = self.anchors.to(step.d_real)
        above, below = torch.relu(step.d_real - fake), torch.relu(real - step.d_fake)
        return self.lecam_weight * (above.square().mean() + below.square().mean())


class WeightClipping(Regularizer):
    """Holds every weight of the critic in [-clip, clip] (Arjovsky et al. 2017, Algorithm 1).

    Raises:
        ValueError: if clip is not positive.
    """

    lipschitz = True
    clips = True

    def __init__(self, clip: float = 0.01) -> None:
        super().__init__()
        if not clip > 0:
            raise ValueError(f"clip must be over 0, got {clip}")
        self.clip = clip

    @torch.no_grad()
    def after_step(self, critic: nn.Module) -> None:
        """Clip the critic's weights, but frozen ones."""
        for weight in critic.parameters():
            if weight.requires_grad:
                weight.clamp_(-self.clip, self.clip)


class Sum(Regularizer):
    """Several penalties at once.

    Args:
        parts: by name, such as {gp: ..., drift: ...}.
    """

    def __init__(self, **parts: Regularizer) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.per_image = any(part.per_image for part in parts.values())
        self.lipschitz = any(part.lipschitz for part in parts.values())
        self.clips = any(part.clips for part in parts.values())

    def forward(self, step: CriticStep) -> Tensor:
        """Return the sum of the penalties []."""
        return torch.stack([part(step) for part in self.parts.values()]).sum()

    def after_step(self, critic: nn.Module) -> None:
        """Let each part do what it must."""
        for part in self.parts.values():
            assert isinstance(part, Regularizer), "given as such"
            part.after_step(critic)


class GeneratorRegularizer(nn.Module):
    """No penalty; the base of those on the generator's step.

    Attributes:
        needs_styles: is of a generator with styles, see `Styled`.
    """

    needs_styles = False

    def forward(self, generator: nn.Module, z: Tensor, draws: Draws, turn: int) -> Tensor:
        """Return the weighted penalty [].

        Args:
            generator: the network in training.
            z: latents [N, z_dim] of this rank's images, other ones than the step's.
            draws: the step's random numbers.
            turn: generator steps taken so far.
        """
        return next(generator.parameters()).new_zeros(())


@runtime_checkable
class Styled(Protocol):
    """A generator in two parts, as StyleGAN's: latents to styles, styles to images."""

    def styles(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        """Return styles ws [N, layers, w_dim] for latents z [N, z_dim]."""

    def synthesize(self, ws: Tensor, draws: Draws | None = None) -> Tensor:
        """Return images [N, 3, H, W] for styles ws [N, layers, w_dim]."""


class PathLength(GeneratorRegularizer):
    """A step in w should move the image equally far everywhere (Karras et al. 2020, eq. 4).

    pl_weight * E[(||J_w^T y||_2 - a)^2], J_w the Jacobian of the image by the style, y random
    images of N(0, 1 / (H W)), a the moving average of the lengths; every interval-th turn, and
    then interval times as strong. As in their code, layers' lengths are averaged (quadratically).

    Args:
        pl_weight: strength; 0 for none.
        interval: generator steps from one penalty to the next.
        decay: share of the average that a new length replaces, in (0, 1].

    Raises:
        ValueError: if a number is out of range.
    """

    average: Tensor  # []: a

    def __init__(self, pl_weight: float = 2.0, interval: int = 4, decay: float = 0.01) -> None:
        super().__init__()
        check_weight("pl_weight", pl_weight)
        check_interval(interval)
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {decay}")
        self.pl_weight, self.interval, self.decay = pl_weight, interval, decay
        self.needs_styles = pl_weight > 0
        self.register_buffer("average", torch.zeros(()))

    def forward(self, generator: nn.Module, z: Tensor, draws: Draws, turn: int) -> Tensor:
        """Return the weighted penalty [], 0 between the intervals."""
        if not self.pl_weight or turn % self.interval:
            return super().forward(generator, z, draws, turn)
        assert isinstance(generator, Styled), "GAN checks this"
        with torch.autocast(z.device.type, enabled=False):  # as in input_gradient
            ws = generator.styles(z, draws)
            x = generator.synthesize(ws, draws)
            y = draws.normal("image", *x.shape).to(x, non_blocking=True)
            moved = (x * y).sum() / math.sqrt(x[0, 0].numel())
            (grad,) = torch.autograd.grad(moved, ws, create_graph=True)  # [N, layers, w_dim]
        lengths = grad.square().sum(2).mean(1).sqrt()  # [N]
        mean = lengths.detach().mean()
        if draws.world_size > 1:  # the average is of the whole batch
            torch.distributed.all_reduce(mean)
            mean = mean / draws.world_size
        self.average.lerp_(mean.to(self.average), self.decay)
        penalty = (lengths - self.average.to(lengths)).square().mean()
        return self.pl_weight * self.interval * penalty
