"""What is read back is what the extractor saw, of these images, whatever happened to the file."""

import pytest
import torch

from mbgan.metrics.features import Features
from mbgan.studies.feature_cache import extract_once


class Counting:
    """Features that depend on its weights, and how often it was asked for some."""

    def __init__(self, weights="a"):
        self.fingerprint, self.calls = weights * 64, 0

    def extract(self, x):
        self.calls += 1
        flat = x.flatten(1).double() / 7 + ord(self.fingerprint[0])
        return Features(flat[:, :5], flat[:, :3])


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)


def test_the_same_images_are_looked_at_once_and_come_back_bit_by_bit(images, tmp_path):
    first = extract_once(Counting(), images, tmp_path / "cache")
    again = Counting()
    second = extract_once(again, images.clone(), str(tmp_path / "cache"))
    assert again.calls == 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_other_weights_and_other_images_have_features_of_their_own(images, tmp_path):
    other = images.clone()
    other[-1, -1, -1, -1] ^= 1
    sets = [images, other, images.flip(0), images.flip(-1), images.view(6, 3, 4, 16), images.mT]
    for extractor in (Counting("a"), Counting("b")):
        for x in sets:
            seen = extract_once(extractor, x, tmp_path)
            assert torch.equal(seen.features, extractor.extract(x).features)
        assert extractor.calls == 2 * len(sets)
    assert len(list(tmp_path.rglob("*.npz"))) == 2 * len(sets)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # among the features: only a checksum can tell
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(p.read_bytes()[:-5]),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"nonsense" * 40),
        flip_a_bit,
    ],
)
def test_a_damaged_file_is_made_anew(images, tmp_path, caplog, damage):
    first = extract_once(Counting(), images, tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    damage(path)
    extractor = Counting()
    assert torch.equal(extract_once(extractor, images, tmp_path).features, first.features)
    assert [r.getMessage()[:17] for r in caplog.records] == ["extracting anew: "]
    extract_once(extractor, images, tmp_path)
    assert extractor.calls == 1


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_costs_time_and_leaves_no_half_a_file(images, tmp_path, caplog):
    extractor = Counting()
    for _ in range(2):
        seen = extract_once(extractor, images, tmp_path)
        assert torch.equal(seen.features, Counting().extract(images).features)
    assert extractor.calls == 2
    assert "are not kept in" in caplog.text
    assert "No space left" in caplog.text
    assert list((tmp_path / "features").iterdir()) == []
