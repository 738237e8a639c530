"""Critic regularizers: `(critic, x_real, x_fake, draws) -> penalty []`, already weighted."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mbgan.latents import Draws

Score = Callable[[Tensor], Tensor]  # images [N, 3, H, W] -> scores [N]
Regularizer = Callable[[Score, Tensor, Tensor, Draws], Tensor]


def no_penalty(critic: Score, x_real: Tensor, x_fake: Tensor, draws: Draws) -> Tensor:
    """Return 0: the critic is left as it is."""
    return x_real.new_zeros(())


@dataclass(frozen=True)
class GradientPenalty:
    """Two-sided gradient penalty of WGAN-GP (Gulrajani et al. 2017, eq. 3).

    Draws one point per pair on the segment between x_real and x_fake and pushes the norm of the
    critic's gradient there towards 1:  gp_weight * E[(||grad D(x_hat)||_2 - 1)^2].

    Raises:
        ValueError: if gp_weight is negative.
    """

    gp_weight: float = 10.0

    def __post_init__(self) -> None:
        if not self.gp_weight >= 0:
            raise ValueError(f"gp_weight must be at least 0, got {self.gp_weight}")

    def __call__(self, critic: Score, x_real: Tensor, x_fake: Tensor, draws: Draws) -> Tensor:
        """Return the weighted penalty, a scalar [].

        Args:
            critic: maps images [N, 3, H, W] to scores [N]; must hold no batch norm.
            x_real: real images [N, 3, H, W] in [-1, 1].
            x_fake: generated images of the same shape and range; detached here.
            draws: where on each segment the point lies.

        Raises:
            ValueError: if x_real and x_fake differ in shape.
        """
        if x_real.shape != x_fake.shape:
            raise ValueError(
                "x_real and x_fake must have the same shape, "
                f"got {list(x_real.shape)} and {list(x_fake.shape)}"
            )
        t = draws.uniform("penalty", len(x_real), 1, 1, 1).to(x_real)
        x_hat = torch.lerp(x_fake.detach().to(x_real), x_real, t).requires_grad_(True)
        # The norm of 3 H W small numbers and its double backward stay out of bfloat16.
        with torch.autocast(x_real.device.type, enabled=False):
            # Without batch norm a score depends on its own image only, so the gradient of the
            # sum holds each image's own gradient.
            (grad,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)
            return self.gp_weight * (grad.flatten(1).norm(dim=1) - 1).square().mean()
