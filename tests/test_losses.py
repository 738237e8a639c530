import torch

from mbgan.losses import Wasserstein


def test_wasserstein_loss_has_the_signs_of_algorithm_1():
    """Line 10: E[D(x_fake)] - E[D(x_real)]; line 17: -E[D(x_fake)]."""
    d_real, d_fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    assert Wasserstein().critic(d_real, d_fake) == -2.5
    assert Wasserstein().generator(None, d_fake) == -1.5


def test_a_critic_that_minimizes_it_learns_to_score_real_images_higher():
    """Fig. 3 of the paper prints the other sign, with which this fails."""
    w = torch.zeros(1, requires_grad=True)
    x_real, x_fake = torch.ones(4), -torch.ones(4)
    Wasserstein().critic(w * x_real, w * x_fake).backward()
    w = w - 0.1 * w.grad
    assert (w * x_real).mean() > (w * x_fake).mean()
