"""What a new GAN takes from another, and what keeps it from doing so."""

import pytest
import torch
from conftest import tiny_gan
from torch import nn

from mbgan.weights import begin_with


@pytest.fixture
def trained(fit):
    """A GAN whose three networks differ from a new one's, and its generators from each other."""
    gan = tiny_gan(n_critic=1, ema_half_life=1000)
    fit(gan, batches=5)
    return gan


def test_both_generators_begin_with_the_average_and_the_critic_with_the_critic(trained):
    gan = tiny_gan()
    begin_with(gan, trained.state_dict())
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


def conditioned(classes):
    gan = tiny_gan()
    gan.critic.projection = nn.Embedding(classes, 128)
    gan.generator_ema.embedding = nn.Embedding(classes, 4)
    gan.generator.embedding = nn.Embedding(classes, 4)
    return gan


def test_conditions_of_another_number_or_none_keep_their_random_start(trained):
    gan = conditioned(3)
    fresh = gan.critic.projection.weight.clone(), gan.generator.embedding.weight.clone()
    for source in (conditioned(5), trained):  # of the last one is the rest
        begin_with(gan, source.state_dict())
        assert torch.equal(gan.critic.projection.weight, fresh[0])
        assert torch.equal(gan.generator.embedding.weight, fresh[1])
    assert torch.equal(gan.critic.conv.weight, trained.critic.conv.weight)
    plain = tiny_gan()
    begin_with(plain, conditioned(3).state_dict())
    same = conditioned(3)
    begin_with(gan, same.state_dict())
    assert torch.equal(gan.critic.projection.weight, same.critic.projection.weight)


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
        begin_with(gan, trained.state_dict())
    assert torch.equal(gan.critic.conv.weight, tiny_gan().critic.conv.weight)
