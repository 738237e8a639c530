"""Parts that theory forbids to go together are refused before any data is read."""

import pytest
from conftest import preset_gan
from hydra.errors import InstantiationException

FORBIDDEN = {
    "wgan_gp regularizer=none": "Wasserstein loss needs a regularizer that bounds the critic's",
    "wgan_gp regularizer.gp_weight=0": "Wasserstein loss needs a regularizer that bounds the",
    "wgan_gp regularizer=r1 regularizer.gamma=0": "Wasserstein loss needs a regularizer that",
    "wgan_gp regularizer=lecam": "Wasserstein loss needs a regularizer that bounds the critic's",
    "dcgan regularizer=gp": "GradientPenalty needs a critic without batch norm",
    "dcgan regularizer=r1_r2": "ZeroCentered needs a critic without batch norm",
    "fastgan_lite regularizer=r1": "ZeroCentered needs a critic without batch norm",
    "wgan_gp augment=ada": "Adaptive needs a loss whose scores divide at 0.*got Wasserstein",
    "r3gan_lite augment=ada": "Adaptive needs a loss whose scores divide at 0.*got Relativistic",
    "dcgan +model.generator_regularizer._target_=mbgan.regularizers.PathLength": (
        "PathLength needs a generator with styles.*got DCGANGenerator"
    ),
    "projected regularizer=clip": "WeightClipping needs.*ProjectedCritic, which rescales",
    "stylegan_lite regularizer=clip": "WeightClipping needs.*StyleGANCritic, which rescales",
    "dcgan model.critic.image_size=64": "must have one image_size, got 32 and 64",
    "wgan_gp model.critic.image_size=48": "image_size must be a power of two from 16 to 256",
    "stylegan_lite model.generator.w_dim=0": "w_dim must be at least 1, got 0",
}
ALLOWED = (
    "wgan_gp regularizer=r1",
    "wgan_gp regularizer=clip",
    "dcgan regularizer=lecam augment=ada",
    "dcgan regularizer=gp model.critic.batch_norm=false",
    "stylegan_lite regularizer=gp",
    "stylegan_lite model.generator_regularizer.pl_weight=2 augment=ada",
    "fastgan_lite regularizer=r1 model.critic.batch_norm=false",
    "projected regularizer=r1",
    "r3gan_lite augment=diffaugment regularizer=r1",
)


@pytest.mark.parametrize(("words", "message"), FORBIDDEN.items(), ids=FORBIDDEN)
def test_a_forbidden_pair_is_refused_with_the_rule(words, message):
    with pytest.raises(InstantiationException, match=message):
        preset_gan(*words.split())


@pytest.mark.parametrize("words", ALLOWED)
def test_what_theory_allows_is_built(words):
    preset_gan(*words.split())
