"""FIDs of real images against real images, and what other protocols make of the same images.

python measure.py OUT writes results.csv from the features in OUT; without OUT, it only draws.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mbgan.metrics.distances import fid, inception_score
from mbgan.metrics.kernel import kid

HERE = Path(__file__).parent
DEALS, SEED = 20, 0
SIZES = {"100x": (76, 101, 153, 202, 264), "400x": (76, 101, 153, 202, 348)}  # half of all, last
N, MAGNIFICATION = 153, "400x"  # where protocols are compared
NETWORKS = ("efficientnet_lite0", "efficientnet_lite2", "inception_random")
Set = dict[str, Tensor]  # features [N, F] by their width, and logits


def read(out: Path, network: str, magnification: str, images: str = "plain") -> Set:
    """Return what a network sees of images."""
    with np.load(out / f"{network} {magnification} {images}.npz") as file:
        return {key: torch.from_numpy(file[key]).double() for key in file}


def networks(out: Path, magnification: str) -> dict[str, Set]:
    """Return all networks' features, and the two trained ones' side by side."""
    sets = {network: read(out, network, magnification) for network in NETWORKS}
    lite0, lite2 = (sets[network] for network in NETWORKS[:2])
    wide = [("320", "352"), ("1280", "1280")]
    both = {str(int(a) + int(b)): torch.cat([lite0[a], lite2[b]], 1) for a, b in wide}
    return sets | {"efficientnet_lite0_and_2": both}


def deals(images: int) -> list[Tensor]:
    """Return orders [DEALS, N] of images; the first n and the next n are one deal's two sides."""
    rngs = (np.random.default_rng([SEED, deal]) for deal in range(DEALS))
    return [torch.from_numpy(rng.permutation(images)) for rng in rngs]


def row(values: list[float], score: str, protocol: str, **more: object) -> dict[str, object]:
    """Return the mean, standard deviation and range of a score over deals."""
    found = {"score": score, "protocol": protocol, **more, "deals": len(values)}
    found |= {"mean": np.mean(values), "sd": np.std(values, ddof=1)}
    return found | {"smallest": min(values), "largest": max(values)}


def floors(out: Path) -> Iterator[dict[str, object]]:
    """Yield the FID of two disjoint sets of n images, by network, layer, magnification and n."""
    for magnification, sizes in SIZES.items():
        for network, layers in networks(out, magnification).items():
            for width, x in layers.items():
                if width == "logits":
                    continue
                for n in sizes:
                    sides = [(x[order[:n]], x[order[n : 2 * n]]) for order in deals(len(x))]
                    about = {"network": network, "width": int(width), "n": n, "n_fake": n}
                    about |= {"magnification": magnification, "variance": float(x.var(0).sum())}
                    yield row([fid(*pair) for pair in sides], "fid", "disjoint", **about)
                    yield row([kid(*pair) for pair in sides], "kid", "disjoint", **about)


def means_only(real: Tensor, fake: Tensor) -> float:
    """Return the squared distance of the means, FID without its second term."""
    return float((real.mean(0) - fake.mean(0)).square().sum())


def variances_only(real: Tensor, fake: Tensor) -> float:
    """Return FID with covariances taken as diagonal."""
    return means_only(real, fake) + float((real.std(0) - fake.std(0)).square().sum())


def pairs(real: Tensor, fake: Tensor) -> float:
    """Return the mean FID of one image against one, which have no covariance."""
    return float((real - fake).square().sum(1).mean())


def batches(real: Tensor, fake: Tensor) -> float:
    """Return the mean FID of batches of 32."""
    parts = zip(real.split(32), fake.split(32), strict=True)
    return float(np.mean([fid(*pair) for pair in parts if len(pair[0]) == 32]))


def protocols(out: Path) -> Iterator[dict[str, object]]:
    """Yield the FID by each protocol of N training images against as many stand-ins for fakes."""
    network, width = "efficientnet_lite0", "1280"
    x, mirrored, blurred, unit, signed, quarters = (
        read(out, network, MAGNIFICATION, images)[width]
        for images in ("plain", "mirrored", "blurred", "unit", "signed", "quarters")
    )
    other, quarters = read(out, network, "100x")[width], quarters.unflatten(0, (-1, 4))
    a, b = slice(N), slice(N, 2 * N)
    Fid = Callable[[Tensor], float]
    scores: dict[str, Fid] = {
        "disjoint": lambda i: fid(x[i[a]], x[i[b]]),
        "other magnification": lambda i: fid(x[i[a]], other[i[i < len(other)][b]]),
        "disjoint, blurred": lambda i: fid(x[i[a]], blurred[i[b]]),
        "the same images": lambda i: fid(x[i[a]], x[i[a]]),
        "the same images, mirrored": lambda i: fid(x[i[a]], mirrored[i[a]]),
        "the same images, blurred": lambda i: fid(x[i[a]], blurred[i[a]]),
        "half of them the same": lambda i: fid(x[i[a]], x[i[N // 2 : N // 2 + N]]),
        "nine tenths the same": lambda i: fid(x[i[a]], x[i[N // 10 : N // 10 + N]]),
        "more fakes": lambda i: fid(x[i[a]], x[i[N:]]),
        "batches of 32, mean": lambda i: batches(x[i[a]], x[i[b]]),
        "image by image, mean": lambda i: pairs(x[i[a]], x[i[b]]),
        "quarters of images": lambda i: fid(*(quarters[i[s]].flatten(0, 1) for s in (a, b))),
        "means only": lambda i: means_only(x[i[a]], x[i[b]]),
        "variances, no covariances": lambda i: variances_only(x[i[a]], x[i[b]]),
        "pixels in 0..1": lambda i: fid(unit[i[a]], unit[i[b]]),
        "pixels in -1..1": lambda i: fid(signed[i[a]], signed[i[b]]),
        "one side in -1..1": lambda i: fid(x[i[a]], signed[i[b]]),
        "square root": lambda i: fid(x[i[a]], x[i[b]]) ** 0.5,
        "divided by 100": lambda i: fid(x[i[a]], x[i[b]]) / 100,
        "divided by the width": lambda i: fid(x[i[a]], x[i[b]]) / int(width),
    }
    about = {"network": network, "width": int(width), "magnification": MAGNIFICATION, "n": N}
    about["variance"] = float(x.var(0).sum())
    for name, score in scores.items():
        n_fake = len(x) - N if name == "more fakes" else N
        values = [score(order) for order in deals(len(x))]
        yield row(values, "fid", name, **about, n_fake=n_fake)


def inception_scores(out: Path) -> Iterator[dict[str, object]]:
    """Yield Inception scores of n real images, as they are and by other protocols."""
    cases = [(network, "plain") for network in NETWORKS]
    cases += [("efficientnet_lite0", images) for images in ("blurred", "unit", "signed")]
    for magnification, n in (("100x", 202), ("400x", N)):
        for network, images in cases:
            if images != "plain" and magnification != MAGNIFICATION:
                continue
            logits = read(out, network, magnification, images)["logits"]
            sides = [logits[order[:n]] for order in deals(len(logits))]
            about = {"network": network, "width": logits.shape[1], "n": n}
            about |= {"magnification": magnification}
            scores = [inception_score(side) for side in sides]
            yield row(scores, "inception_score", images, **about)
            yield row(list(np.log(scores)), "log_inception_score", images, **about)
            if images == "plain":
                single = [inception_score(side[:1]) for side in sides]
                yield row(single, "inception_score", "one image", **about | {"n": 1})


def results() -> pd.DataFrame:
    """Return the results, FIDs also over the total variance of their features."""
    rows = pd.read_csv(HERE / "results.csv")
    rows["share"], rows["sd_share"] = rows["mean"] / rows["variance"], rows["sd"] / rows["variance"]
    return rows


def main(out: str | None = None) -> None:
    """Measure, write, draw; or only draw and print the tables."""
    if out:
        rows = [*floors(Path(out)), *protocols(Path(out)), *inception_scores(Path(out))]
        table = pd.DataFrame(rows).astype({"n_fake": "Int64"})
        table.to_csv(HERE / "results.csv", index=False, lineterminator="\n", float_format="%.5g")


if __name__ == "__main__":
    main(*sys.argv[1:])
