import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from mbgan.data.stream import BatchStream, preview, turn
from mbgan.images import Rows
from mbgan.verbs import conf_dir, register_resolvers

IMAGES = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 3, 4, 4), np.uint8)

RANDOM = np.random.default_rng(0).integers(0, 256, (10, 3, 16, 16), dtype=np.uint8)
MARKED = np.zeros((1, 3, 4, 4), np.uint8)
MARKED[..., 0, 0] = 255  # in a corner: tells which way an image was flipped


@pytest.fixture(scope="module")
def albumentations():
    """Imported after mbgan, which keeps it from the network, and only where it is used."""
    import albumentations

    return albumentations


@pytest.fixture
def jitter(albumentations):
    """Two transforms whose draws show in every pixel."""
    crop = albumentations.RandomResizedCrop((16, 16), scale=(0.8, 1), ratio=(1, 1))
    return [crop, albumentations.RandomBrightnessContrast(p=1)]


def transformed(n, transforms, batch_size=8, workers=0, **settings):
    """The first n batches [n * batch_size, 3, 16, 16] of a transformed stream."""
    batches = stream_of(
        RANDOM, batch_size, settings.pop("seed", 0), transforms=transforms, **settings
    )
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    return torch.cat(first(n, loader))


def stream_of(images, *settings, **more):
    """The stream of images [N, 3, S, S] as they are, without conditions."""
    return BatchStream(Rows(images, np.arange(len(images))), *settings, **more)


def first(n, batches):
    """The images of the first n batches."""
    return [x for x, _ in islice(batches, n)]


def ids(batch):
    return batch[:, 0, 0, 0].tolist()


def test_every_image_comes_once_per_epoch_and_epochs_differ():
    batches = first(5, stream_of(IMAGES, batch_size=4, seed=0))  # 20 images: two epochs
    order = [i for batch in batches for i in ids(batch)]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_stream_goes_on_where_it_was_left_also_with_another_batch_size():
    whole = [i for b in first(10, stream_of(IMAGES, 4, seed=0)) for i in ids(b)]
    rest = [i for b in first(5, stream_of(IMAGES, 3, seed=0, start=12)) for i in ids(b)]
    assert rest == whole[12:27]


def test_ranks_share_the_batch_of_one_process():
    whole = first(1, stream_of(IMAGES, 6, seed=0))[0]
    parts = [first(1, stream_of(IMAGES, 6, 0, rank=r, world_size=3))[0] for r in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_worker_processes_change_nothing():
    alone = list(first(6, stream_of(IMAGES, 4, seed=0)))
    loader = DataLoader(stream_of(IMAGES, 4, seed=0), batch_size=None, num_workers=2)
    assert all(torch.equal(a, b) for a, b in zip(alone, first(6, loader), strict=True))


def test_turn_gives_the_eight_poses_of_the_square():
    x = torch.arange(4).view(1, 1, 2, 2).expand(8, 1, 2, 2)
    poses = {tuple(image.flatten().tolist()) for image in turn(x, torch.arange(8))}
    square = torch.arange(4).view(2, 2)
    turned = [torch.rot90(square, k) for k in range(4)]
    wanted = {tuple(t.flatten().tolist()) for s in turned for t in (s, s.T)}
    assert poses == wanted


def test_d4_off_leaves_images_upright():
    image = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    batch = first(1, stream_of(image, 8, seed=0, d4=False))[0]
    assert (batch.numpy() == image).all()
    turned = first(1, stream_of(image, 8, seed=0))[0]
    assert not (turned.numpy() == image).all()


def test_transforms_depend_neither_on_workers_nor_on_resuming(jitter):
    whole = transformed(6, jitter)
    assert torch.equal(transformed(6, jitter, workers=2), whole)
    assert torch.equal(transformed(4, jitter, start=16), whole[16:])


def test_transforms_depend_neither_on_ranks_nor_on_the_batch_size(jitter):
    whole = transformed(2, jitter, d4=False)  # which draws its poses a batch at a time
    assert torch.equal(transformed(4, jitter, batch_size=4, d4=False), whole)
    ranks = [
        transformed(2, jitter, d4=False, rank=r, world_size=2).view(2, 4, 3, 16, 16) for r in (0, 1)
    ]
    assert torch.equal(torch.cat(ranks, 1).view_as(whole), whole)


def test_transforms_draw_anew_for_every_image_epoch_and_seed(jitter):
    """Ten copies of one image: three epochs are thirty different pictures, under each seed."""
    same = RANDOM[:1].repeat(10, 0)
    streams = [stream_of(same, 30, seed, d4=False, transforms=jitter) for seed in (0, 1)]
    pictures = torch.cat([stream.batch(0)[0] for stream in streams])
    assert len(pictures.flatten(1).unique(dim=0)) == 60


def test_transforms_are_drawn_apart_from_one_another(albumentations):
    """Two flips at p=0.5: all four outcomes, each a quarter of the time (set_random_seed: two)."""
    flips = [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)]
    x = stream_of(MARKED, 400, 0, d4=False, transforms=flips).batch(0)[0][:, 0]
    counts = (x[:, [0, 0, 3, 3], [0, 3, 0, 3]] == 255).sum(0)
    assert counts.sum() == 400
    assert all(70 <= count <= 130 for count in counts)  # 100 +- 3.5 standard deviations


def test_images_keep_their_channels_and_their_upright(albumentations):
    """A transform that does nothing gives back what is there: [3, S, S] to [S, S, 3] and back."""
    plain = stream_of(RANDOM, 8, 0).batch(0)[0]
    nothing = [albumentations.NoOp()]
    assert torch.equal(stream_of(RANDOM, 8, 0, transforms=nothing).batch(0)[0], plain)


def test_what_is_no_transform_or_changes_the_form_of_images_is_refused_at_once(albumentations):
    def stream(*transforms):
        return stream_of(RANDOM, 4, 0, transforms=transforms)

    with pytest.raises(ValueError, match=r"albumentations transforms, got 'D4'; write each as"):
        stream(albumentations.D4(), "D4")
    small = r"images \[16, 16, 3\], uint8, got \[8, 8, 3\], uint8; add a resize to image_size"
    with pytest.raises(ValueError, match=small):
        stream(albumentations.RandomCrop(8, 8))
    stream(albumentations.RandomCrop(8, 8), albumentations.Resize(16, 16))
    with pytest.raises(ValueError, match=r"got \[16, 16, 3\], float32; .* floats out"):
        stream(albumentations.Normalize())
    with pytest.raises(ValueError, match=r"got \[3, 16, 16\], torch.uint8; .* tensors"):
        stream(albumentations.ToTensorV2())


def test_a_form_that_changes_later_is_refused_then(albumentations):
    """At p=0.1 the first image passes; a training must not see the eleventh cut down."""
    stream = stream_of(RANDOM, 100, 0, transforms=[albumentations.RandomCrop(8, 8, p=0.1)])
    with pytest.raises(ValueError, match=r"got \[8, 8, 3\], uint8"):
        stream.batch(0)[0]


def test_preview_shows_originals_and_then_versions_as_in_training(jitter):
    sheet = preview(stream_of(RANDOM, 4, 0, d4=False, transforms=jitter), n=3, versions=2)
    assert sheet.shape == (9, 3, 16, 16)
    originals = torch.from_numpy(RANDOM[[0, 4, 9]])
    assert torch.equal(sheet[:3], originals)
    assert len(sheet.flatten(1).unique(dim=0)) == 9
    turned_only = preview(stream_of(RANDOM, 4, 0), n=20, versions=1)
    assert len(turned_only) == 20
    assert not torch.equal(turned_only[10:], turned_only[:10])
    for x, pictures in zip(turned_only[10:], turned_only[:10], strict=True):
        assert (turn(pictures.expand(8, 3, 16, 16), torch.arange(8)) == x).all((1, 2, 3)).any()
    assert torch.equal(preview(stream_of(RANDOM, 4, 0, d4=False), 10, 1)[10:], turned_only[:10])


def preset(name):
    """The transforms of a config, as a training gets them for images of 16 pixels."""
    register_resolvers()
    with initialize_config_dir(str(conf_dir() / "transforms"), version_base="1.3"):
        cfg = compose(name, ["+image_size=16"])
    if name == "none":
        return list(instantiate(cfg.transforms, _convert_="all").values())
    return [instantiate(cfg[key], _convert_="all") for key in cfg if key != "image_size"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", []),
        ("stain", ["HEStain"]),
        ("crop", ["RandomResizedCrop"]),
        ("histology", ["HEStain", "RandomResizedCrop"]),
    ],
)
def test_presets_are_transforms_that_fit(name, expected):
    transforms = preset(name)
    assert [type(transform).__name__ for transform in transforms] == expected
    assert stream_of(RANDOM, 10, 0, transforms=transforms).batch(0)[0].shape == RANDOM.shape


def test_stain_preset_keeps_white_white_and_tissue_near_its_color():
    """Hematoxylin and eosin in other amounts: a fifth of the optical density at most."""
    hematoxylin, eosin = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    amounts = np.random.default_rng(0).uniform(0, 0.8, (2, 12, 32))
    density = np.einsum("khw,kc->chw", amounts, [hematoxylin, eosin])  # [3, 12, 32]
    tissue = np.full((1, 3, 32, 32), 255, np.uint8)
    tissue[0, :, 20:] = np.rint(255 * np.exp(-density))
    x = stream_of(tissue, 40, 0, d4=False, transforms=preset("stain")).batch(0)[0].numpy()
    assert (x[:, :, :20] == 255).all()
    changed = np.log(tissue[:, :, 20:] / np.maximum(x[:, :, 20:], 1.0)) / density.mean()
    by_image = np.abs(changed).mean((1, 2, 3))
    assert by_image.max() <= 0.25
    assert 10 <= (by_image > 0.02).sum() <= 30  # p=0.5 of 40


def test_no_transform_no_import_and_no_network():
    """albumentations asks pypi.org on import, and takes two seconds for it."""
    code = """
import socket, sys
import numpy as np
from mbgan.data.stream import BatchStream
from mbgan.images import Rows
images = Rows(np.zeros((4, 3, 16, 16), np.uint8), np.arange(4))
BatchStream(images, 4, 0).batch(0)
assert "albumentations" not in sys.modules, "imported without need"
def refuse(*args, **kwargs): raise SystemExit("asked the network")
socket.getaddrinfo = socket.create_connection = refuse
import albumentations
"""
    env = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
