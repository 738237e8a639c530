"""Images of a prepared folder: cut, resized, normalized in stain, saved as PNG."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mbgan.data.decode import UnreadableImage, read_image, resize
from mbgan.data.stain import Normalizer, NoStain, stain_colors
from mbgan.files import whole

VERSION = 1  # raise with every change to the pixels that `render` writes: images are named by it


def image_name(row: dict[str, Any], settings: str) -> str:
    """Return where in the prepared folder the image of a manifest's row lies.

    The name holds a hash of all that decides its pixels: an image that is there need not be made
    again, and one whose original or settings changed gets another name.
    """
    parts = (VERSION, settings, row["name"], row["tile"], row["sha256"])
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    stem = re.sub(r"\W+", "_", Path(row["name"]).stem, flags=re.ASCII)[:40].strip("_")
    folders = [re.sub(r"[^\w.-]+", "_", row[key])[:40] for key in ("magnification", "class")]
    folders = [folder.strip(".") or "_" for folder in folders]  # ".." would lead out
    return "/".join(("images", *folders, f"{stem or 'image'}-{digest}.png"))


def render(
    path: Path,
    sha256: str,
    parts: list[tuple[str, Path]],
    image_size: int,
    normalizer: Normalizer,
) -> list[tuple[list[float] | None, str]]:
    """Write the images that one file becomes.

    Args:
        path: of the file.
        sha256: of the file, as it was inspected.
        parts: each tile as in the manifest, and the PNG to write.
        image_size: side of the images in pixels.
        normalizer: of the stain.

    Returns:
        For each part its `stain_of` afterwards, and why the stain could not be
        normalized, or "". The image then has its own colors.

    Raises:
        UnreadableImage: if the file is not the one that was inspected.
    """
    try:
        image = read_image(path)
    except UnreadableImage:
        image = None
    if image is None or image.sha256 != sha256:
        raise UnreadableImage(f"{path} changed while it was prepared; run mbgan.prepare again")
    results = []
    for tile, target in parts:
        pixels, reason = np.asarray(resize(cut(image.rgb, tile), image_size)), ""
        try:
            pixels = normalizer(pixels)
        except NoStain as error:
            reason = str(error)
        save(pixels, target)
        results.append((stain_of(pixels), reason))
    return results


def cut(image: Image.Image, tile: str) -> Image.Image:
    """Return the part that a manifest's row names: "x,y,width,height", or all of it for ""."""
    if not tile:
        return image
    x, y, width, height = map(int, tile.split(","))
    return image.crop((x, y, x + width, y + height))


def stain_of(pixels: NDArray[np.uint8]) -> list[float] | None:
    """Return `stain_colors` of an image [H, W, 3] as 6 numbers, None if it has no two stains."""
    try:
        return stain_colors(pixels).ravel().tolist()
    except NoStain:
        return None


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write an image [H, W, 3], uint8, as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        Image.fromarray(pixels).save(draft, format="PNG", compress_level=1)
