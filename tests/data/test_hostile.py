"""Every file gets a verdict: broken, odd and badly named ones, prepared together by the verb."""

import errno
import faulthandler
import io
import json
import logging
import os
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from packaging.version import Version
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin

from mbgan import prepare
from mbgan.data import manifest
from mbgan.data.fields import Squash
from mbgan.data.folder import ImageFile, Naming, scan
from mbgan.data.inspection import Journal, inspect
from mbgan.data.rendering import image_name
from mbgan.data.verdicts import DuplicateRules, decide
from mbgan.verbs import conf_dir

HEIGHT, WIDTH, SIDE = 128, 160, 32
CLASS = "100x/Normal"
JUNK = np.random.default_rng(0).bytes(3000)
TO_LAB = ImageCms.buildTransform(
    ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
)
NO_HEX = PngImagePlugin.PngInfo()
NO_HEX.add_text("Raw profile type exif", "\nexif\n4\nno hex")


@pytest.fixture(autouse=True)
def ends():
    """Ends the tests where one hangs; an exception would not, as decoding makes it a verdict."""
    faulthandler.dump_traceback_later(600, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def picture(seed, width=WIDTH, height=HEIGHT):
    """Purple nuclei on pink, darker at the bottom and on the right; another one for each seed."""
    rng = np.random.default_rng([seed])
    image = Image.new("RGB", (width, height), (225, 165, 195))
    draw = ImageDraw.Draw(image)
    for x, y in rng.uniform(0, (width, height), (height * width // 250, 2)):
        rx, ry = rng.uniform(2, 7, 2)
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(110, 60, int(rng.integers(120, 160))))
    light = np.add.outer(np.linspace(1, 0.8, height), np.linspace(0, -0.15, width))[..., None]
    noise = rng.normal(0, 3, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) * light + noise, 0, 255).astype(np.uint8))


def picture_of(path):
    return picture(zlib.crc32(os.fsencode(path)))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image, **options):
    return encoded(image, "JPEG", quality=95, **options)


def png(image, **options):
    return encoded(image, "PNG", **options)


def tiff(image, **options):
    return encoded(image, "TIFF", **options)


def frames(image, kind, **options):
    other = Image.new("RGB", image.size, "green")
    return encoded(image, kind, save_all=True, append_images=[other], **options)


def by_cv2(suffix, levels):
    """A file of levels [H, W] or [H, W, 3], uint16 or float, which PIL cannot write."""
    done, content = cv2.imencode(suffix, levels[..., ::-1] if levels.ndim == 3 else levels)
    assert done
    return content.tobytes()


def levels(image, dtype, white):
    return (np.asarray(image) * (white / 255)).astype(dtype)


def gray(image):
    return image.convert("L").convert("RGB")


def corner(image):
    """A mask of all but the upper left quarter."""
    mask = Image.new("L", image.size, 255)
    mask.paste(0, (0, 0, image.width // 2, image.height // 2))
    return mask


def with_alpha(image):
    image.putalpha(corner(image))
    return image


def on_white(image, mask):
    return Image.composite(image.convert("RGB"), Image.new("RGB", image.size, "white"), mask)


def half(content):
    return content[: len(content) // 2]


def inverted(content, place):
    changed = bytearray(content)
    changed[place] ^= 255
    return bytes(changed)


def png_of(image, width, height):
    """A PNG that declares another size."""
    content = png(image)
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def tiff_of(pixels, bits, photometric):
    """A gray TIFF of the bytes of an array; 0 is white where photometric is 0."""
    data = pixels.tobytes()
    entries = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric)]
    entries += [(273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, HEIGHT), (279, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + directory + bytes(4) + data


def packed12(image):
    """Levels 0 to 4095, two in three bytes."""
    a, b = levels(image.convert("L"), np.uint16, 4095).reshape(-1, 2).T
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8)


def tiff_with(content, tag, value):
    """The TIFF with another value in its first directory."""
    changed, (start,) = bytearray(content), struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    places = [start + 2 + 12 * i for i in range(count)]
    (place,) = [at for at in places if struct.unpack_from("<H", content, at)[0] == tag]
    struct.pack_into("<HHII", changed, place, tag, 4, 1, value)
    return bytes(changed)


def tiff_with_loop(content):
    """The TIFF whose next page is its first."""
    changed, (start,) = bytearray(content), struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", changed, start + 2 + 12 * count, start)
    return bytes(changed)


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hidden")
    return buffer.getvalue()


def turned(image, orientation):
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose
    exif = Image.Exif()
    exif[274] = orientation
    return jpeg(image if back is None else image.transpose(Image.Transpose(back)), exif=exif)


def turned_in_broken_exif(image):
    """Upside down, and a text that is said to be a number."""
    exif = Image.Exif()
    exif[274], exif[305] = 3, "abc"
    content = exif.tobytes()
    text, number = (struct.pack(">HH", 305, kind) for kind in (2, 3))
    assert text in content
    return jpeg(image.transpose(Image.Transpose.ROTATE_180), exif=content.replace(text, number))


def swapping_profile():
    """A profile by which red is blue and blue is red."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = content.replace(b"rXYZ", b"____").replace(b"bXYZ", b"rXYZ").replace(b"____", b"bXYZ")
    assert swapped != content
    return swapped


class Kind(NamedTuple):
    """A hostile file, by what makes its bytes of a picture, and what must become of it."""

    content: Callable[[Image.Image], bytes]
    verdict: str = "keep"
    reasons: str = ""  # how they begin
    seen: Callable[[Image.Image], Image.Image] | None = lambda image: image  # None: anything


def gray_level(content):
    return Kind(content, "warn", "grayscale (colorfulness 0, ", gray)


def broken(content, reason=""):
    return Kind(content, "drop", f"unreadable ({reason}")


def unknown(content):
    return broken(content, "not an image of a known kind)")


def small(width, height):
    reason = f"too_small (min_side {min(width, height)}, "
    return Kind(lambda p: png(p.resize((width, height))), "drop", reason)


def plain(color, reason, mode="RGB"):
    return Kind(lambda p: png(Image.new(mode, p.size, color)), "drop", reason)


KINDS = {
    # Good ones: enough for the medians of the checks.
    **{f"good-{i}.jpg": Kind(jpeg) for i in range(20)},
    # Cut off, overwritten, or something else.
    "empty.jpg": broken(lambda p: b"", "an empty file"),
    "cut-after-2.jpg": unknown(lambda p: jpeg(p)[:2]),
    "cut-after-100.jpg": broken(lambda p: jpeg(p)[:100], "Truncated File Read"),
    "cut-in-half.jpg": broken(lambda p: half(jpeg(p)), "image file is truncated"),
    "cut-by-2.jpg": broken(lambda p: jpeg(p)[:-2], "image file is truncated"),
    "cut-after-8.png": unknown(lambda p: png(p)[:8]),
    "cut-after-33.png": broken(lambda p: png(p)[:33]),
    "cut-in-half.png": broken(lambda p: half(png(p)), "image file is truncated"),
    "cut-in-half.tif": broken(lambda p: half(tiff(p)), "image file is truncated"),
    "cut-in-half.bmp": broken(lambda p: half(encoded(p, "BMP")), "image file is truncated"),
    "text.jpg": unknown(lambda p: b"no image" * 99),
    "html.jpg": unknown(lambda p: b"<!doctype html><title>404</title><p>Not Found"),
    "svg.jpg": unknown(lambda p: b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
    "eps.jpg": unknown(lambda p: encoded(p, "EPS")),
    "pdf.jpg": unknown(lambda p: encoded(p, "PDF")),
    "ico.png": unknown(lambda p: encoded(p, "ICO")),
    "zip.tif": unknown(lambda p: zipped()),
    "junk.png": unknown(lambda p: JUNK),
    "junk-from-200.jpg": broken(lambda p: jpeg(p)[:200] + JUNK),
    "junk-from-41.png": broken(lambda p: png(p)[:41] + JUNK, "broken data stream"),
    "junk-from-4.tif": broken(lambda p: b"II*\0" + JUNK),
    "wrong-crc-of-head.png": unknown(lambda p: inverted(png(p), 30)),
    "wrong-crc-of-data.png": Kind(lambda p: inverted(png(p), -14)),  # zlib has a sum of its own
    "wrong-byte-of-data.png": broken(lambda p: inverted(png(p), len(png(p)) // 2)),
    "tail.jpg": Kind(lambda p: jpeg(p) + JUNK),
    "tail.png": Kind(lambda p: png(p) + JUNK),
    "zip-behind.jpg": Kind(lambda p: jpeg(p) + zipped()),
    # Sizes, true and false ones.
    "1x1.png": small(1, 1),
    "20000x1.png": small(20_000, 1),
    "1x20000.png": small(1, 20_000),
    "bomb.png": broken(lambda p: png_of(p, 50_000, 50_000), "more than 178956970 pixels"),
    "line.png": broken(lambda p: png_of(p, 2**31 - 1, 1), "more than 178956970 pixels"),
    "no-width.png": broken(lambda p: png_of(p, 0, 100)),
    "5000x5000.png": broken(lambda p: png_of(p, 5_000, 5_000)),
    "bomb.tif": broken(
        lambda p: tiff_with(tiff_with(tiff(p), 256, 60_000), 257, 60_000),
        "more than 178956970 pixels",
    ),
    "huge-strip.tif": Kind(lambda p: tiff_with(tiff(p), 279, 2**32 - 1)),
    "huge-strip-lzw.tif": broken(
        lambda p: tiff_with(tiff(p, compression="tiff_lzw"), 279, 2**32 - 1)
    ),
    "strip-elsewhere.tif": broken(lambda p: tiff_with(tiff(p), 273, 2**31)),
    # Nothing to see.
    "white.png": plain("white", "blank (background 1, "),
    "clear.png": plain((0, 0, 0, 0), "blank (background 1, ", "RGBA"),
    "black.png": plain("black", "uniform (contrast 0, "),
    "red.png": plain("red", "uniform (contrast 0, "),
    # Several images: the first counts.
    "animated-gif.png": Kind(lambda p: frames(p, "GIF")),
    "animated-webp.jpg": Kind(lambda p: frames(p, "WEBP", quality=95)),
    "animated.png": Kind(lambda p: frames(p, "PNG")),
    "pages.tif": Kind(lambda p: frames(p, "TIFF")),
    "pages.jpg": Kind(lambda p: frames(p, "MPO", quality=95)),
    "loop-of-pages.tif": Kind(lambda p: tiff_with_loop(tiff(p))),
    # Pixels of all kinds.
    "gray.jpg": gray_level(lambda p: jpeg(p.convert("L"))),
    "cmyk.jpg": Kind(lambda p: jpeg(p.convert("CMYK"))),
    "cmyk.tif": Kind(lambda p: tiff(p.convert("CMYK"), compression="tiff_lzw")),
    "16-bit.png": Kind(lambda p: by_cv2(".png", levels(p, np.uint16, 65535))),
    "16-bit.tif": Kind(lambda p: by_cv2(".tif", levels(p, np.uint16, 65535))),
    "16-bit-gray.png": gray_level(
        lambda p: by_cv2(".png", levels(p.convert("L"), np.uint16, 65535))
    ),
    "16-bit-negative.tif": gray_level(
        lambda p: tiff_of(65535 - levels(p.convert("L"), np.uint16, 65535), 16, 0)
    ),
    "8-bit-negative.tif": gray_level(lambda p: tiff_of(255 - np.asarray(p.convert("L")), 8, 0)),
    "12-bit.tif": gray_level(lambda p: tiff_of(packed12(p), 12, 1)),
    "12-in-16-bit.png": Kind(
        lambda p: by_cv2(".png", levels(p, np.uint16, 4095)), "warn", "too_dark (dark 1, ", None
    ),
    "32-bit.tif": broken(lambda p: tiff(p.convert("I")), "32-bit or signed gray levels"),
    "float.tif": gray_level(lambda p: tiff(Image.fromarray(levels(p.convert("L"), np.float32, 1)))),
    "float-rgb.tif": unknown(lambda p: by_cv2(".tif", levels(p, np.float32, 1))),
    "float-255.tif": broken(lambda p: tiff(p.convert("F")), "float levels outside 0 to 1"),
    "float-nan.tif": broken(
        lambda p: tiff(Image.new("F", p.size, np.nan)), "float levels outside 0 to 1"
    ),
    "ycbcr.tif": (Kind if Version(PIL.__version__) >= Version("13") else broken)(  # reads it
        lambda p: tiff(p.convert("YCbCr"))
    ),
    "lab.tif": Kind(lambda p: tiff(ImageCms.applyTransform(p, TO_LAB))),
    "lzw.tif": Kind(lambda p: tiff(p, compression="tiff_lzw")),
    "deflate.tif": Kind(lambda p: tiff(p, compression="tiff_adobe_deflate")),
    "jpeg.tif": Kind(lambda p: tiff(p, compression="jpeg", quality=95)),
    "big.tif": Kind(lambda p: tiff(p, big_tiff=True)),
    "palette.png": Kind(lambda p: png(p.quantize(64)), seen=lambda p: p.quantize(64)),
    "palette-clear.png": Kind(
        lambda p: png(p.quantize(64), transparency=0),
        seen=lambda p: on_white(p.quantize(64), p.quantize(64).point(lambda i: 255 * (i > 0), "L")),
    ),
    "rgba.png": Kind(lambda p: png(with_alpha(p)), seen=lambda p: on_white(p, corner(p))),
    "la.png": gray_level(lambda p: png(with_alpha(p.convert("L"))))._replace(
        seen=lambda p: gray(on_white(p, corner(p)))
    ),
    "1-bit.png": gray_level(lambda p: png(p.convert("1")))._replace(
        reasons="", seen=lambda p: p.convert("1")
    ),
    # What files say about themselves.
    **{f"turned-{i}.jpg": Kind(lambda p, i=i: turned(p, i)) for i in range(1, 9)},
    "turned-in-broken-exif.jpg": Kind(turned_in_broken_exif),
    "junk-for-exif.jpg": Kind(lambda p: jpeg(p, exif=b"Exif\0\0" + JUNK)),
    "no-hex-for-exif.png": Kind(lambda p: png(p, pnginfo=NO_HEX)),
    "profile.jpg": Kind(lambda p: jpeg(p, icc_profile=swapping_profile())),  # not applied
    "junk-for-profile.png": Kind(lambda p: png(p, icc_profile=JUNK)),
    "no-scale.tif": Kind(lambda p: tiff(p, resolution=0)),
    "bad-scale.tif": Kind(lambda p: tiff(p, description='<P PhysicalSizeX="1.2.3"/>')),
    "endless-scale.tif": Kind(lambda p: tiff(p, description=f'<P PhysicalSizeX="{"9" * 400}"/>')),
}
NAMES = [  # of good JPEGs
    *("two words.jpg", " at the ends .jpg", "new\nline.jpg", "tab\tand\rreturn.jpg"),
    *("'one' \"two\" `three`.jpg", "\x1b[31mred.jpg", "\x01.jpg", "\x7f.jpg"),
    *("right \u202eto left\u202c.jpg", "zero\u200bwidth.jpg", "\ufeff.jpg", "\uff0e\uff0e.jpg"),
    *("emoji \U0001f52c.jpg", "\u65e5\u672c.jpg", "\u00e9.jpg", "e\u0301.jpg"),
    *("n" * 251 + ".jpg", "\u00e9" * 125 + ".jpg"),  # of 255 bytes and 254
    *("-rf.jpg", "--help.jpg", "a...jpg", "%2e%2e%2f.jpg", "a\\..\\b.jpg", "~.jpg", "*.jpg"),
    *("$HOME.jpg", "$(true).jpg", "a;b|c&d.jpg", "CON.jpg", "nul.jpg", "a:b.jpg", "#1,2,3,4.jpg"),
    *("Case.jpg", "case.jpg", "CASE.JPG", "stem.jpg", "stem.jpeg", "stem.png", "stem.tif"),
    *("<script>alert(1).jpg", "<img src=x onerror=alert(1)>.jpg", "&lt;.jpg", "{{ 7 * 7 }}.jpg"),
    *("'; DROP TABLE seen; --.jpg", "blank (1); blurred (2).jpg", "=1+1.jpg"),
    *("None.jpg", "nan.jpg", "true.jpg", "0.jpg"),
    *map(os.fsdecode, (b"caf\xe9.jpg", b"\xff\x80.jpg", b"\xed\xa0\x80.jpg")),
]
FOLDERS = {  # below the magnification: the class
    "<script>alert(2)": "script_alert_2",
    os.fsdecode(b"caf\xe9"): "caf",
    os.fsdecode(b"\x80"): "unknown",
    "folder.png": "folder_png",
    "new\nline": "new_line",
    "n" * 255: "n" * 255,
}
PATHS = [f"{CLASS}/{name}" for name in NAMES] + [f"100x/{folder}/a.jpg" for folder in FOLDERS]
LINKS = {  # name: where it leads
    "loop-a.png": "loop-b.png",
    "loop-b.png": "loop-a.png",
    "dangling.png": "nowhere.png",
    "outside.png": "../../../beside.png",
    "to-pipe.png": "pipe.png",
    "to-endless.png": "/dev/zero",
    "to-parent": "../../..",
    "to-itself": ".",
}
OTHERS = {  # verdict and reasons
    "loop-a.png": ("drop", "unreadable (too many levels of symbolic links)"),
    "loop-b.png": ("drop", "unreadable (too many levels of symbolic links)"),
    "dangling.png": ("drop", "unreadable (no such file or directory)"),
    "outside.png": ("keep", ""),
    "locked.png": ("drop", "unreadable (permission denied)"),
    "4-gib.png": ("drop", "unreadable (more than 2147483648 bytes)"),
    "copy; blank (<script>1.jpg": ("keep", ""),
    "copy; blank (<script>2.jpg": ("drop", f"duplicate (of {CLASS}/copy; blank (<script>1.jpg)"),
}


def printable(path):
    """What the manifest must call a path, which may be no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def verb(root, out):
    """Run mbgan.prepare without a forecast."""
    with pytest.MonkeyPatch.context() as patch:
        settings = (f"data.root={root}", f"out={out}", f"image_size={SIDE}", "forecast=false")
        patch.setattr(sys, "argv", ["prepare", *settings, "workers=1"])
        handlers, level = logging.root.handlers[:], logging.root.level
        try:
            prepare.main()
        finally:
            logging.root.handlers = handlers
            logging.root.setLevel(level)  # Hydra lowers it, and other tests count lines


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that was made of all hostile files at once, and its manifest by name."""
    parent = tmp_path_factory.mktemp("hostile")
    root, out, folder = parent / "images", parent / "prepared", parent / "images" / CLASS
    folder.mkdir(parents=True)
    for name, kind in KINDS.items():
        (folder / name).write_bytes(kind.content(picture_of(f"{CLASS}/{name}")))
    for path in PATHS:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(jpeg(picture_of(path)))
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    for path in (parent / "beside.png", folder / "locked.png", folder / ".hidden.png"):
        path.write_bytes(png(picture_of(path.name)))
    for name in (name for name in OTHERS if name.startswith("copy")):
        (folder / name).write_bytes(jpeg(picture_of("copy")))
    os.mkfifo(folder / "pipe.png")
    with (folder / "4-gib.png").open("wb") as file:
        file.truncate(2**32)  # takes no room
    read_bytes = Path.read_bytes

    def read_unless_locked(path):  # the superuser may read whatever its permissions say
        if path.name == "locked.png":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_bytes(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_unless_locked)
        verb(root, out)
    return out, manifest.read(out).set_index("name")


@pytest.mark.parametrize("name", KINDS)
def test_every_hostile_file_gets_its_verdict(prepared, name):
    row = prepared[1].loc[f"{CLASS}/{name}"]
    kind = KINDS[name]
    assert (row["verdict"], row["reasons"][: len(kind.reasons)]) == (kind.verdict, kind.reasons)
    assert bool(row["reasons"]) == (kind.verdict != "keep")
    assert (row["image"] == "", row["split"] == "") == (kind.verdict == "drop",) * 2
    assert (row["width"], row["height"]) == (0, 0) or not row["reasons"].startswith("unreadable")


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.verdict != "drop" and k.seen])
def test_what_is_kept_has_the_colors_of_the_original_in_their_places(prepared, name):
    """Turned, inverted or darkened by a half, it would differ by 10 levels or more."""
    out, table = prepared
    with Image.open(out / table.at[f"{CLASS}/{name}", "image"]) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))
        pixels = np.asarray(image, dtype=float)
    original = KINDS[name].seen(picture_of(f"{CLASS}/{name}")).convert("RGB")
    boxes = np.asarray(original, float).reshape(SIDE, HEIGHT // SIDE, SIDE, WIDTH // SIDE, 3)
    assert np.abs(pixels - boxes.mean((1, 3))).mean() < 2


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_a_file_with_any_name_is_kept_under_a_plain_one(prepared, path):
    out, table = prepared
    row = table.loc[printable(path)]
    assert (row["verdict"], row["magnification"], row["patient"]) == ("keep", "100x", None)
    assert row["class"] == FOLDERS.get(path.split("/")[1], "normal")
    assert re.fullmatch(r"images/100x/\w{1,40}/\w{1,40}-[0-9a-f]{12}\.png", row["image"], re.A)
    assert (out / row["image"]).is_file()


@pytest.mark.parametrize("name", OTHERS)
def test_links_copies_and_closed_files_get_their_verdicts(prepared, name):
    row = prepared[1].loc[f"{CLASS}/{name}"]
    assert (row["verdict"], row["reasons"]) == OTHERS[name]


def test_nothing_is_lost_and_nothing_is_added(prepared):
    """A row a file, also for what lies behind links; and a file a row, also without upper case."""
    out, table = prepared
    names = [*PATHS, *(f"{CLASS}/{name}" for name in (*KINDS, *OTHERS))]
    assert sorted(table.index) == sorted(map(printable, names))
    images = table["image"][table["image"] != ""]
    assert images.str.casefold().is_unique
    there = {path.relative_to(out).as_posix() for path in (out / "images").rglob("*.png")}
    assert there == set(images)
    ignored = json.loads((out / "card.json").read_text())["ignored"]
    assert ignored == {".png": 3}  # the pipe, and links to it and to a device


def test_the_card_shows_any_name_as_text(prepared):
    page = (prepared[0] / "card.html").read_text(encoding="utf-8")
    assert "blank (&lt;script&gt;1.jpg" in page
    assert "<script" not in page


def test_a_scale_that_is_no_number_is_unknown(prepared):
    names = [f"{CLASS}/{name}.tif" for name in ("no-scale", "bad-scale", "endless-scale")]
    assert prepared[1].loc[names, "um_per_pixel"].isna().all()


def test_the_links_of_a_closed_folder_are_lost_images(tmp_path, monkeypatch):
    """As an ordinary user, who may not look into it: the superuser may."""
    (tmp_path / "100x").mkdir()
    (tmp_path / "100x/a.jpg").symlink_to("closed/a.jpg")
    stat = os.stat

    def stat_unless_closed(path, *args, follow_symlinks=True, **kwargs):
        if follow_symlinks and str(path).endswith("a.jpg"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *args, follow_symlinks=follow_symlinks, **kwargs)

    monkeypatch.setattr(os, "stat", stat_unless_closed)
    monkeypatch.setattr(Path, "stat", stat_unless_closed)  # Python 3.10 has its own
    (file,) = scan(tmp_path, Naming()).files
    assert inspect(file.path, Squash(), SIDE) == [{"unreadable": "permission denied"}]


@pytest.mark.parametrize(
    ("moment", "change"),
    [
        ("after", lambda path: path.unlink()),
        ("after", lambda path: path.write_bytes(b"no image")),
        ("after", lambda path: path.write_bytes(jpeg(picture(9)))),
        ("before", lambda path: path.write_bytes(jpeg(picture(9)))),
    ],
    ids=["vanished", "broken", "another", "before it is decided"],
)
def test_a_file_that_changes_meanwhile_is_named_and_the_next_run_mends_it(
    tmp_path, monkeypatch, capfd, moment, change
):
    root, out = tmp_path / "images", tmp_path / "prepared"
    (root / "100x").mkdir(parents=True)
    for i in range(4):
        (root / f"100x/{i}.jpg").write_bytes(jpeg(picture(i)))

    def decide_and_change(*args):
        if moment == "before":
            change(root / "100x/2.jpg")
        table = decide(*args)
        change(root / "100x/2.jpg")
        return table

    with monkeypatch.context() as patch:
        patch.setattr("mbgan.data.preparation.decide", decide_and_change)
        with pytest.raises(SystemExit, match="1"):
            verb(root, out)
    last = capfd.readouterr().err.splitlines()[-1]
    assert last == (
        f"error: {root}/100x/2.jpg changed while it was prepared; run mbgan.prepare again"
    )
    verb(root, out)
    table = manifest.read(out)
    assert sorted(table["image"] != "") == sorted(table["verdict"] != "drop")
    assert len(list(out.rglob("*.png"))) == (table["verdict"] != "drop").sum() >= 3


def test_what_patterns_find_in_a_name_that_is_no_utf8_can_be_saved(tmp_path):
    naming = Naming(
        magnification_pattern="^([^/]+)", class_pattern="/([^/]+)/", patient_pattern=r"([^/]+)\.jpg"
    )
    path = tmp_path / os.fsdecode(b"\xe9/\xe8/\xff\x80.jpg")
    file = naming.place(path, tmp_path)
    assert file.path == path
    assert file.name == r"\xe9/\xe8/\xff\x80.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(jpeg(picture(0)))
    rows = [(file, row) for row in inspect(path, Squash(), SIDE)]
    manifest.write(decide(rows, {}, DuplicateRules(), {}, 0), tmp_path)
    found = manifest.read(tmp_path).iloc[0]
    assert (found["name"], found["patient"]) == (file.name, "\ufffd\ufffd")


def test_bytes_of_a_name_that_is_no_utf8_are_no_magnification(tmp_path):
    """Escaped, 80 hexadecimal would read as x80."""
    file = Naming().place(tmp_path / os.fsdecode(b"40x/\x80/\x10.jpg"), tmp_path)
    assert file.magnification == "40x"


@pytest.mark.parametrize("given", ["..", ".", "../../..", "/", "a/../b", "\0", "<script>"])
def test_no_magnification_or_class_leads_out_of_the_prepared_folder(given):
    row = {"name": "a.jpg", "tile": "", "sha256": "", "magnification": given, "class": given}
    images, *folders, file = image_name(row, "").split("/")
    assert (images, len(folders)) == ("images", 2)
    assert not {"", ".", ".."} & set(folders)
    assert re.fullmatch(r"a-[0-9a-f]{12}\.png", file)


EXIF = Image.Exif()
EXIF[274] = 6
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SOUND = {  # kind: what writes a sound file of a picture
    "jpeg": [
        jpeg,
        lambda p: jpeg(p, progressive=True, exif=EXIF),
        lambda p: jpeg(p.convert("L"), icc_profile=PROFILE),
        lambda p: jpeg(p.convert("CMYK"), dpi=(300, 300), comment="made up"),
        lambda p: jpeg(p, subsampling=0, restart_marker_rows=1),
        lambda p: frames(p, "MPO"),
    ],
    "png": [
        lambda p: png(p, dpi=(300, 300), exif=EXIF),
        lambda p: png(p.quantize(16), transparency=0, icc_profile=PROFILE),
        lambda p: by_cv2(".png", levels(p.convert("L"), np.uint16, 65535)),
        lambda p: png(with_alpha(p)),
        lambda p: frames(p, "PNG"),
    ],
    "tiff": [
        lambda p: tiff(p, description='PhysicalSizeX="0.25"'),
        lambda p: tiff(p, compression="tiff_lzw", exif=EXIF),
        lambda p: tiff(p, compression="jpeg"),
        lambda p: tiff(p.convert("1"), compression="group4"),
        lambda p: tiff(p.quantize(16), compression="packbits", big_tiff=True),
        lambda p: tiff(Image.fromarray(levels(p.convert("L"), np.float32, 1))),
        lambda p: frames(p, "TIFF", compression="tiff_adobe_deflate"),
    ],
    "other": [lambda p, k=k: frames(p, k) for k in ("GIF", "WEBP")] + [lambda p: encoded(p, "BMP")],
}


def mutated(content, rng):
    """The bytes after one to four changes, half of the time in what says how to read the rest."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        end = len(content) if rng.random() < 0.5 else min(len(content), 400)
        at = int(rng.integers(end))
        some = slice(at, at + int(rng.integers(1, 20)))
        change = rng.integers(6)
        if change == 0:
            content[at] ^= 1 << rng.integers(8)
        elif change == 1:
            content[at] = rng.integers(256)
        elif change == 2:
            content[some] = rng.bytes(len(content[some]))
        elif change == 3:
            content[at:at] = rng.bytes(int(rng.integers(1, 20)))
        elif change == 4:
            del content[max(some.start, 1) : some.stop]
        elif rng.random() < 0.3:
            del content[max(at, 1) :]
    return bytes(content)


def resealed(content):
    """The PNG with checksums that fit, so that more than they is put to the test."""
    content, at = bytearray(content), 8
    while at + 12 <= len(content):
        end = at + 8 + struct.unpack_from(">I", content, at)[0]
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("kind", "n"),
    [
        *(("jpeg", 150), ("png", 50), ("tiff", 60), ("other", 30)),
        *(
            pytest.param(k, n, marks=pytest.mark.slow)
            for k, n in {"jpeg": 2000, "png": 500, "tiff": 500, "other": 300}.items()
        ),
    ],
)
def test_bytes_changed_at_random_always_end_in_a_verdict(tmp_path, kind, n):
    """Of a picture each, so that comparing them all stays cheap."""
    rng = np.random.default_rng(0)
    files, rows = [], []
    for i in range(n):
        write = SOUND[kind][i % len(SOUND[kind])]
        path = tmp_path / f"{i:04d}.{kind}"
        content = mutated(write(picture(i, 48, 40)), rng)
        path.write_bytes(resealed(content) if kind == "png" and i % 4 else content)
        files.append(ImageFile(path, path.name, "10x", "unknown", None))
        rows.append(inspect(path, Squash(), SIDE))
    journal = Journal(tmp_path / "journal.sqlite", "")
    assert sum(1 for _ in journal.record(zip(files, rows, strict=True))) == n
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        checks = instantiate(compose("prepare").checks, _convert_="all")
    shares = {"val": 0.25, "test": 0.25}
    table = decide(journal.read(files), checks, DuplicateRules(), shares, 0)
    assert table["name"].tolist() == [file.name for file in files]
    assert set(table["verdict"]) <= {"keep", "warn", "drop"}
    assert 0.2 < table["reasons"].str.startswith("unreadable (").mean() < 0.97
