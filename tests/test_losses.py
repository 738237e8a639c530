import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from mbgan.losses import Hinge, NonSaturating, Relativistic, Wasserstein, ordered

LOSSES = [Wasserstein(), NonSaturating(), Hinge(), Relativistic()]
REAL, FAKE = torch.tensor([3.0, -0.5]), torch.tensor([1.0, -2.0])


def by_name(loss):
    return type(loss).__name__


def softplus(x):
    return math.log1p(math.exp(x))


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


def test_non_saturating_loss_is_binary_cross_entropy_with_the_label_turned_for_the_generator():
    """Goodfellow et al. 2014, sec. 3: max log D(G(z)) in place of min log(1 - D(G(z)))."""
    real = F.binary_cross_entropy_with_logits(REAL, torch.ones(2))
    fake = F.binary_cross_entropy_with_logits(FAKE, torch.zeros(2))
    torch.testing.assert_close(NonSaturating().critic(REAL, FAKE), real + fake)
    turned = F.binary_cross_entropy_with_logits(FAKE, torch.ones(2))
    torch.testing.assert_close(NonSaturating().generator(None, FAKE), turned)


def test_hinge_loss_asks_for_a_margin_of_one_on_either_side():
    """Real 3 is past its margin, -0.5 lacks 1.5; fake 1 lacks 2, -2 is past."""
    assert Hinge().critic(REAL, FAKE) == (0 + 1.5) / 2 + (2 + 0) / 2
    assert Hinge().generator(None, FAKE) == 0.5


def test_relativistic_loss_compares_each_real_image_with_its_fake():
    """Pairs (3, 1) and (-0.5, -2): differences 2 and 1.5, not those of the means."""
    critic = (softplus(-2.0) + softplus(-1.5)) / 2
    generator = (softplus(2.0) + softplus(1.5)) / 2
    assert Relativistic().critic(REAL, FAKE).item() == pytest.approx(critic)
    assert Relativistic().generator(REAL, FAKE).item() == pytest.approx(generator)
    turned = Relativistic().critic(REAL, FAKE.flip(0))
    assert not torch.isclose(turned, Relativistic().critic(REAL, FAKE))


def test_relativistic_loss_depends_on_differences_alone():
    for shift in (5.0, -7.0):
        moved = Relativistic().critic(REAL + shift, FAKE + shift)
        torch.testing.assert_close(moved, Relativistic().critic(REAL, FAKE))


@pytest.mark.parametrize("loss", LOSSES, ids=by_name)
def test_both_players_pull_scores_apart_in_the_right_direction(loss):
    """The critic raises real and lowers fake scores; the generator raises fake ones."""
    d_real, d_fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    loss.critic(d_real, d_fake).backward()
    assert (d_real.grad < 0).all()
    assert (d_fake.grad > 0).all()
    d_fake.grad = None
    loss.generator(torch.zeros(3) if loss.needs_real else None, d_fake).backward()
    assert (d_fake.grad < 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=by_name)
def test_scores_of_several_places_count_as_their_mean(loss):
    """An image with K scores weighs as much as one with a single one."""
    d_real, d_fake = torch.randn(4, 6), torch.randn(4, 6)
    columns = zip(d_real.unbind(1), d_fake.unbind(1), strict=True)
    each = torch.stack([loss.critic(real, fake) for real, fake in columns])
    torch.testing.assert_close(loss.critic(d_real, d_fake), each.mean())


@pytest.mark.parametrize("loss", LOSSES[1:], ids=by_name)
def test_large_scores_give_finite_losses(loss):
    far = torch.tensor([1e4, -1e4])
    assert loss.critic(far, -far).isfinite()
    assert loss.generator(-far, far).isfinite()


def test_order_is_the_area_under_the_roc_curve_of_each_place():
    """Against scikit-learn, with ties; images of places are compared place by place."""
    generator = torch.Generator().manual_seed(0)
    d_real = torch.randint(0, 9, (7, 3), generator=generator).float()
    d_fake = torch.randint(0, 6, (5, 3), generator=generator).float()
    is_real = [1] * 7 + [0] * 5
    areas = [
        roc_auc_score(is_real, torch.cat([real, fake]))
        for real, fake in zip(d_real.T, d_fake.T, strict=True)
    ]
    assert ordered(d_real[:, 0], d_fake[:, 0]).item() == pytest.approx(areas[0])
    assert ordered(d_real, d_fake).item() == pytest.approx(sum(areas) / 3)
    assert ordered(d_fake, d_fake - 9).item() == 1
