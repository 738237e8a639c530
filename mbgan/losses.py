"""Adversarial losses: pairs of functions of critic scores [N], both to be minimized."""

from typing import Protocol

from torch import Tensor


class AdversarialLoss(Protocol):
    """What `mbgan.gan.GAN` needs of a loss; scores are higher for images judged real."""

    def critic(self, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """Return the critic's loss [] from its scores [N] of real and generated images."""

    def generator(self, d_fake: Tensor) -> Tensor:
        """Return the generator's loss [] from the critic's scores [N] of its images."""


class Wasserstein:
    """Wasserstein loss (Arjovsky et al. 2017, eq. 2); needs a Lipschitz regularizer.

    The signs are those of Algorithm 1 of the reference paper (line 10). Its Fig. 3 prints the
    critic's loss as E[D(x)] - E[D(G(z))], which a critic that minimizes it would turn around.
    """

    def critic(self, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """Return E[D(x_fake)] - E[D(x_real)], the negated distance estimate."""
        return d_fake.mean() - d_real.mean()

    def generator(self, d_fake: Tensor) -> Tensor:
        """Return -E[D(x_fake)]."""
        return -d_fake.mean()
