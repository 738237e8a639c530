"""Does the mark survive JPEG and crops, and how often is it seen where there is none?

python measure.py DIR [n]: DIR holds real images, of which n at each size are marked. Writes
results.csv. Libraries that are not installed are left out.
"""

import csv
import importlib.util
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mbgan import watermark
from mbgan.labels import image_files

KEY, BITS = "mbgan", 32
Pixels = NDArray[np.uint8]
Scheme = tuple[Callable[[Pixels], Pixels], Callable[[Pixels], bool]]
WORD = np.random.default_rng(0).integers(0, 2, BITS)  # what the libraries hide
MOST_WRONG = 4  # of 32 bits: below, random bits are taken for the mark once in 10^5


def ours() -> Scheme:
    """Return what marks and what sees, by this package."""

    def see(image: Pixels) -> bool:
        return watermark.strength(image, KEY) > watermark.THRESHOLD

    return (lambda image: watermark.mark(image, KEY)), see


def invisible_watermark(method: str) -> Scheme:
    """Return what marks and what sees, by invisible-watermark."""
    from imwatermark import WatermarkDecoder, WatermarkEncoder

    encoder, decoder = WatermarkEncoder(), WatermarkDecoder("bits", BITS)
    encoder.set_watermark("bits", WORD.tolist())

    def put(image: Pixels) -> Pixels:
        return encoder.encode(image[..., ::-1].copy(), method)[..., ::-1]

    def see(image: Pixels) -> bool:
        found = decoder.decode(image[..., ::-1].copy(), method)
        return np.sum(np.array(found, dtype=int) != WORD) <= MOST_WRONG

    return put, see


def blind_watermark() -> Scheme:
    """Return what marks and what sees, by blind-watermark."""
    from blind_watermark import WaterMark, bw_notes

    bw_notes.close()

    def put(image: Pixels) -> Pixels:
        mark = WaterMark(password_img=1, password_wm=1)
        mark.read_img(img=image[..., ::-1].copy())
        mark.read_wm(WORD.astype(bool).tolist(), mode="bit")
        return np.rint(mark.embed()).clip(0, 255).astype(np.uint8)[..., ::-1]

    def see(image: Pixels) -> bool:
        mark = WaterMark(password_img=1, password_wm=1)
        found = mark.extract(embed_img=image[..., ::-1].copy(), wm_shape=BITS, mode="bit")
        return np.sum((np.array(found) > 0.5) != WORD) <= MOST_WRONG

    return put, see


def jpeg(image: Pixels, quality: int = 75) -> Pixels:
    """Return an image after JPEG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def crop(image: Pixels, rng: np.random.Generator, share: float = 0.9) -> Pixels:
    """Return a part of an image, anywhere, of this share of its side."""
    side = round(share * len(image))
    top, left = rng.integers(0, len(image) - side + 1, 2)
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def scaled(image: Pixels, share: float = 0.9) -> Pixels:
    """Return an image scaled to a share of its side."""
    side = round(share * len(image))
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def share(see: Callable[[Pixels], bool], images: Sequence[Pixels]) -> float | None:
    """Return in how many images a scheme sees the mark; None if it fails on them."""
    try:
        return round(float(np.mean([bool(see(image)) for image in images])), 4)
    except Exception:
        return None


def table() -> str:
    """Return what results.csv says of schemes that take images of a size, for question.md."""
    lines = [
        "| scheme | pixels | PSNR, dB: median (least) | seen | JPEG 75 | crop 90 % "
        "| crop, then JPEG | scaled to 90 % | false alarms | strongest unmarked |",
        "|---" * 10 + "|",
    ]
    columns = ("seen", "seen_jpeg75", "seen_crop90", "seen_crop90_jpeg75", "seen_scaled90")
    with (Path(__file__).parent / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["fails"]:
                continue
            psnr = f"{row['psnr_db_median']} ({row['psnr_db_least']})"
            shares = [f"{float(row[c]):.3f}" if row[c] else "fails" for c in columns]
            alarms = round(float(row["false_alarms"]) * int(row["n_unmarked"]))
            cells = [row["scheme"], row["size_px"], psnr, *shares]
            cells += [f"{alarms} of {int(row['n_unmarked']):,}", row["highest_unmarked"] or "-"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure all schemes at all sizes."""
    folder, n = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 300
    paths = [path for _, path in image_files(folder)]
    order = np.random.default_rng(0).permutation(len(paths))
    schemes = {"mbgan": ours}
    if importlib.util.find_spec("imwatermark"):
        for method in ("dwtDct", "dwtDctSvd"):
            schemes[f"invisible-watermark {method}"] = lambda m=method: invisible_watermark(m)
    if importlib.util.find_spec("blind_watermark"):
        schemes["blind-watermark"] = blind_watermark
    rows = []
    for size in (32, 64, 256):
        shape = (size, size), Image.Resampling.LANCZOS
        real = [np.asarray(Image.open(p).convert("RGB").resize(*shape)) for p in paths]
        for name, make in schemes.items():
            put, see = make()
            rng, few = np.random.default_rng(1), name != "mbgan"
            chosen = [real[i] for i in order[: n // 5 if few else n]]
            row = {"scheme": name, "size_px": size, "n_marked": len(chosen)}
            try:
                marked = [put(image) for image in chosen]
            except Exception as error:
                rows.append(row | {"fails": type(error).__name__ + ": " + str(error)[:60]})
                continue
            errors = [
                np.mean((m - x.astype(float)) ** 2) for m, x in zip(marked, chosen, strict=True)
            ]
            unmarked = chosen if few else real
            row |= {
                "psnr_db_median": round(10 * np.log10(255**2 / np.median(errors)), 1),
                "psnr_db_least": round(10 * np.log10(255**2 / np.max(errors)), 1),
                "seen": share(see, marked),
                "seen_jpeg75": share(see, [jpeg(m) for m in marked]),
                "seen_crop90": share(see, [crop(m, rng) for m in marked]),
                "seen_crop90_jpeg75": share(see, [jpeg(crop(m, rng)) for m in marked]),
                "seen_scaled90": share(see, [scaled(np.ascontiguousarray(m)) for m in marked]),
                "n_unmarked": len(unmarked),
                "false_alarms": share(see, unmarked),
            }
            if not few:
                highest = max(watermark.strength(image, KEY) for image in unmarked)
                row["highest_unmarked"] = round(highest, 2)
            rows.append(row)
            print(row, flush=True)
    columns = dict.fromkeys(key for row in rows for key in row)
    with (Path(__file__).parent / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
