"""Draw images from a run: python -m mbgan.generate run=RUN n=64."""

import json
import logging
from pathlib import Path

from omegaconf import DictConfig

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("generate")
def main(cfg: DictConfig) -> None:
    """Write n PNGs and manifest.jsonl, a line an image that says where it came from."""
    from mbgan.assembly import load_generator
    from mbgan.gan import generate
    from mbgan.images import save_png
    from mbgan.latents import fixed_latents
    from mbgan.runs import Run, write_text

    if not isinstance(cfg.n, int) or cfg.n < 1:
        raise ValueError(f"n must be a number, at least 1, got {cfg.n}")
    out = Path(cfg.out).expanduser()
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"out must be a new or empty folder, got {out}; set out=DIR")
    generator, origin = load_generator(Run(Path(cfg.run).expanduser()), cfg.checkpoint)
    lines = []
    for start in range(0, cfg.n, 64):
        indices = range(start, min(start + 64, cfg.n))
        images = generate(generator, fixed_latents(indices, generator.z_dim, cfg.seed))
        for i, image in zip(indices, images, strict=True):
            name = f"{i:06d}.png"
            save_png(image, out / name)
            lines.append({"file": name, "synthetic": True, "index": i, "seed": cfg.seed, **origin})
    write_text(out / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    log.info("%d images and manifest.jsonl in %s", cfg.n, out)


if __name__ == "__main__":
    main()
