"""Image files that say what they are: synthetic, in words that people and programs look for."""

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

FORMATS = {"png": "PNG", "jpeg": "JPEG"}
SUFFIX = {"png": ".png", "jpeg": ".jpg"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SENTENCE = "synthetic image made by a generative model; shows no patient; not for diagnosis"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE}"/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()  # as IPTC asks (Photo Metadata Standard 2023.1)


def encode(image: NDArray[np.uint8], note: Mapping[str, Any], kind: str, quality: int) -> bytes:
    """Return an image [H, W, 3] as a file that says that it is synthetic.

    Args:
        image: the pixels.
        note: where it came from; written beside them as JSON.
        kind: png or jpeg.
        quality: of JPEG, 1 to 100.
    """
    picture, file = Image.fromarray(image), io.BytesIO()
    exif = picture.getexif()
    exif[ExifTags.Base.ImageDescription] = SENTENCE
    exif[ExifTags.Base.Software] = "mbgan"
    if kind == "png":
        text = PngImagePlugin.PngInfo()
        for key, value in {
            "synthetic": "true",
            "Description": SENTENCE,
            "Software": "mbgan",
            "Source": json.dumps(note),
        }.items():
            text.add_text(key, value)
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        # Of tissue, repeats other than runs are rare: a third of the time, up to 5 % more bytes.
        picture.save(file, "PNG", pnginfo=text, exif=exif, compress_type=zlib.Z_RLE)
    else:
        comment = json.dumps({"synthetic": True, **note})
        picture.save(file, "JPEG", quality=quality, exif=exif, xmp=XMP, comment=comment)
    return file.getvalue()


def jpeg_quality(paths: Iterable[Path]) -> int | None:
    """Return the usual quality of JPEG files, 1 to 100; None if none of them is JPEG.

    The one whose table for brightness, as libjpeg makes it, is nearest to that in the file.
    """
    tables, found = {}, []
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
        tables[quality] = np.array(Image.open(file).quantization[0])  # type: ignore[attr-defined]
    for path in paths:
        with Image.open(path) as image:
            if table := getattr(image, "quantization", {}).get(0):
                distance = {q: int(np.abs(t - table).sum()) for q, t in tables.items()}
                found.append(min(distance, key=distance.__getitem__))
    return round(median(found)) if found else None


def image_files(path: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Yield the names and contents of images: a file, all in a folder, or those in shards (.tar).

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if a shard is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"images must be a file or a folder, got {path}")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if file.name.startswith("."):
            continue
        if file.suffix == ".tar":
            try:
                yield from _in_shard(file)
            except (tarfile.TarError, EOFError) as error:
                raise ValueError(f"{file} must be a tar file, got: {error}") from None
        elif file.suffix.lower() in SUFFIXES:
            yield (str(file.relative_to(path)) if path.is_dir() else file.name), file


def _in_shard(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield what is in a tar file; nothing is unpacked, so that no name leads anywhere."""
    with tarfile.open(file, "r:") as tar:
        for member in tar:
            image = member.isfile() and Path(member.name).suffix.lower() in SUFFIXES
            if image and member.size <= file.stat().st_size:  # sparse ones may claim any
                content = tar.extractfile(member)
                assert content is not None, "it is a file"
                yield f"{file.name}/{member.name}", content.read()
