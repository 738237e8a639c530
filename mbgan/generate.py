"""Draw images from a run: python -m mbgan.generate run=RUN n=64."""

import json
import logging
import os
import shutil
from pathlib import Path

from omegaconf import DictConfig

from mbgan.verbs import verb

log = logging.getLogger(__name__)


@verb("generate")
def main(cfg: DictConfig) -> None:
    """Write n PNGs and manifest.jsonl, a line an image that says where it came from."""
    import torch

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
    conditions = generator.matching(cfg["class"], cfg.magnification)
    lines = []
    # Renamed when complete: no image lies about without the line that calls it synthetic.
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        for start in range(0, cfg.n, 64):
            indices = range(start, min(start + 64, cfg.n))
            z = fixed_latents(indices, generator.z_dim, cfg.seed)
            condition = torch.tensor([conditions[i % len(conditions)] for i in indices])
            images = generate(generator, z, condition, truncation=cfg.truncation)
            for i, image in zip(indices, images, strict=True):
                line = {"file": f"{i:06d}.png", "synthetic": True, "index": i, "seed": cfg.seed}
                if generator.conditions:
                    line["condition"] = generator.conditions[conditions[i % len(conditions)]]
                save_png(image, draft / line["file"])
                line |= {"truncation": cfg.truncation, **origin}
                lines.append(json.dumps(line) + "\n")
        write_text(draft / "manifest.jsonl", "".join(lines))
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info("%d images and manifest.jsonl in %s", cfg.n, out)


if __name__ == "__main__":
    main()
