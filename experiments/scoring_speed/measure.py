"""Time mbgan.evaluate against torch-fidelity's own pipeline, and scores of many images.

python measure.py writes results.csv and limits.csv; with "fidelity" it is one timed run of theirs.
"""

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
N, N_TRAIN, FEW, SIDE = 1000, 202, 40, 64  # images a side, of training, to fill caches; px
REPEATS = {"efficientnet_lite0": 3, "inception": 1}
MODULE = "torch_fidelity.feature_extractor_inceptionv3"


def draw(folder: Path, n: int, seed: int) -> Path:
    """Write n parts of the drawn phantom, shrunk, with noise of their own, as PNG."""
    from mbgan.data.phantom import phantom_dir

    cache = Path(os.environ.get("MBGAN_CACHE", "~/.cache/mbgan")).expanduser()
    sources, rng = sorted((phantom_dir(cache) / "100x").rglob("*.jpg")), np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(n):
        part = Image.open(sources[rng.integers(len(sources))]).convert("RGB")
        x, y = rng.integers(0, 128, 2)
        pixels = np.asarray(part.crop((x, y, x + 128, y + 128)).resize((SIDE, SIDE)), np.int16)
        noise = rng.integers(-6, 7, (SIDE, SIDE, 1))
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(
            folder / f"{i:04d}.png"
        )
    return folder


def inception_file(path: Path) -> Path:
    """Write random weights for Inception: the arithmetic is that of the real ones."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with (
        patch(f"{MODULE}.load_state_dict_from_url", lambda *args, **kwargs: {}),
        patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None),
    ):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    torch.save(network.state_dict(), path)
    return path


def fidelity(extractor: str, weights: str, real: str, fake: str, cache: str) -> None:
    """Score by torch-fidelity alone: Inception score, FID, KID, precision and recall."""
    import torch_fidelity
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    from mbgan.metrics.features import EfficientNetLite0

    class Lite0(FeatureExtractorBase):
        """The same network, as torch-fidelity takes one."""

        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)
            self.network = EfficientNetLite0()
            self.network.network.to(memory_format=torch.contiguous_format)  # as it would come

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "features", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            seen = dict(zip(("features", "logits"), self.network(x), strict=True))
            return tuple(seen[name] for name in self.features_list)

    torch_fidelity.register_feature_extractor("lite0", Lite0)
    own = {"feature_extractor": "lite0"}
    if extractor == "inception":
        own = {
            "feature_extractor": "inception-v3-compat",
            "feature_extractor_weights_path": weights,
        }
    kept = {"cache": False}
    if cache:
        kept = {"cache": True, "cache_root": cache, "input2_cache_name": f"real_{extractor}"}
    torch_fidelity.calculate_metrics(
        input1=fake, input2=real, isc=True, fid=True, kid=True, prc=True, cuda=False, verbose=False,
        kid_subset_size=FEW, **own, **kept,
    )  # fmt: skip


def timed(command: list[str]) -> float:
    """Run a command; return seconds."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def compare() -> None:
    """Run both in turn, with new fakes each time and the reals' features kept."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        real, train = draw(root / "real", N, 0), draw(root / "train", N_TRAIN, 1)
        few = draw(root / "few", FEW, 2)
        fakes = [draw(root / f"fake{i}", N, 10 + i) for i in range(max(REPEATS.values()))]
        weights = inception_file(root / "inception.pth")

        def ours(extractor: str, fake: Path, *more: str) -> list[str]:
            words = [sys.executable, "-m", "mbgan.evaluate", f"extractor={extractor}"]
            words += [f"extractor.weights={weights}"] if extractor == "inception" else []
            words += [f"real={real}", f"fake={fake}", f"cache_dir={root}/cache", f"out={root}/out"]
            return [*words, *more]

        def theirs(extractor: str, fake: Path, cache: str) -> list[str]:
            words = [sys.executable, __file__, "fidelity", extractor, str(weights)]
            return [*words, str(real), str(fake), cache]

        for extractor, repeats in REPEATS.items():
            with_train = [f"train={train}"] if repeats > 1 else []  # minutes by Inception
            timed(ours(extractor, few, *with_train))  # fills the caches
            timed(theirs(extractor, few, f"{root}/theirs"))
            for repeat, fake in enumerate(fakes[:repeats]):
                commands = {"mbgan": ours(extractor, fake)}
                if with_train:
                    commands["mbgan, copies too"] = ours(extractor, fake, *with_train)
                commands["torch-fidelity"] = theirs(extractor, fake, "")
                commands["torch-fidelity, reals kept"] = theirs(extractor, fake, f"{root}/theirs")
                for what, command in commands.items():
                    row = {"extractor": extractor, "what": what, "repeat": repeat}
                    row["seconds"] = round(timed(command), 1)
                    print(row, flush=True)
                    rows.append(row)
                    write("results.csv", rows)


def limits() -> None:
    """Time the scores of 10,000 features, the bootstrap of 500, and neighbors of 50,000."""
    from mbgan.metrics import kernel, memorization, neighbors
    from mbgan.metrics.likelihood import fld_gap

    generator = torch.Generator().manual_seed(0)

    def features(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def spent(work):  # noqa: ANN001, ANN202
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    small = kernel.Kernels.of(features(500, 1280), features(500, 1280))
    jobs = {"1,000 resamples of KID, 500 images a side": lambda: kernel.interval(small)}
    x, y, train = features(10_000, 1280), features(10_000, 1280), features(1, 10_000, 1280)
    jobs |= {
        "precision and recall, 10,000 a side": lambda: neighbors.precision_recall(x, y),
        "density and coverage, 10,000 a side": lambda: neighbors.density_coverage(x, y),
        "authenticity, 10,000 and as many training images": (
            lambda: memorization.authenticity(train, y)
        ),
        "C_T, 10,000 likewise": lambda: memorization.copy_test(train, x, y),
        "FLD gap, 10,000 likewise": lambda: fld_gap(train, x, y),
        "verdict by features, 10,000 likewise": lambda: memorization.verdict(train, x, y),
    }
    rows = []
    for what, work in jobs.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = spent(work)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row = {"what": what, "seconds": round(seconds, 1), "peak_gib": round(peak, 2)}
        row["above_gib"] = round(peak - before, 2)
        rows.append(row)
        print(row, flush=True)
    write("limits.csv", rows)


def write(name: str, rows: list[dict]) -> None:
    """Write rows beside this file."""
    with (HERE / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["fidelity"]:
        fidelity(*sys.argv[2:])
    else:
        limits()
        compare()
