"""Adversarial losses: pairs of functions of critic scores, both to be minimized.

Scores are [N], or [N, K] of critics that give an image several (heads, patches); every loss is a
mean over all of them.
"""

from typing import Protocol

from torch import Tensor
from torch.nn.functional import relu, softplus


class AdversarialLoss(Protocol):
    """What `mbgan.gan.GAN` needs of a loss; scores are higher for images judged real."""

    needs_lipschitz: bool  # without a regularizer that bounds the critic's slope it diverges
    needs_real: bool  # the generator's loss compares with the scores of real images
    zero_divides: bool  # images scored over 0 are those judged real

    def critic(self, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """Return the critic's loss [] from its scores of real and generated images."""

    def generator(self, d_real: Tensor | None, d_fake: Tensor) -> Tensor:
        """Return the generator's loss [] from the scores of its images, and of real ones."""


def ordered(d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Return the share [] of pairs whose real image scores higher, the area under the ROC curve.

    It means the same for every loss: 0.5 where the critic cannot tell, 1 where it is never wrong.

    Args:
        d_real: scores [N] or [N, K]; places are compared each with itself.
        d_fake: scores [M] or [M, K].
    """
    return (d_real[:, None] - d_fake).sign().mean() / 2 + 0.5  # a tie counts half


class Wasserstein:
    """Wasserstein loss (Arjovsky et al. 2017, eq. 2); needs a Lipschitz regularizer.

    The signs are those of Algorithm 1 of the reference paper (line 10). Its Fig. 3 prints the
    critic's loss as E[D(x)] - E[D(G(z))], which a critic that minimizes it would turn around.
    """

    needs_lipschitz, needs_real, zero_divides = True, False, False

    def critic(self, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """Return E[D(x_fake)] - E[D(x_real)], the negated distance estimate."""
        return d_fake.mean() - d_real.mean()

    def generator(self, d_real: Tensor | None, d_fake: Tensor) -> Tensor:
        """Return -E[D(x_fake)]."""
        return -d_fake.mean()


class NonSaturating:
    """Logistic loss with the generator's non-saturating part (Goodfellow et al. 2014, sec. 3)."""

    needs_lipschitz, needs_real, zero_divides = False, False, True

    def critic(self, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """Return E[-log s(D(x_real))] + E[-log(1 - s(D(x_fake)))], s the logistic function."""
        return softplus(-d_real).mean() + softplus(d_fake).mean()

    def generator(self, d_real: Tensor | None, d_fake: Tensor) -> Tensor:
        """Return E[-log s(D(x_fake))]."""
        return softplus(-d_fake).mean()


class Hinge:
    """Hinge loss (Lim & Ye 2017, eqs. 5-6; Miyato et al. 2018, eqs. 16-17)."""

    needs_lipschitz, needs_real, zero_divides = False, False, True

    def critic(self, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """Return E[max(0, 1 - D(x_real))] + E[max(0, 1 + D(x_fake))]."""
        return relu(1 - d_real).mean() + relu(1 + d_fake).mean()

    def generator(self, d_real: Tensor | None, d_fake: Tensor) -> Tensor:
        """Return -E[D(x_fake)]."""
        return -d_fake.mean()


class Relativistic:
    """Relativistic pairing loss (Jolicoeur-Martineau 2019; RpGAN in Huang et al. 2024, eq. 2)."""

    needs_lipschitz, needs_real, zero_divides = False, True, False

    def critic(self, d_real: Tensor, d_fake: Tensor) -> Tensor:
        """Return E[-log s(D(x_real) - D(x_fake))] over pairs, s the logistic function."""
        return softplus(d_fake - d_real).mean()

    def generator(self, d_real: Tensor | None, d_fake: Tensor) -> Tensor:
        """Return E[-log s(D(x_fake) - D(x_real))] over pairs."""
        assert d_real is not None, "GAN hands the scores of real images to a loss that needs them"
        return softplus(d_real - d_fake).mean()
