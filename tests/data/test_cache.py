"""Images are decoded once; whatever happens to the cache, what is read from it is right."""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbgan.data import cache
from mbgan.data.cache import load_images
from mbgan.data.decode import decode
from mbgan.data.folder import find_images

SHARED = Path(__file__).parents[3] / "shared/data"  # beside the checkout


@pytest.fixture
def root(tmp_path):
    """Five readable images of noise and two that are not."""
    folder = tmp_path / "images/10x"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "1-empty.png").touch()
    (folder / "9-text.jpg").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """Lists the paths that `decode` was called with."""
    paths = []

    def spy(path, image_size):
        paths.append(path)
        return decode(path, image_size)

    monkeypatch.setattr(cache, "decode", spy)
    return paths


def expected(root, image_size=8):
    return np.stack([decode(root / f"10x/{i}.png", image_size)[0] for i in range(5)])


def test_images_come_in_the_order_of_their_names_without_the_unreadable(root, tmp_path):
    """Images and files go by the same index: a shift by one would swap patients."""
    found = load_images(find_images(root, "10x")[::-1], 8, tmp_path / "cache")
    np.testing.assert_array_equal(found.images, expected(root))
    assert isinstance(found.images, np.memmap)
    assert [f.name for f in found.files] == [f"10x/{i}.png" for i in range(5)]
    assert found.skipped == [
        ("10x/1-empty.png", "an empty file"),
        ("10x/9-text.jpg", "not an image of a known kind"),
    ]


def test_a_second_call_decodes_nothing_and_returns_the_same(root, tmp_path, decoded, caplog):
    first = load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert len(decoded) == 7
    caplog.clear()
    second = load_images(find_images(root, "10x")[::-1], 8, str(tmp_path / "cache"))
    assert len(decoded) == 7
    np.testing.assert_array_equal(first.images, second.images)
    assert second.files == first.files
    assert second.skipped == first.skipped
    assert second.sha256 == first.sha256
    assert [r.getMessage() for r in caplog.records] == [
        "skipped 2 of 7 images: 10x/1-empty.png (an empty file), "
        "10x/9-text.jpg (not an image of a known kind)"
    ]


def test_changed_files_and_sizes_are_decoded_anew(root, tmp_path, decoded):
    """A picture replaced by one of equal size in bytes still has another time."""
    load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert load_images(find_images(root, "10x"), 4, tmp_path / "cache").images.shape[-1] == 4
    load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert len(decoded) == 14  # both sizes are kept side by side
    os.utime(root / "10x/0.png", ns=(0, 1))
    load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert len(decoded) == 21
    (root / "10x/1-empty.png").unlink()
    assert len(load_images(find_images(root, "10x"), 8, tmp_path / "cache").skipped) == 1


def test_a_file_that_became_readable_is_not_skipped_for_ever(root, tmp_path, monkeypatch):
    """chmod changes neither size nor time."""
    with monkeypatch.context() as m:
        m.setattr(cache.os, "access", lambda path, mode: path.name != "0.png")
        m.setattr(
            cache,
            "decode",
            lambda path, size: decode(
                path if path.name != "0.png" else path.with_name("gone"), size
            ),
        )
        assert len(load_images(find_images(root, "10x"), 8, tmp_path / "cache").files) == 4
    assert len(load_images(find_images(root, "10x"), 8, tmp_path / "cache").files) == 5


def test_the_hash_covers_names_and_bytes_of_the_images_and_nothing_else(root, tmp_path):
    """Every run records it, so it may change with the data only, not with size or unread files."""

    def sha256(image_size=8):
        return load_images(find_images(root, "10x"), image_size, tmp_path / "cache").sha256

    first = sha256()
    digest = hashlib.sha256()
    for i in range(5):
        content = hashlib.sha256((root / f"10x/{i}.png").read_bytes()).hexdigest()
        digest.update(repr((f"10x/{i}.png", content)).encode())
    assert first == digest.hexdigest()
    (root / "10x/9-text.jpg").unlink()
    os.utime(root / "10x/0.png", ns=(0, 1))
    assert sha256(4) == first
    (root / "10x/0.png").rename(root / "10x/00.png")
    renamed = sha256()
    assert renamed != first
    Image.new("RGB", (12, 12)).save(root / "10x/00.png")
    assert sha256() not in (first, renamed)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def one_name_less(path):
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"files": meta["files"][1:]}))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".npy", cut),
        (".npy", lambda p: p.write_bytes(b"")),
        (".npy", lambda p: p.write_bytes(b"nonsense" * 40)),
        (".npy", lambda p: np.save(p, np.zeros((5, 3, 8, 8)))),
        (".npy", Path.unlink),
        (".json", cut),
        (".json", lambda p: p.write_text("")),
        (".json", lambda p: p.write_text("[]")),
        (".json", lambda p: p.write_text("{}")),
        (".json", lambda p: p.write_bytes(b"\xff\xfe")),
        (".json", one_name_less),
    ],
)
def test_a_damaged_cache_is_rebuilt_with_one_line(root, tmp_path, caplog, suffix, damage):
    load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(f"*{suffix}")
    damage(path)
    caplog.clear()
    found = load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    np.testing.assert_array_equal(found.images, expected(root))
    lines = [r.getMessage() for r in caplog.records]
    assert [line.startswith("decoding anew: the cache") for line in lines] == [True, False]


def test_a_kill_between_the_two_files_leaves_no_cache(root, tmp_path, decoded, monkeypatch):
    """The json comes last: images without it are not trusted."""

    class Kill(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Kill

    with monkeypatch.context() as m:
        m.setattr(cache.json, "dumps", kill)
        with pytest.raises(Kill):
            load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".npy"]
    load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert len(decoded) == 14


def test_a_rebuild_does_not_touch_images_in_use(root, tmp_path):
    """Writing into a file that another run has mapped would change or kill that run."""
    first = load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    (npy,) = (tmp_path / "cache").glob("*.npy")
    (meta,) = (tmp_path / "cache").glob("*.json")
    inodes = npy.stat().st_ino, meta.stat().st_ino
    meta.write_text("")
    load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert npy.stat().st_ino != inodes[0]
    assert meta.stat().st_ino != inodes[1]
    np.testing.assert_array_equal(first.images, expected(root))


def test_files_that_vanish_or_fail_are_skipped(root, tmp_path, monkeypatch):
    """A data set on a network drive must not end the run by one bad file."""
    files = find_images(root, "10x")
    (root / "10x/0.png").unlink()

    read_bytes = Path.read_bytes

    def fail(path):
        if path.name == "2.png":
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    skipped = load_images(files, 8, tmp_path / "cache").skipped
    assert ("10x/0.png", "no such file or directory") in skipped
    assert ("10x/2.png", "input/output error") in skipped


def build(root, cache_dir, barrier, queue):
    barrier.wait()
    queue.put(np.array(load_images(find_images(root, "10x"), 8, cache_dir).images))


def test_processes_may_build_at_once(root, tmp_path):
    """So do the ranks of a run on several devices."""
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    arguments = (root, tmp_path / "cache", barrier, queue)
    processes = [context.Process(target=build, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for _ in processes:
        np.testing.assert_array_equal(queue.get(timeout=30), expected(root))
    for process in processes:
        process.join()
    assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".json", ".npy"]


@pytest.mark.usefixtures("full_disk")
def test_on_a_full_disk_images_stay_in_memory_and_one_line_says_so(root, tmp_path, caplog):
    found = load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    (said,) = [r.getMessage() for r in caplog.records if "cache_dir" in r.getMessage()]
    assert re.match(r"cannot write 0 MB .*cache \(No space left.*memory.*set cache_dir=DIR$", said)
    assert list((tmp_path / "cache").iterdir()) == []
    np.testing.assert_array_equal(found.images, expected(root))


def test_a_cache_dir_that_is_a_file_changes_nothing_but_the_speed(root, tmp_path, caplog):
    (tmp_path / "file").touch()
    in_memory = load_images(find_images(root, "10x"), 8, tmp_path / "file")
    assert "cache_dir" in caplog.text
    cached = load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    np.testing.assert_array_equal(in_memory.images, cached.images)
    assert (in_memory.files, in_memory.skipped) == (cached.files, cached.skipped)
    assert in_memory.sha256 == cached.sha256


def test_too_few_images_are_refused_by_name(root, tmp_path):
    for i in range(1, 5):
        (root / f"10x/{i}.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="at least 2 readable images are needed, got 1") as error:
        load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert f"of magnification '10x' under {root}; skipped 6 of 7" in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(ValueError, match=r"got 0; set data.root=DIR"):
        load_images([], 8, tmp_path / "cache")


def test_arguments_out_of_range_are_refused(root, tmp_path):
    files = find_images(root, "10x")
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        load_images(files, 0, tmp_path / "cache")
    with pytest.raises(ValueError, match="files must differ in their names"):
        load_images(files + files, 8, tmp_path / "cache")


def test_many_odd_images_make_one_line_and_no_warnings(root, tmp_path, caplog):
    """Broken EXIF and palettes make PIL warn once an image."""
    image = Image.new("RGB", (8, 8))
    for i in range(20):
        image.save(root / f"10x/odd{i}.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03")
        (root / f"10x/text{i}.jpg").write_text("no image")
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        found = load_images(find_images(root, "10x"), 8, tmp_path / "cache")
    assert (len(found.files), len(found.skipped)) == (25, 22)
    assert not caught
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("skipped 22 of 47 images: 10x/1-empty.png (an empty file), ")
    assert line.endswith("(not an image of a known kind), ...")
    assert line.count("(") == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
def test_all_real_images_are_readable(tmp_path):
    files = find_images(SHARED / "stained-tissue", "low")
    found = load_images(files, 32, tmp_path)
    assert (found.files, found.skipped, found.images.shape) == (files, [], (33, 3, 32, 32))
