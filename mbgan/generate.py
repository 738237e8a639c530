"""Draw images from a run: python -m mbgan.generate run=RUN n=64."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
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
    conditions = chosen_conditions(generator.conditions, cfg["class"], cfg.magnification)
    lines = []
    # Renamed when complete: no image lies about without the line that calls it synthetic.
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        for start in range(0, cfg.n, 64):
            indices = range(start, min(start + 64, cfg.n))
            z = fixed_latents(indices, generator.z_dim, cfg.seed)
            condition = torch.tensor([conditions[i % len(conditions)] for i in indices])
            images = generate(generator, z, condition)
            for i, image in zip(indices, images, strict=True):
                line = {"file": f"{i:06d}.png", "synthetic": True, "index": i, "seed": cfg.seed}
                if generator.conditions:
                    line["condition"] = generator.conditions[conditions[i % len(conditions)]]
                save_png(image, draft / line["file"])
                lines.append(json.dumps(line | origin) + "\n")
        write_text(draft / "manifest.jsonl", "".join(lines))
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info("%d images and manifest.jsonl in %s", cfg.n, out)


def chosen_conditions(
    names: Sequence[str], label: str | None, magnification: str | None
) -> list[int]:
    """Return the numbers of the conditions that a class and a magnification leave; [0] of none.

    Raises:
        ValueError: if the run has no such condition.
    """
    wanted = {"class": label, "magnification": magnification}
    chosen = list(range(len(names)))
    for key, value in wanted.items():
        if value is None:
            continue
        if not names:
            raise ValueError(
                f"{key} must be left out, as the run tells no images apart, got {value}; train "
                f"one with model.condition={key}"
            )
        chosen = [i for i in chosen if str(value).casefold() in names[i].casefold().split("/")]
        if not chosen:
            raise ValueError(f"{key} must be one of the run's ({', '.join(names)}), got {value}")
    return chosen or [0]


if __name__ == "__main__":
    main()
