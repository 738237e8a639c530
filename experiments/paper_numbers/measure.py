"""FIDs of real images against real images, and what other protocols make of the same images.

python measure.py OUT writes results.csv from the features in OUT; without OUT, it only draws and
puts the tables into question.md.
"""

import re
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
TELLS = 1.96 * 2**0.5  # standard deviations between two independent scores, at 95 %
PIXELS = {"plain": "0..255", "unit": "0..1", "signed": "-1..1"}
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
    x, mirrored, blurred, quarters = (
        read(out, network, MAGNIFICATION, images)[width]
        for images in ("plain", "mirrored", "blurred", "quarters")
    )
    quarters = quarters.unflatten(0, (-1, 4))
    a, b = slice(N), slice(N, 2 * N)
    scores: dict[str, Callable[[Tensor], float]] = {
        "disjoint": lambda i: fid(x[i[a]], x[i[b]]),
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
        "square root": lambda i: fid(x[i[a]], x[i[b]]) ** 0.5,
        "divided by 100": lambda i: fid(x[i[a]], x[i[b]]) / 100,
        "divided by the width": lambda i: fid(x[i[a]], x[i[b]]) / int(width),
    }
    about: dict[str, object] = {"magnification": MAGNIFICATION, "n": N, "network": network}
    about |= {"width": int(width), "variance": float(x.var(0).sum())}
    for name, score in scores.items():
        n_fake = len(x) - N if name == "more fakes" else N
        values = [score(order) for order in deals(len(x))]
        yield row(values, "fid", name, **about, n_fake=n_fake)


def generators(out: Path) -> Iterator[dict[str, object]]:
    """Yield FIDs of stand-ins for generators by networks that see well, and by some that do not.

    The perfect one draws other real images, the poor one tissue of another magnification, the
    collapsed one a single real image.
    """
    lite0 = "efficientnet_lite0"
    cases = [(lite0, "plain", "1280"), ("efficientnet_lite2", "plain", "1280")]
    cases += [("inception_random", "plain", width) for width in ("64", "192", "768", "2048")]
    cases += [(lite0, "unit", "1280"), (lite0, "signed", "1280")]
    for network, images, width in cases:
        other, x = (read(out, network, magnification, images)[width] for magnification in SIZES)
        about = {"network": network, "width": int(width), "magnification": MAGNIFICATION}
        about |= {"n": N, "n_fake": N, "variance": float(x.var(0).sum()), "images": images}
        orders = list(zip(deals(len(x)), deals(len(other)), strict=True))
        fakes = {
            "perfect": [x[i[N : 2 * N]] for i, _ in orders],
            "poor": [other[j[:N]] for _, j in orders],
            "collapsed": [x[i[N]].expand(N, -1) for i, _ in orders],
        }
        for name, y in fakes.items():
            values = [fid(x[i[:N]], fake) for (i, _), fake in zip(orders, y, strict=True)]
            yield row(values, "fid", name, **about)


def inception_scores(out: Path) -> Iterator[dict[str, object]]:
    """Yield Inception scores of n real images, and their logarithms, the mean divergences."""
    cases = [(network, "plain") for network in NETWORKS]
    cases += [("efficientnet_lite0", images) for images in ("unit", "signed")]
    for magnification, n in (("100x", 202), ("400x", N)):
        for network, images in cases:
            logits = read(out, network, magnification, images)["logits"]
            sides = [logits[order[:n]] for order in deals(len(logits))]
            about = {"network": network, "width": logits.shape[1], "images": images}
            about |= {"magnification": magnification, "n": n}
            scores = [inception_score(side) for side in sides]
            yield row(scores, "inception_score", "real", **about)
            yield row(list(np.log(scores)), "log_inception_score", "real", **about)
            one = [inception_score(side[:1].expand(n, -1)) for side in sides]
            yield row(one, "inception_score", "collapsed", **about)


def results() -> pd.DataFrame:
    """Return the results, with FIDs over the total variance of the features they are taken from."""
    rows = pd.read_csv(HERE / "results.csv")
    return rows.assign(share=rows["mean"] / rows["variance"])


def layers(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """Return networks and widths in the order of tables."""
    found = rows[["network", "width"]].drop_duplicates()
    found["weights"] = found["network"].str.contains("random")
    return [(x.network, x.width) for x in found.sort_values(["weights", "width"]).itertuples()]


def floors_found() -> pd.DataFrame:
    """Return the FIDs of disjoint sets."""
    rows = results()
    return rows[(rows["part"] == "floors") & (rows["score"] == "fid")]


def protocols_found() -> pd.DataFrame:
    """Return the FIDs by each protocol, also over that of disjoint sets, the first of them."""
    rows = results()
    rows = rows[rows["part"] == "protocols"]
    return rows.assign(factor=(rows["mean"] / rows["mean"].iloc[0]).round(9))


def markdown(head: list[str], body: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def floor_table() -> str:
    """Return FIDs of disjoint sets, mean and standard deviation over the deals."""
    rows = floors_found()
    rows = rows[rows["magnification"] == MAGNIFICATION]
    body = []
    for network, width in layers(rows):
        group = rows[(rows["network"] == network) & (rows["width"] == width)]
        cells = [f"{x.mean:.3g} ± {x.sd:.2g} ({x.share:.0%})" for x in group.itertuples(False)]
        body.append([network, str(width), f"{group['variance'].iloc[0]:.3g}", *cells])
    sizes = [f"n = {n}" for n in SIZES[MAGNIFICATION]]
    return markdown(["network", "width", "variance", *sizes], body)


def protocol_table() -> str:
    """Return what each protocol makes of the FID of disjoint sets, and by which factor."""
    body = [
        [x.protocol, f"{abs(round(x.mean, 9)):.3g} ± {round(x.sd, 9):.2g}", f"{abs(x.factor):.3g}"]
        for x in protocols_found().itertuples(False)
    ]
    return markdown(["protocol", "FID", "over that of disjoint sets"], body)


def tell_table() -> str:
    """Return how far apart two FIDs must be that differ by more than the deals' spread."""
    rows, body = floors_found(), []
    for width in (192, 1280):
        for magnification, n in (("100x", 101), ("100x", 202), ("400x", 76), ("400x", 153)):
            of = (rows["network"] == "efficientnet_lite0") & (rows["width"] == width)
            x = rows[of & (rows["magnification"] == magnification) & (rows["n"] == n)].iloc[0]
            apart = TELLS * x["sd"]
            cells = [f"{x['mean']:.3g}", f"{apart:.2g}", f"{apart / x['mean']:.0%}"]
            body.append([str(width), magnification, str(n), *cells])
    head = ["width", "magnification", "n", "FID", "smallest difference", "of the FID"]
    return markdown(head, body)


def generator_table() -> str:
    """Return FIDs of stand-ins for generators."""
    rows, body = results(), []
    rows = rows[rows["part"] == "generators"]
    for (network, images, width), group in rows.groupby(["network", "images", "width"], sort=False):
        cells = [f"{x.mean:.3g} ± {x.sd:.2g}" for x in group.itertuples(False)]
        body.append([network, PIXELS[images], str(width), *cells])
    return markdown(["network", "pixels", "width", "perfect", "poor", "collapsed"], body)


def inception_score_table() -> str:
    """Return Inception scores of real images and their logarithms."""
    rows, body = results(), []
    rows = rows[(rows["part"] == "inception_scores") & (rows["protocol"] == "real")]
    keys = ["network", "images", "magnification", "n"]
    for key, group in rows.groupby(keys, sort=False):
        score, log = group.itertuples(False)
        network, images, magnification, n = key
        cells = [f"{x.mean:.{digits}f} ± {x.sd:.2g}" for x, digits in ((score, 4), (log, 4))]
        body.append([network, PIXELS[images], magnification, str(n), *cells])
    head = ["network", "pixels", "magnification", "n", "Inception score", "its logarithm"]
    return markdown(head, body)


def draw() -> None:
    """Draw the floor against width, and each protocol's FID over the floor."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    found = floors_found()
    found = found[
        (found["magnification"] == MAGNIFICATION) & (found["n"] < SIZES[MAGNIFICATION][-1])
    ]
    for random, marker in ((False, "o"), (True, "x")):
        for i, (n, group) in enumerate(found.groupby("n")):
            group = group[group["network"].str.contains("random") == random]
            label = f"n = {n}" if not random else None
            left.plot(group["width"], 100 * group["share"], marker, color=f"C{i}", label=label)
    left.plot([], [], "x", color="gray", label="random weights")
    left.set(
        xscale="log",
        xlabel="width of the features",
        ylabel="FID of real images against real ones,\n% of the features' variance",
    )
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    body = protocols_found()
    floor = body["mean"].iloc[0]
    body = body[body["factor"] > 1e-4].sort_values("mean")
    right.hlines(body["protocol"], body["smallest"] / floor, body["largest"] / floor, color="C0")
    right.plot(body["mean"] / floor, body["protocol"], "o", ms=4)
    right.axvline(1, color="0.7", zorder=0)
    right.set(xscale="log", xlabel=f"FID over that of disjoint sets (n = {N}, width 1280)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    (HERE / "figures").mkdir(exist_ok=True)
    figure.savefig(HERE / "figures/floors.svg", metadata={"Date": None})


def write_tables() -> None:
    """Put the tables between the marks of question.md."""
    text = (HERE / "question.md").read_text()
    for table in TABLES:
        part = f"<!-- {table.__name__} -->\n{table()}\n<!-- end -->"
        mark = rf"<!-- {table.__name__} -->.*?<!-- end -->"
        text = re.sub(mark, lambda _, p=part: p, text, flags=re.S)
    (HERE / "question.md").write_text(text)


TABLES = (
    floor_table,
    protocol_table,
    generator_table,
    tell_table,
    inception_score_table,
)


def main(out: str | None = None) -> None:
    """Measure, write, draw; or only draw and write the tables."""
    plt.rcParams["svg.hashsalt"] = "paper_numbers"
    if out:
        parts = [
            pd.DataFrame(part(Path(out))).assign(part=part.__name__)
            for part in (floors, protocols, generators, inception_scores)
        ]
        table = pd.concat(parts).astype({"n_fake": "Int64"})
        table.to_csv(HERE / "results.csv", index=False, lineterminator="\n", float_format="%.5g")
    draw()
    write_tables()


if __name__ == "__main__":
    main(*sys.argv[1:])
