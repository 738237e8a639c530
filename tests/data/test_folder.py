"""Paths tell magnification, class and patient; any file decodes to RGB or is refused in words."""

import os
import struct
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mbgan.data.decode import UnreadableImage, decode, read_image
from mbgan.data.folder import EXTENSIONS, Naming, find_images, scan

SHARED = Path(__file__).parents[3] / "shared/data"  # beside the checkout
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)  # [H, W, 3]


@pytest.fixture
def tree(tmp_path):
    """Makes empty files below a root whose name tells nothing, and returns the root."""

    def make(*names):
        root = tmp_path / "images"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return root

    return make


@pytest.mark.parametrize("asked", ["100x", "100X", "x100", "100 x"])
@pytest.mark.parametrize(
    "name",
    [
        "100x/a.jpg",
        "100X/a.JPG",
        "x100/a.jpg",
        "100 x/a.jpg",
        "Normal_100x_1.jpg",
        "400x/Normal_100x_1.jpg",
        "deep/er/Set (100x)/and/deeper/a.TiFF",
        "100x/tile_x400_y200.png",
        "100x/y0_x10.png",
        "100x/400 x 300.png",
    ],
)
def test_one_magnification_is_found_in_all_its_spellings(tree, name, asked):
    """The part nearest to the file wins; a tile's place or size is no magnification."""
    (file,) = find_images(tree(name), asked)
    assert (file.name, file.magnification) == (name, "100x")


@pytest.mark.parametrize(
    "name",
    ["110x", "100x", "1.10x", "0x10", "b10x", "10xf", "a1x10", "10x10", "10 x 10", "10xb4", "10"],
)
def test_10x_is_not_found_inside_other_words(tree, name):
    with pytest.raises(FileNotFoundError, match="no images of magnification '10x'"):
        find_images(tree(f"{name}/a.jpg", f"set/{name}.jpg"), "10x")


@pytest.mark.parametrize("asked", ["high", "HIGH"])
def test_a_plain_folder_name_is_a_magnification(tree, asked):
    root = tree("high/pink/a.png", "deep/High/b.png", "low/high.png", "highest/c.png")
    found = find_images(root, asked)
    assert [(f.name, f.label) for f in found] == [
        ("deep/High/b.png", "deep"),
        ("high/pink/a.png", "pink"),
    ]


def test_the_roots_own_name_counts_where_it_is_a_magnification(tree):
    """data.root=.../400x magnification=400x is what many will type; the file still wins."""
    root = tree("400x/Normal/a.jpg", "400x/Normal/b_100x.jpg", "high/a.jpg", "400x views/a.jpg")
    assert [f.name for f in find_images(root / "400x", "400x")] == ["Normal/a.jpg"]
    assert [f.name for f in find_images(root / "high", "high")] == ["a.jpg"]
    with pytest.raises(FileNotFoundError):
        find_images(root / "400x views", "400x")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("100x/Large-Cell/a.jpg", "large_cell"),
        ("Large  cell/100X/a.jpg", "large_cell"),
        (
            "First Set/100x Normal Oral Cavity Histopathological Images/Normal_100x_1.jpg",
            "normal_oral_cavity_histopathological_images",
        ),
        ("WNT (100x)/patient03/slide_7/a.jpg", "wnt"),
        ("100x/Patient 3 - SHH/a.jpg", "shh"),
        ("100x/Group 3/a.jpg", "group_3"),
        ("100x/a.jpg", "unknown"),
        ("100x_a.jpg", "unknown"),
    ],
)
def test_the_class_is_the_nearest_folder_that_tells_one(tree, name, label):
    """Magnification and patient tell no class, and neither does the root's own name."""
    (file,) = find_images(tree(name), "100x")
    assert file.label == label


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("100x/patient03_0007.jpg", "3"),
        ("100x/Patient 3/a.jpg", "3"),
        ("100x/case-12/a.jpg", "12"),
        ("slide_7/100x/a.jpg", "7"),
        ("100x/patient 5/case 2/slide_7.jpg", "5"),
        ("100x/Patient 1-9/patient_4/a.jpg", "4"),
        ("100x/slide_100x.jpg", None),
        ("100x/patient_unknown/a.jpg", None),
        ("100x/showcase 3/a.jpg", None),
        ("100x/a_0007.jpg", None),
    ],
)
def test_the_patient_is_found_without_a_pattern(tree, name, patient):
    (file,) = find_images(tree(name), "100x")
    assert file.patient == patient


def test_a_patient_pattern_of_ones_own_is_searched_in_the_whole_path(tree):
    root = tree("100x/WNT/SOB-22549AB/1.png", "100x/WNT/SOB-unknown/2.png", "100x/WNT/3.png")
    found = find_images(root, "100x", r"SOB-(\w+)/")
    assert [f.patient for f in found] == [None, "22549AB", None]
    found = find_images(root, "100x", r"([^/]+)/1\.png$")
    assert (found[1].patient, found[1].label) == ("SOB-22549AB", "wnt")


@pytest.mark.parametrize("pattern", ["patient(", "patient", "(a)(b)", ""])
def test_a_patient_pattern_without_its_one_group_is_refused(tree, pattern):
    with pytest.raises(ValueError, match=r"patient_pattern must .* one group, got .*patient\("):
        find_images(tree("100x/a.jpg"), "100x", pattern)


def test_hidden_and_other_files_are_left_out_and_names_are_sorted(tree):
    hidden = ["100x/._a.jpg", "100x/.b.jpg", ".trash/100x/a.jpg", "100x/a.txt", "100x/jpg"]
    shown = [f"100x/{i}{e}" for i, e in enumerate((*EXTENSIONS, ".JPG", ".Tif"))]
    root = tree(*hidden, *reversed(shown))
    found = find_images(root, "100x")
    assert [f.name for f in found] == shown
    assert all(f.path == root / f.name and f.path.is_absolute() for f in found)


def test_links_are_followed_once_and_without_end(tree, tmp_path):
    """An image found under two names could be trained on and held out at once."""
    root = tree("100x/Normal/a.jpg")
    (tmp_path / "elsewhere/100x").mkdir(parents=True)
    (tmp_path / "elsewhere/100x/b.jpg").touch()
    os.symlink(tmp_path / "elsewhere", root / "0 linked")
    os.symlink(tmp_path / "elsewhere/100x/b.jpg", root / "100x/b.jpg")
    os.symlink("nowhere.jpg", root / "100x/broken.jpg")  # reported when it is decoded
    for first in ("0 listed first", "zzz listed last"):
        os.symlink(root / "100x", root / first)
        os.symlink(tmp_path / "elsewhere", root / f"{first}, a second time")
    os.symlink(root, root / "100x/loop")
    os.symlink(tmp_path, root / "all")
    os.symlink("itself", root / "itself")
    names = [f.name for f in find_images(root, "100x")]
    assert names == ["0 linked/100x/b.jpg", "100x/Normal/a.jpg", "100x/b.jpg", "100x/broken.jpg"]


def test_finding_nothing_says_what_there_is(tree, tmp_path):
    root = tree("400x/a.jpg", "b 400X.png", "x400/a.bmp", "high/a.jpg", "high/b.jpg", "a.jpg")
    with pytest.raises(FileNotFoundError) as error:
        find_images(root, "10x")
    assert str(error.value) == (
        f"no images of magnification '10x' under {root} (looked for *.jpg, *.jpeg, *.png, *.tif, "
        "*.tiff, *.bmp); there are 400x (3), high (2), without one (1)"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there are no images at all$"):
        find_images(tmp_path / "empty", "10x")
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing; set data.root=DIR"):
        find_images(tmp_path / "missing", "10x")
    with pytest.raises(NotADirectoryError, match=r"data.root must be a folder, got the file"):
        find_images(root / "a.jpg", "10x")


@real
def test_real_folders_hold_what_their_authors_say():
    def classes(folder, magnification):
        return Counter(f.label for f in find_images(SHARED / folder, magnification))

    assert classes("oral-histology", "100x") == {"normal": 89, "oscc": 439}
    assert classes("oral-histology", "400x") == {"normal": 201, "oscc": 495}
    assert classes("stained-tissue", "high") == {
        "pink": 4,
        "purple_on_purple": 32,
        "purple_on_white": 38,
    }
    assert classes("stained-tissue", "low") == {"purple_on_purple": 33}


@real
def test_real_rgba_images_decode_to_their_own_colors():
    """Their alpha is 255 throughout or nearly so: white must not wash them out."""
    for file in find_images(SHARED / "stained-tissue", "high")[::10]:
        with Image.open(file.path) as image:
            assert image.mode == "RGBA"
            rgba = np.asarray(image, dtype=float)
        alpha = rgba[..., 3:] / 255
        expected = (rgba[..., :3] * alpha + 255 * (1 - alpha)).mean((0, 1))
        np.testing.assert_allclose(decode(file.path, 64)[0].mean((1, 2)), expected, atol=1)


def png16(levels, color_type):
    """A 16-bit PNG of levels [H, W, C], which PIL cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    signature = b"\x89PNG\r\n\x1a\n"
    return (
        signature + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff16(levels):
    """A 16-bit RGB TIFF of levels [H, W, 3], which PIL cannot write."""
    height, width, _ = levels.shape
    data = levels.astype("<u2").tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8 + 2 + 9 * 12 + 4)]
    entries += [(259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 132), (277, 3, 1, 3)]
    entries += [(278, 3, 1, height), (279, 4, 1, len(data))]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        struct.pack("<2sHIH", b"II", 42, 8, 9)
        + directory
        + struct.pack("<IHHHxxxx", 0, 16, 16, 16)
        + data
    )


def gray(rgb):
    return np.repeat(np.asarray(Image.fromarray(rgb).convert("L"))[..., None], 3, axis=-1)


def on_white(rgb, alpha):
    return rgb * (alpha / 255) + 255 * (1 - alpha / 255)


ALPHA = np.linspace(0, 255, 40).astype(np.uint8) * np.ones((24, 1), np.uint8)
RAMP = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
RAMP3 = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
RGB = Image.fromarray(NOISE)
RGBA = Image.fromarray(np.dstack([NOISE, ALPHA]))
BITS = RGB.convert("1")
PALETTE = RGB.quantize(16)
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))
PALETTE_ALPHA = bytes(range(0, 256, 16))
OTHER = Image.new("RGB", RGB.size, "red")
GRAY16 = np.repeat(RAMP[..., None] / 257, 3, axis=-1)
MANY = {"save_all": True, "append_images": [OTHER]}
KINDS = {  # file name: (how it is written, the pixels [H, W, 3] that it must decode to)
    "rgb.png": (lambda p: RGB.save(p), NOISE),
    "rgb.bmp": (lambda p: RGB.save(p), NOISE),
    "gif-named.png": (lambda p: PALETTE.save(p, format="GIF"), PALETTE_RGB),
    "gray.png": (lambda p: RGB.convert("L").save(p), gray(NOISE)),
    "rgba.png": (lambda p: RGBA.save(p), on_white(NOISE, ALPHA[..., None])),
    "la.png": (lambda p: RGBA.convert("LA").save(p), on_white(gray(NOISE), ALPHA[..., None])),
    "palette.png": (lambda p: PALETTE.save(p), PALETTE_RGB),
    "palette-alpha.png": (
        lambda p: PALETTE.save(p, transparency=PALETTE_ALPHA),
        on_white(PALETTE_RGB, np.asarray(PALETTE)[..., None] * 16.0),
    ),
    "1-bit.png": (lambda p: BITS.save(p), np.asarray(BITS)[..., None] * np.full(3, 255)),
    "fax.tif": (
        lambda p: BITS.save(p, compression="group4"),
        np.asarray(BITS)[..., None] * np.full(3, 255),
    ),
    "cmyk.tif": (lambda p: RGB.convert("CMYK").save(p), NOISE),
    "gray16.png": (lambda p: Image.fromarray(RAMP).save(p), GRAY16),
    "gray16.tif": (lambda p: Image.fromarray(RAMP).save(p), GRAY16),
    "rgb16.png": (lambda p: p.write_bytes(png16(RAMP3, 2)), RAMP3 / 257),
    "rgb16.tif": (lambda p: p.write_bytes(tiff16(RAMP3)), RAMP3 / 257),
    "float.tif": (lambda p: Image.fromarray((RAMP / 65535).astype(np.float32)).save(p), GRAY16),
    "animated.png": (lambda p: RGB.save(p, **MANY), NOISE),
    "pages.tif": (lambda p: RGB.save(p, **MANY), NOISE),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_decodes_to_its_colors(tmp_path, name):
    """Averaging areas 3 x 5 to 8 x 8 keeps where each color is, and needs no second decoder."""
    write, expected = KINDS[name]
    write(tmp_path / name)
    image = decode(tmp_path / name, 8)[0]
    assert (image.shape, image.dtype) == ((3, 8, 8), np.uint8)
    boxes = np.asarray(expected, dtype=float).reshape(8, 3, 8, 5, 3).mean((1, 3))
    np.testing.assert_allclose(image.transpose(1, 2, 0), boxes, atol=1.01)


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tif"])
def test_a_turned_photo_is_set_upright(tmp_path, name):
    """EXIF orientation 6: the camera was turned, so the stored top is the right side."""
    stored = np.zeros((32, 32, 3), np.uint8)
    stored[:16] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(stored).save(tmp_path / name, exif=exif)
    expected = np.array([[0, 255], [0, 255]])
    np.testing.assert_allclose(decode(tmp_path / name, 2)[0][0], expected, atol=3)


def jpeg(cut):
    def write(path):
        RGB.save(path, format="JPEG")
        path.write_bytes(path.read_bytes()[:cut])

    return write


HOSTILE = {  # file name: (how it is written, the reason given)
    "half.jpg": (jpeg(-100), "truncated"),
    "head-only.jpg": (jpeg(10), "Truncated"),
    "empty.png": (lambda p: p.touch(), "an empty file"),
    "text.jpg": (lambda p: p.write_text("no image"), "not an image of a known kind"),
    "postscript.jpg": (
        lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "not an image of a known kind",
    ),
    "bomb.png": (lambda p: Image.new("1", (20_000, 9_000)).save(p), "more than 178956970 pixels"),
    "signed.tif": (lambda p: Image.new("I", (8, 8), -5).save(p), "unknown range"),
    "float255.tif": (lambda p: Image.new("F", (8, 8), 255.0).save(p), "float levels outside"),
    "nan.tif": (lambda p: Image.new("F", (8, 8), float("nan")).save(p), "float levels outside"),
    "folder.jpg": (lambda p: p.mkdir(), "not a file"),
    "missing.jpg": (lambda p: None, "no such file or directory"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_image_is_refused_with_a_short_reason(tmp_path, name):
    write, reason = HOSTILE[name]
    write(tmp_path / name)
    with pytest.raises(UnreadableImage, match=f"^.{{0,50}}{reason}") as error:
        decode(tmp_path / name, 8)[0]
    assert len(str(error.value)) <= 80


def test_a_bomb_is_refused_where_pils_own_limit_was_lifted(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("1", (20_000, 9_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UnreadableImage, match="more than 178956970 pixels"):
        decode(tmp_path / "bomb.png", 8)[0]


def test_bytes_at_random_raise_nothing_but_unreadable_image(tmp_path):
    """PIL's readers raise whatever comes; one such file must not end a run."""
    RGB.save(tmp_path / "a.png")
    RGB.save(tmp_path / "a.jpg")
    refused = 0
    for path in (tmp_path / "a.png", tmp_path / "a.jpg"):
        good = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(100):
            bad = good.copy()
            bad[RNG.integers(0, len(bad), 4)] = RNG.integers(0, 256, 4)
            path.write_bytes(bad.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    decode(path, 4)[0]
                except UnreadableImage:
                    refused += 1
    assert refused > 50


def test_shrinking_averages_areas(tmp_path):
    """Closed form: each pixel is the mean of its box, which no interpolation gives."""
    RGB.save(tmp_path / "a.png")
    boxes = NOISE.reshape(4, 6, 4, 10, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(decode(tmp_path / "a.png", 4)[0], boxes, atol=1)


def test_enlarging_is_smooth_also_where_the_other_side_shrinks(tmp_path):
    """A ramp over 4 columns: bicubic gives many levels, where area averaging repeats four."""
    ramp = np.tile(np.array([0, 80, 160, 240], np.uint8), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png", 16)[0]
    assert image.shape == (3, 16, 16)
    assert len(np.unique(image)) > 10
    assert (np.diff(image[0, 0, 2:-2].astype(int)) > 0).all()


def test_an_image_of_the_right_size_stays_as_it_is(tmp_path):
    pixels = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 16)[0], pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "naming",
    [Naming(magnification="40X"), Naming(magnifications={"HIGH": "x40"}), Naming(magnification=40)],
)
def test_a_magnification_that_is_told_is_spelled_as_one_that_is_found(tree, naming):
    """Else magnification=40x would find nothing of a folder prepared with 40X."""
    (file,) = scan(tree("high/a.png"), naming).files
    assert file.magnification == ("40" if naming.magnification == 40 else "40x")


@pytest.mark.parametrize(
    ("said", "um"),
    [("", 0.25), ('PhysicalSizeXUnit="nm"', 0.00025), ('PhysicalSizeXUnit="mm"', 250)],
)
def test_ome_states_the_size_of_a_pixel_in_its_own_unit(tmp_path, said, um):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = f'<OME><Pixels PhysicalSizeX="0.25" {said}/></OME>'
    Image.fromarray(NOISE).save(tmp_path / "a.tif", tiffinfo=info)
    assert read_image(tmp_path / "a.tif").um_per_pixel == pytest.approx(um)
