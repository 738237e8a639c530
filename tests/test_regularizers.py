import pytest
import torch

from mbgan.latents import Draws
from mbgan.regularizers import CriticStep, GradientPenalty, Regularizer


def step(critic, x_real, x_fake, number=0):
    """One critic step without augmentation."""
    scores = (critic(x).detach() for x in (x_real, x_fake))
    return CriticStep(critic, x_real, x_fake, *scores, Draws(0, number))


@pytest.mark.parametrize("norm", [0.0, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic_is_exact(norm):
    """D(x) = <w, x> has gradient w everywhere, so the penalty is gp_weight * (||w|| - 1)^2."""
    w = torch.zeros(3, 4, 4)
    w[0, 0, 0] = norm
    x_real, x_fake = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    critic = lambda x: (x * w).sum((1, 2, 3))  # noqa: E731
    penalty = GradientPenalty(gp_weight=10.0)(step(critic, x_real, x_fake))
    torch.testing.assert_close(penalty, torch.tensor(10.0 * (norm - 1) ** 2))


def test_gradient_penalty_looks_between_real_and_fake():
    """D(x) = x^2 / 2 of one pixel has gradient x, so the penalty tells where x_hat lies."""
    x_real, x_fake = torch.full((64, 1, 1, 1), 2.0), torch.zeros(64, 1, 1, 1)
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2, 3)) / 2

    penalty = GradientPenalty(1.0)(step(critic, x_real, x_fake))
    x_hat = seen[-1]
    assert 0 <= x_hat.min() < 0.2
    assert 1.8 < x_hat.max() <= 2
    torch.testing.assert_close(penalty, (x_hat.abs() - 1).square().mean())


def test_gradient_penalty_reaches_the_critic_and_not_the_generator():
    w = torch.ones(3, 4, 4, requires_grad=True)
    x_fake = torch.randn(2, 3, 4, 4, requires_grad=True)
    critic = lambda x: (x * w).sum((1, 2, 3))  # noqa: E731
    GradientPenalty()(step(critic, torch.randn(2, 3, 4, 4), x_fake)).backward()
    assert w.grad.abs().sum() > 0
    assert x_fake.grad is None


def test_gradient_penalty_stays_in_float32_under_autocast():
    dtypes = []

    def critic(x):
        y = x.flatten(1) @ torch.ones(48, 1)
        dtypes.append(y.dtype)
        return y.squeeze(1)

    with torch.autocast("cpu", torch.bfloat16):
        GradientPenalty()(step(critic, torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)))
    assert dtypes == [torch.bfloat16] * 2 + [torch.float32]


def test_gradient_penalty_rejects_unequal_shapes():
    with pytest.raises(ValueError, match=r"same shape, got \[2, 3, 4, 4\] and \[1, 3, 4, 4\]"):
        GradientPenalty()(
            step(lambda x: x.sum((1, 2, 3)), torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
        )


def test_gradient_penalty_refuses_a_negative_weight():
    with pytest.raises(ValueError, match="gp_weight must be at least 0, got -1"):
        GradientPenalty(-1)


def test_no_penalty_is_zero():
    x = torch.ones(2, 3, 4, 4)
    assert Regularizer()(step(lambda x: x, x, x)) == 0
