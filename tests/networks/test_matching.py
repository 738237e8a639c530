"""Matching of features as sets: its value, its memory, and its gradients on several devices."""

import pytest
import torch

from mbgan.latents import Draws
from mbgan.networks import matching as module
from mbgan.networks.matching import Matching
from mbgan.networks.projected import ProjectedCritic

ALONE = Draws(seed=0, step=0)


def features(n, seed, shift=0.0):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)).double() + shift


def filled(real):
    matching = Matching(4, capacity=len(real), least=2).double()
    matching.remember(real, ALONE)
    return matching


def test_it_is_the_kernel_distance_of_the_scaled_features_up_to_the_reals_own_part():
    """Pair by pair, with features scaled by the real ones' mean and spread."""
    real, fake = features(30, seed=0, shift=5.0), features(6, seed=1)
    mean, std = real.mean(0), real.std(0) + 1e-4
    x, y = (fake - mean) / std, (real - mean) / std
    k = lambda a, b: float((a @ b / 4 + 1) ** 3)  # noqa: E731
    within = sum(k(x[i], x[j]) for i in range(6) for j in range(6) if i != j) / 30
    expected = within - 2 * sum(k(a, b) for a in x for b in y) / 180
    assert float(filled(real)(fake, ALONE)) == pytest.approx(expected, rel=1e-9)


def test_descending_it_moves_a_set_to_where_the_real_ones_lie():
    matching, fake = filled(features(200, seed=0, shift=2.0)), features(60, seed=1)
    fake.requires_grad_(True)
    optimizer = torch.optim.Adam([fake], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        matching(fake, ALONE).backward()
        optimizer.step()
    torch.testing.assert_close(
        fake.detach().mean(0), torch.full((4,), 2.0).double(), atol=0.2, rtol=0
    )
    assert fake.detach().std(0).min() > 0.6  # spread out, not gathered at the mean


def test_gradients_of_two_devices_average_to_those_of_one(monkeypatch):
    matching, whole = filled(features(30, seed=0)), features(8, seed=1).requires_grad_(True)
    matching(whole, ALONE).backward()
    ranks = []
    for rank in (0, 1):
        own = whole.detach()[4 * rank : 4 * rank + 4].requires_grad_(True)
        mean, std = matching.memory.mean(0), matching.memory.std(0) + 1e-4
        scaled = (whole.detach() - mean) / std
        monkeypatch.setattr(module, "gathered", lambda x, draws, scaled=scaled: scaled)
        matching(own, Draws(0, 0, rank, world_size=2)).backward()
        ranks.append(own.grad / 2)  # as averaging over two devices does
    torch.testing.assert_close(torch.cat(ranks), whole.grad, rtol=1e-9, atol=1e-12)


def test_it_waits_until_it_knows_enough_and_forgets_the_oldest():
    matching = Matching(4, capacity=6, least=5).double()
    first, second, fake = features(4, seed=0), features(4, seed=1), features(3, seed=2)
    matching.remember(first, ALONE)
    assert matching(fake, ALONE) == 0
    matching.remember(second, ALONE)
    assert matching(fake, ALONE) != 0
    assert torch.equal(matching.memory, torch.cat([second, first[:2]]))


def test_a_critic_remembers_the_real_images_and_judges_the_generated_ones():
    critic = ProjectedCritic(image_size=16, width=4, input_size=32, matching_weight=1.0)
    critic.matching.least = 2
    x_real, x_fake = torch.rand(3, 3, 16, 16), torch.zeros(3, 3, 16, 16)
    critic(torch.cat([x_real, x_fake]))
    assert critic.extra_loss(x_real, ALONE) == 0
    critic(x_real)
    assert torch.equal(critic.matching.memory[:3], critic._pooled)
    critic(x_fake.requires_grad_(True))
    critic.extra_generator_loss(ALONE).backward()
    assert x_fake.grad.abs().sum() > 0
    assert {"matching.memory", "matching.remembered"} <= critic.state_dict().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matching_weight": -1}, "matching_weight must be at least 0, got -1"),
        ({"matching_weight": 1, "batch_norm": True}, "needs a critic that judges real and generat"),
    ],
)
def test_what_cannot_be_matched_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ProjectedCritic(image_size=16, width=4, **settings)
