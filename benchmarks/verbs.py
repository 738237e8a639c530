"""Time and peak memory of whole verbs, and how both grow with the number of images.

The images are parts of the drawn phantom with noise of their own, so that none is a duplicate.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Measures, Plan, process, record, run
from mbgan.data.phantom import phantom_dir

SIDE = 256  # px of the drawn images


def draw(folder: Path, n: int, seed: int, cache: Path) -> Path:
    """Write n images; return their folder."""
    sources, rng = sorted((phantom_dir(cache) / "100x").rglob("*.jpg")), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(n):
        part = Image.open(sources[rng.integers(len(sources))]).convert("RGB")
        x, y = rng.integers(0, 128, 2)
        pixels = np.asarray(part.crop((x, y, x + 128, y + 128)).resize((SIDE, SIDE)), np.int16)
        noisy = (pixels + rng.integers(-6, 7, (SIDE, SIDE, 1))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def verb(name: str, title: str, n: int, *words: object) -> Measures:
    """Run a verb once, over n images of its own kind."""
    spent = process(f"mbgan.{name}", *words)
    yield f"verbs/{title}, n = {n}/speed", record("images/s", [n / spent.seconds])
    yield f"verbs/{title}, n = {n}/time", record("s", [spent.seconds])
    yield f"verbs/{title}, n = {n}/memory", record("MiB", [spent.peak_mib])


def measure(plan: Plan) -> Measures:
    """Measure each verb that needs neither people nor hours."""
    root, size = plan.scratch, 32 if plan.quick else 64
    cache = Path(os.environ.get("MBGAN_CACHE", "~/.cache/mbgan"))
    few, many = (40, 80) if plan.quick else (150, 600)
    for n in (few, many):
        images = draw(root / f"images{n}" / "100x" / "tissue", n, 0, cache).parents[1]
        to = [f"data.root={images}", f"out={root / f'prepared{n}'}", "forecast=false"]
        yield from verb("prepare", "prepare", n, *to)
    seen = 64 if plan.quick else 640
    words = ["experiment=quick_start", f"image_size={size}", f"total_images={seen}"]
    run_dir = root / "run"
    words += [f"eval_every={seen}", f"hydra.run.dir={run_dir}"]
    yield from verb("train", "train with its scores", seen, *words)
    for n in (few, many):
        real = draw(root / f"real{n}", n, 1, cache)
        fake = draw(root / f"fake{n}", n, 2, cache)
        to = [f"real={real}", f"fake={fake}", f"out={root / f'scored{n}'}", f"image_size={size}"]
        to += ["extractor=efficientnet_lite0", f"cache_dir={root / 'cache'}"]
        yield from verb("evaluate", "evaluate folders", 2 * n, *to)
    for n in (64, 256 if plan.quick else 2048):
        yield from verb(
            "generate", "generate", n, f"run={run_dir}", f"n={n}", f"out={root / str(n)}"
        )
    yield from verb("explore", "explore", 1, f"run={run_dir}", "show=walk")


if __name__ == "__main__":
    run(measure)
