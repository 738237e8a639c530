"""Find the invisible mark of generated images: python -m mbgan.detect images=DIR."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("detect")
def main(cfg: DictConfig) -> None:
    """Say which images were generated, by their pixels alone."""
    import csv
    import io

    import numpy as np

    from mbgan import watermark
    from mbgan.data.decode import UnreadableImage, read_image
    from mbgan.labels import image_files
    from mbgan.runs import write_text

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "synthetic", "strength"])
    marked = total = 0
    for name, file in image_files(Path(cfg.images).expanduser()):
        try:
            pixels = np.asarray(read_image(file).rgb)
        except UnreadableImage as error:
            log.warning("%s is left out: %s", name, error)
            continue
        strength = watermark.strength(pixels, cfg.watermark)
        found = strength > watermark.THRESHOLD
        writer.writerow([name, str(found).lower(), f"{strength:.2f}"])
        log.info("%s %s (%.1f)", "synthetic  " if found else "no mark    ", name, strength)
        marked, total = marked + found, total + 1
    if not total:
        raise FileNotFoundError(f"images must hold at least one readable image, got {cfg.images}")
    if cfg.out is not None:
        write_text(Path(cfg.out).expanduser(), table.getvalue())
    log.info(
        "%d of %d images bear the mark (strength above %.1f); no mark proves nothing: it is lost "
        "when an image is scaled or turned",
        *(marked, total, watermark.THRESHOLD),
    )


if __name__ == "__main__":
    main()
