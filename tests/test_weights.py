"""What a new GAN takes from another, and what keeps it from doing so."""

import pytest
import torch
from conftest import TinyCritic, tiny_gan
from torch import nn

from mbgan.networks.fastgan_lite import FastGANCritic
from mbgan.weights import begin_with


@pytest.fixture
def trained(fit):
    """A GAN whose three networks differ from a new one's, and its generators from each other."""
    gan = tiny_gan(n_critic=1, ema_half_life=1000)
    fit(gan, batches=5)
    return gan


def test_both_generators_begin_with_the_average_and_the_critic_with_the_critic(trained):
    gan = tiny_gan()
    begin_with(gan, trained.state_dict(), same_conditions=True)
    pairs = [
        (gan.generator, trained.generator_ema),
        (gan.generator_ema, trained.generator_ema),
        (gan.critic, trained.critic),
    ]
    for ours, theirs in pairs:
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert not torch.equal(gan.generator.dense.weight, trained.generator.dense.weight)
    assert gan.images_seen == gan.critic_steps == 0


def conditional(critic):
    gan = tiny_gan(critic=critic, condition="class", seed=int(torch.randint(100, ())))
    gan.condition_on(["a", "b"], [1, 1])
    return gan


@pytest.mark.parametrize(
    "critic", [TinyCritic, lambda: FastGANCritic(16, 2, batch_norm=False)], ids=["", "normed"]
)
def test_vectors_of_conditions_are_taken_over_where_they_are_the_same_ones(critic):
    """Under spectral norm too, which gives them other names."""
    torch.manual_seed(0)
    source, same, other = conditional(critic()), conditional(critic()), conditional(critic())
    fresh = {k: v.clone() for k, v in other.state_dict().items() if "projection" in k}
    vectors = other.generator.embedding.weight.clone()
    begin_with(same, source.state_dict(), same_conditions=True)
    begin_with(other, source.state_dict(), same_conditions=False)
    for name, value in source.state_dict().items():
        if "projection" in name or "embedding" in name:
            assert torch.equal(same.state_dict()[name], value), name
    assert fresh
    assert all(torch.equal(other.state_dict()[name], value) for name, value in fresh.items())
    assert torch.equal(other.generator.embedding.weight, vectors)
    assert torch.equal(other.generator.conv.weight, source.generator.conv.weight)


def test_a_run_without_conditions_begins_with_one_that_has_some_and_the_other_way_round(trained):
    begin_with(conditional(TinyCritic()), trained.state_dict(), same_conditions=False)
    begin_with(tiny_gan(), conditional(TinyCritic()).state_dict(), same_conditions=False)


@pytest.mark.parametrize(
    ("ours", "what"),
    [
        (nn.Linear(7, 1), r"critic.score.weight \[1, 128\] in the checkpoint and \[1, 7\] in the"),
        (nn.Identity(), r"critic.score.bias \[1\] in the checkpoint and missing in the model"),
        (nn.Bilinear(2, 2, 1), r"critic.score.weight \[1, 128\] in .* and \[1, 2, 2\] in the"),
    ],
)
def test_another_architecture_is_refused_by_its_first_tensor_and_nothing_is_taken(
    trained, ours, what
):
    gan = tiny_gan()
    gan.critic.score = ours
    with pytest.raises(ValueError, match=f"init_from must be a run of the same model .*{what}"):
        begin_with(gan, trained.state_dict(), same_conditions=True)
    assert torch.equal(gan.critic.conv.weight, tiny_gan().critic.conv.weight)
