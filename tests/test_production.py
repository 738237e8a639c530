"""Images in any number: each a function of its index, labeled, and never made twice."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from conftest import TinyGenerator, field
from PIL import Image

from mbgan import detect, generate
from mbgan.images import to_uint8
from mbgan.labels import SOURCE, SUFFIX, encode, jpeg_quality
from mbgan.latents import fixed_latents
from mbgan.production import BLOCK, Order, produce
from mbgan.watermark import mark

ORIGIN = {"run": "/somewhere", "checkpoint": "best", "checkpoint_sha256": "0" * 64}


def tiny():
    torch.manual_seed(0)
    generator = TinyGenerator()
    generator.norm.running_var.uniform_(0.5, 2)
    return generator.eval()


def order(n, **changes):
    settings = {
        "seed": 0,
        "conditions": [0],
        "truncation": 1.0,
        "kind": "png",
        "quality": 95,
        "shard_size": None,
        "key": None,
        "origin": ORIGIN,
        "judged": {},
    }
    return Order(n=n, **settings | changes)


def rows(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files(out):
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def test_an_image_depends_on_its_index_alone(tmp_path):
    """Not on n, nor on what was there before, nor on the number of processes."""
    produce(tiny(), order(40), tmp_path / "all")
    produce(tiny(), order(3), tmp_path / "parts")
    produce(tiny(), order(21), tmp_path / "parts")
    produce(tiny(), order(40), tmp_path / "parts")
    assert len(files(tmp_path / "all")) == 40
    assert files(tmp_path / "all") == files(tmp_path / "parts")
    assert sorted(row["index"] for row in rows(tmp_path / "parts")) == list(range(40))


@pytest.mark.ddp
def test_two_processes_make_the_images_of_one(tmp_path):
    produce(tiny(), order(40), tmp_path / "one")
    produce(tiny(), order(40), tmp_path / "two", devices=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert sorted(row["index"] for row in rows(tmp_path / "two")) == list(range(40))


def test_every_block_has_one_size(tmp_path):
    """In batches of other sizes sums round differently, and a pixel may differ by one."""
    generator, sizes = tiny(), []
    generator.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    produce(generator, order(BLOCK + 1), tmp_path / "out")
    assert sizes == [BLOCK, BLOCK]


def test_what_a_kill_cut_off_is_made_again_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    produce(tiny(), order(32), out)
    before = files(out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # torn
    (out / "000031.png").write_bytes(b"half an im")
    (out / "000030.png").write_bytes(b"mine")
    produce(tiny(), order(32), out)
    assert [row["index"] for row in rows(out)] == list(range(32))
    assert (out / "000031.png").read_bytes() == before["000031.png"]
    assert (out / "000030.png").read_bytes() == b"mine"


def test_other_settings_in_a_folder_are_refused_by_name(tmp_path):
    produce(tiny(), order(2), tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"made with seed=0, not seed=1; set out=DIR"):
        produce(tiny(), order(2, seed=1), tmp_path / "out")
    other = ORIGIN | {"checkpoint_sha256": "1" * 64}
    with pytest.raises(FileExistsError, match="checkpoint_sha256"):
        produce(tiny(), order(2, origin=other), tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_shards_hold_whole_images_and_survive_a_larger_n(tmp_path):
    produce(tiny(), order(20, shard_size=16), tmp_path / "a")
    produce(tiny(), order(40, shard_size=16), tmp_path / "a")
    produce(tiny(), order(40, shard_size=16), tmp_path / "b")
    names = [f"shard-{i:06d}.tar" for i in range(3)]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    inside = []
    for name in names:
        with tarfile.open(tmp_path / "a" / name) as tar:
            inside += [f"{name}/{member}" for member in tar.getnames()]
    assert inside == [row["file"] for row in rows(tmp_path / "a")]
    assert len(inside) == 40


def test_a_rejected_image_has_a_row_and_no_file(tmp_path):
    def judge(images):
        return [{"rejected": "near copy" if i % 4 == 0 else None} for i in range(len(images))]

    counts = produce(tiny(), order(20), tmp_path / "out", judge=judge)
    assert counts == {"images": 15, "near copy": 5}
    assert len(files(tmp_path / "out")) == 15
    assert [row["index"] for row in rows(tmp_path / "out") if row["file"] is None] == [
        0, 4, 8, 12, 16,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_file_says_that_it_is_synthetic(kind):
    """In the words of IPTC, in EXIF, and in what the format itself has for text."""
    content = encode(np.zeros((16, 16, 3), np.uint8), {"index": 7}, kind, 90)
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp"))
        assert SOURCE in (xmp.decode() if isinstance(xmp, bytes) else xmp)
        assert "synthetic" in image.getexif()[0x010E]
        if kind == "png":
            assert image.text["synthetic"] == "true"
            assert json.loads(image.text["Source"]) == {"index": 7}
        else:
            assert json.loads(image.info["comment"])["synthetic"] is True


@pytest.mark.parametrize("quality", [30, 75, 92])
def test_jpeg_quality_is_read_from_the_files_tables(tmp_path, quality):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", quality=quality)
    Image.new("RGB", (16, 16)).save(tmp_path / "b.png")
    assert jpeg_quality([tmp_path / "a.jpg", tmp_path / "b.png"]) == quality
    assert jpeg_quality([tmp_path / "b.png"]) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gif"}, "format must be one of png, jpeg, got gif"),
        ({"quality": 101}, "quality must be from 1 to 100, got 101"),
        ({"shard_size": 10}, "shard_size must be null or a multiple of 16, got 10"),
        ({"truncation": 0}, r"truncation must be in \(0, 1\], got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        order(1, **changes)


def test_generated_images_are_detected_and_audited_and_originals_are_neither(
    call, untrained, folder, tmp_path
):
    run, out = untrained("dcgan"), tmp_path / "out"
    code, err = call(generate.main, f"run={run}", f"out={out}", "n=16", "audit=true")
    assert code == 0, err
    assert all(row["nearest"] and row["nearest_distance"] > 0 for row in rows(out))
    table = tmp_path / "found.csv"
    for images, synthetic in ((out, 16), (folder, 0)):
        code, err = call(detect.main, f"images={images}", f"out={table}")
        assert code == 0, err
        assert table.read_text().count(",true,") == synthetic


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_threads_make_the_very_files_of_a_plain_loop(tmp_path, kind):
    generator, made = tiny(), {}
    for start in range(0, 40, BLOCK):
        z = fixed_latents(range(start, start + BLOCK), generator.z_dim, 0)
        for i, image in enumerate(to_uint8(generator(z).detach()), start):
            row = {"synthetic": True, "index": i, "seed": 0, "truncation": 1.0, **ORIGIN}
            del row["run"]
            pixels = mark(image.permute(1, 2, 0).contiguous().numpy(), "key")
            made[f"{i:06d}{SUFFIX[kind]}"] = encode(pixels, row, kind, 95)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        produce(tiny(), order(40, key="key", kind=kind), tmp_path / "out")
    finally:
        torch.set_num_threads(threads)
    found = {p.name: p.read_bytes() for p in (tmp_path / "out").glob(f"*{SUFFIX[kind]}")}
    assert found == dict(sorted(made.items())[:40])
    assert [row["index"] for row in rows(tmp_path / "out")] == list(range(40))


def test_at_most_two_blocks_are_drawn_ahead_of_what_is_written(tmp_path):
    """Or memory would grow with n where files are made more slowly than images."""
    out, written = tmp_path / "out", []

    def judge(images):
        written.append(len(rows(out)) if (out / "manifest.jsonl").exists() else 0)
        return [{} for _ in images]

    produce(tiny(), order(5 * BLOCK), out, judge=judge)
    assert written == [0, 0, 0, BLOCK, 2 * BLOCK]


def test_a_png_of_tissue_is_hardly_larger_than_pillows_own():
    plain, ours = io.BytesIO(), 0
    for seed in range(4):
        Image.fromarray(field(seed, 128)).save(plain, "PNG")
        ours += len(encode(field(seed, 128), {}, "png", 95))
    labels = len(encode(field(0, 1), {}, "png", 95))
    assert ours - 4 * labels < 1.1 * plain.tell()
