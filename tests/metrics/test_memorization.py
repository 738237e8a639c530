import math

import pytest
import torch

from mbgan.data.stream import turn
from mbgan.metrics import neighbors
from mbgan.metrics.likelihood import fld_gap
from mbgan.metrics.memorization import (
    authenticity,
    closer,
    copy_test,
    match_others,
    nearest_pose,
    poses,
    similarity,
    verdict,
)


def points(n, seed, shift=0.0, width=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64) + shift


def tissue(n, seed, side=32):
    """Blots [n, 3, side, side], uint8, no two images alike and none symmetric."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, side, mode="nearest") * 255).to(torch.uint8)


def seen(images):
    """Features [N, 108] that change as much with the pose as with the image."""
    return torch.nn.functional.avg_pool2d(images.double(), images.shape[-1] // 8).flatten(1)


def in_poses(images):
    return torch.stack([seen(pose) for pose in poses(images)])


def test_poses_are_those_of_training():
    x = tissue(3, 0)
    for number, pose in enumerate(poses(x)):
        assert torch.equal(pose, turn(x, torch.full((3,), number)))


def test_authenticity_on_a_line_by_hand():
    """Training at 0, 1 and 4. 0.4 is 0.4 from 0, whose neighbor is 1 away; 7 is 3 from 4: no > 3;
    8 is farther."""
    train = torch.tensor([[[0.0], [1.0], [4.0]]])
    assert authenticity(train, torch.tensor([[0.4], [8.0]])) == 0.5
    assert authenticity(train, torch.tensor([[7.0], [8.0]])) == 0.5


def test_other_poses_of_an_image_are_no_other_images():
    """Poses of 0 lie at 0 and 0.1, of 10 at 10 and 10.1: 1 is nearer to 0 than 10 is."""
    train = torch.tensor([[[0.0], [10.0]], [[0.1], [10.1]]])
    assert authenticity(train, torch.tensor([[1.0], [-1.0]])) == 0.0
    found = match_others(train)
    assert found.distance.tolist() == pytest.approx([10, 9.9])
    assert found.image.tolist() == [1, 0]
    assert found.pose.tolist() == [0, 1]


def test_copies_are_not_authentic_whatever_their_pose():
    train, held_out = tissue(40, 0), tissue(40, 1)
    assert authenticity(in_poses(train), seen(turn(train, torch.arange(40) % 8))) == 0.0
    assert authenticity(in_poses(train), seen(held_out)) > 0.2


def test_match_finds_the_copied_image_and_its_pose():
    train = tissue(16, 0)
    numbers = torch.arange(16).flip(0)
    copies = turn(train[numbers], torch.arange(16) % 8)
    found = nearest_pose(in_poses(train), seen(copies))
    assert found.image.tolist() == numbers.tolist()
    assert found.pose.tolist() == (torch.arange(16) % 8).tolist()
    assert (found.distance == 0).all()  # exactly: not the error of a product
    torch.testing.assert_close(
        similarity(found, train, copies), torch.ones(16).double(), atol=1e-5, rtol=0
    )


def test_similarity_is_low_for_strangers():
    train, held_out = tissue(16, 0), tissue(16, 1)
    assert similarity(nearest_pose(in_poses(train), seen(held_out)), train, held_out).max() < 0.6


def test_copy_test_of_fakes_that_are_all_nearer_is_the_extreme_z():
    """U = 0: Z = -(n m / 2) / sqrt(n m (n + m + 1) / 12)."""
    train = points(30, 0)[None]
    near, far = train[0, :10] + 1e-3, points(20, 1, shift=50)
    expected = -(10 * 20 / 2) / math.sqrt(10 * 20 * 31 / 12)
    z, p = copy_test(train, far, near)
    assert z == pytest.approx(expected)
    assert p == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)))
    assert copy_test(train, near, far).z == pytest.approx(
        (10 * 20 / 2) / math.sqrt(10 * 20 * 31 / 12)
    )


def test_copy_test_of_equal_sets_is_zero():
    train, x = points(30, 0)[None], points(20, 1)
    assert copy_test(train, x, x.flip(0)) == (0.0, 0.5)


def test_copy_test_measures_in_the_principal_axes_of_training():
    """What no training image varies in does not count."""
    train = torch.cat([points(50, 0, width=3), torch.zeros(50, 2)], 1)[None]
    held_out = torch.cat([points(20, 1, width=3), torch.zeros(20, 2)], 1)
    away = held_out + torch.tensor([0, 0, 0, 100.0, 0])
    assert copy_test(train, held_out, away, components=3).z == pytest.approx(0, abs=1e-6)


def test_closer_is_the_hypergeometric_tail():
    """The ten lowest of 10 and 10 come from one side in 1 of 20-choose-10 orders."""
    low, high = torch.arange(10.0), torch.arange(10.0) + 100
    assert closer(low, high) == pytest.approx(1 / math.comb(20, 10))
    assert closer(high, low) == 1.0
    assert closer(torch.zeros(50), torch.zeros(50)) == 1.0  # ties are no evidence


def test_new_images_are_seldom_suspicious():
    words = []
    for seed in range(0, 300, 3):
        train, held_out, fake = (points(80, 1000 + seed + i, width=16) for i in range(3))
        words.append(verdict(train[None], held_out, fake).word)
    assert words.count("fine") >= 92  # of 100; 5 % false alarms give 89 or fewer in 1 of 100
    assert "copying" not in words


@pytest.mark.parametrize("n_held_out", [150, 40])
def test_one_copy_in_ten_is_found_and_every_other_is_copying(n_held_out):
    train, held_out, fake = (points(n, s, width=16) for s, n in enumerate((150, n_held_out, 150)))
    fake[:15] = train[:15] + 0.05 * fake[:15]
    few = verdict(train[None], held_out, fake)
    assert few.word == "suspicious"
    assert few.share == pytest.approx(0.1, abs=0.05)
    fake[:75] = train[:75] + 0.05 * fake[:75]
    many = verdict(train[None], held_out, fake)
    assert many.word == "copying"
    assert many.share == pytest.approx(0.5, abs=0.05)


def test_turned_copies_are_found_in_pixels_too():
    train, held_out, fake = (tissue(60, seed) for seed in range(3))
    fake[:30] = turn(train[:30], torch.arange(30) % 8)
    sides = (in_poses(train), seen(held_out), seen(fake))
    found = verdict(*sides, images=(train, held_out, fake))
    assert found.word == "copying"
    assert found.p_values["similarity/held_out"] < found.level
    assert found.p_values["similarity/train"] < found.level
    upright = verdict(seen(train)[None], seen(held_out), seen(fake))  # a single pose finds few
    assert upright.p_values["distance/train"] > found.p_values["distance/train"]


def test_fakes_nearer_than_held_out_images_of_other_patients_are_no_copies():
    """Training and fakes of one distribution, held-out images of another."""
    train, fake, held_out = points(100, 0), points(100, 1), points(100, 2, shift=3)
    found = verdict(train[None], held_out, fake)
    assert found.p_values["distance/held_out"] < found.level
    assert found.word == "suspicious"


def test_one_outlier_changes_nothing():
    train, held_out, fake = (points(60, seed) for seed in range(3))
    before = verdict(train[None], held_out, fake).p_values
    fake[-1], train[-1] = 1e6, -1e6
    after = verdict(train[None], held_out, fake).p_values
    assert before == pytest.approx(after, abs=0.2)
    assert authenticity(train[None], fake) > 0.1


def test_order_and_block_size_do_not_matter(monkeypatch):
    train, held_out, fake = (tissue(20, seed) for seed in range(3))
    fake[:5] = train[:5]

    def scores(train, held_out, fake):
        sides = in_poses(train), seen(held_out), seen(fake)
        found = verdict(*sides, images=(train, held_out, fake))
        return [authenticity(sides[0], sides[2]), *copy_test(*sides), *found.p_values.values()]

    whole = scores(train, held_out, fake)
    monkeypatch.setattr(neighbors, "BLOCK", 500)
    assert scores(train.flip(0), held_out.roll(3, 0), fake.roll(7, 0)) == pytest.approx(whole)


X = points(5, 0)
BAD = {
    "train of one image": ((X[None, :1], X, X), "train must be .* at least 2 images, got"),
    "train without poses": ((X, X, X), r"train must be .* got \[5, 8\]; features.unsqueeze"),
    "one fake": ((X[None], X, X[:1]), r"fake must be .* at least 2 images, got \[1, 8\]"),
    "other width": ((X[None], X[:, :3], X), r"held_out must be features \[N, 8\] .* got \[5, 3\]"),
    "NaN": ((X[None], X, X * math.nan), "fake must be finite, got NaN or infinity in 5 rows"),
    "equal": ((torch.ones(1, 5, 8), X, X), "train must hold images that differ, got 5"),
}


@pytest.mark.parametrize("score", [verdict, copy_test, fld_gap])
@pytest.mark.parametrize(("sides", "message"), BAD.values(), ids=BAD)
def test_bad_features_are_refused(score, sides, message):
    with pytest.raises(ValueError, match=message):
        score(*sides)


def test_images_of_another_kind_are_refused():
    train = tissue(4, 0)
    found = nearest_pose(in_poses(train), seen(train))
    with pytest.raises(ValueError, match=r"images must be one per match, 4, .* size"):
        similarity(found, train, train[:, :, :16])
    with pytest.raises(
        ValueError, match=r"images must be uint8, got torch\.uint8 and torch\.float"
    ):
        similarity(found, train, train.float())


def test_a_generator_of_one_image_gets_a_verdict():
    """All fakes equal: a collapsed generator, not an error."""
    train, held_out = points(40, 0), points(40, 1)
    assert verdict(train[None], held_out, points(1, 2).expand(40, -1)).word in {
        "fine",
        "suspicious",
        "copying",
    }
