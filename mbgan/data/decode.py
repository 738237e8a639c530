"""Image files of any kind become upright RGB pixels, or a reason in a few words."""

import hashlib
import re
import stat
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

# Also what is often misnamed .jpg or .png; not EPS and the like, which start other programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
MAX_PIXELS = 178_956_970  # twice PIL's MAX_IMAGE_PIXELS, where PIL itself refuses
MAX_BYTES = 2**31  # no image of so many pixels needs more, not even one of 16 bits in four channels
MAX_UM_PER_PIXEL = 10  # 2540 dpi: what is coarser was meant for a screen or a printer
_OME = re.compile(r'PhysicalSizeX="(\d{1,6}(?:\.\d+)?)"')
_OME_UNIT = re.compile(r'PhysicalSizeXUnit="(nm|mm|cm)"')  # micrometers, if it says none of these
_APERIO = re.compile(r"MPP\s*=\s*(\d{1,6}(?:\.\d+)?)(?![\d.])")


class UnreadableImage(ValueError):
    """A file that holds no image we can decode; its message is the reason, in a few words."""


@dataclass(frozen=True)
class Decoded:
    """An image and what its file says about it."""

    rgb: Image.Image  # RGB, upright, on white where transparent; of several pages the first
    sha256: str  # of the file
    mode: str  # of the pixels in the file, as PIL names it
    format: str  # JPEG, PNG, ...
    um_per_pixel: float | None  # None where the file states no microscope's resolution


def size_and_format(path: Path) -> tuple[tuple[int, int], str]:
    """Return width and height of the image in a file, and the file's format, by its header alone.

    Raises:
        UnreadableImage: if there is none.
    """
    try:
        with _opened(path) as file:
            return file.size, file.format or ""
    except Exception as error:  # as below
        raise UnreadableImage(_reason(error)) from error


def read_image(source: Path | bytes) -> Decoded:
    """Return the image in a file, or in its bytes; they are read once.

    Raises:
        UnreadableImage: if there is no image in the file, whatever is wrong with it.
    """
    try:
        content = source if isinstance(source, bytes) else _content(source)
        if not content:
            raise UnreadableImage("an empty file")
        with _opened(BytesIO(content)) as file:
            mode, kind, um_per_pixel = file.mode, file.format or "", _um_per_pixel(file)
            rgb = _upright(_to_rgb(file), file)
        return Decoded(rgb, hashlib.sha256(content).hexdigest(), mode, kind, um_per_pixel)
    except Exception as error:  # PIL's readers raise some fifteen kinds, from KeyError to zlib's
        raise UnreadableImage(_reason(error)) from error


def resize(image: Image.Image, image_size: int) -> Image.Image:
    """Return the image as a square of image_size pixels a side.

    Shrunk by area averaging, enlarged by bicubic interpolation, with the sides' ratio given up as
    in the paper (sec. III.B); each side by itself: one may shrink while the other grows.
    """
    small = (min(image.width, image_size), min(image.height, image_size))
    image = image.resize(small, Image.Resampling.BOX)
    return image.resize((image_size, image_size), Image.Resampling.BICUBIC)


def decode(path: Path, image_size: int) -> tuple[NDArray[np.uint8], str]:
    """Return the image [3, image_size, image_size] of a file, uint8, and the file's SHA-256.

    Raises:
        UnreadableImage: if there is no image in the file.
    """
    image = read_image(path)
    pixels = np.asarray(resize(image.rgb, image_size))
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), image.sha256


def _content(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe, or a device: they may never end
        raise UnreadableImage("not a file")
    if status.st_size > MAX_BYTES:
        raise UnreadableImage(f"more than {MAX_BYTES} bytes")
    return path.read_bytes()


def _opened(source: Path | BytesIO) -> Image.Image:
    """Return an image of which no more than the header was read: its pixels are few enough."""
    file = Image.open(source, formats=FORMATS)
    if file.width * file.height > MAX_PIXELS:  # also where PIL's own limit was lifted
        file.close()
        raise Image.DecompressionBombError
    return file


def _um_per_pixel(file: Image.Image) -> float | None:
    text = str(getattr(file, "tag_v2", {}).get(270, ""))  # TIFF's ImageDescription
    if stated := _OME.search(text) or _APERIO.search(text):
        unit = _OME_UNIT.search(text)
        um = {"nm": 1e-3, "mm": 1e3, "cm": 1e4}[unit[1]] if unit else 1.0
        return float(stated[1]) * um or None
    dpi = float(file.info.get("dpi", (0, 0))[0])  # of TIFF tags, PNG pHYs and JPEG density
    um = 25_400 / dpi if dpi > 0 else 0.0
    return um if 0 < um <= MAX_UM_PER_PIXEL else None


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS} pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def _upright(rgb: Image.Image, file: Image.Image) -> Image.Image:
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF broken in any of PIL's ways; the pixels are sound and stay as they lie
        return rgb
    rgb.info = {}  # else exif_transpose rewrites the EXIF, which fails where that is broken
    rgb.getexif()[ExifTags.Base.Orientation] = orientation
    ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I":
        raise UnreadableImage("32-bit or signed gray levels of unknown range; save as 8 or 16 bit")
    # PIL's convert clips these at 255.
    if image.mode == "F" or image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})  # of TIFF
        twelve = tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,)
        white = 1 if image.mode == "F" else 4095 if twelve else 65535
        levels = np.asarray(image, dtype=np.float32) / white
        if not (levels.min() >= 0 and levels.max() <= 1):  # also NaN
            raise UnreadableImage("float levels outside 0 to 1; save as 8 or 16 bit")
        # 0 is white: PIL turns that round for 8 bits only.
        if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            levels = 1 - levels
        return Image.fromarray(np.rint(levels * 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
