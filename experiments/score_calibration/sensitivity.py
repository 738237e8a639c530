"""Which score sees which damage, and from what dose on, at 150 images a side?

python sensitivity.py DIR damages real images that stand in for fakes and writes sensitivity.csv;
without DIR, the figure and the tables of question.md are made from that.
"""

import re
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from joblib import Memory, Parallel, delayed
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mbgan.assembly import quiet_libraries
from mbgan.data.cache import load_images
from mbgan.data.decode import resize
from mbgan.data.folder import find_images
from mbgan.metrics import memorization
from mbgan.metrics.axes import fid_extrapolated, principal_axes
from mbgan.metrics.features import EfficientNetLite0, Features
from mbgan.metrics.histology import STATISTICS, compare, measure
from mbgan.metrics.likelihood import fld_gap
from mbgan.metrics.nuclei import BASIS, find_nuclei, light_of, typical_nucleus
from mbgan.metrics.similarity import ms_ssim
from mbgan.metrics.suite import FULL, Pair

HERE, CACHE = Path(__file__).parent, Path("~/.cache/mbgan").expanduser()
SIDE, NATIVE = 64, 224  # px: as scored, and as the files are
N, N_TRAIN, MODES = 150, 202, 8
REPEATS, UNDAMAGED = 10, 200  # deals of the images to training, held-out and fake
SLOW = 40  # undamaged deals in which copy_test and fld_gap are taken, too: seconds each
VISIBLE = 0.8  # share of repeats in which a score must leave its undamaged range
DOSES = {
    "blur": (0.25, 0.35, 0.5, 0.7, 1.0),
    "stain": (0.02, 0.05, 0.1, 0.2, 0.4),
    "holes": (0.01, 0.02, 0.05, 0.1, 0.2),
    "nuclei": (0.25, 0.5, 0.75, 1.0),
    "modes": (0.125, 0.25, 0.375, 0.5),
    "copies": (0.025, 0.05, 0.1, 0.2, 0.4),
    "turned": (0.025, 0.05, 0.1, 0.2, 0.4),
    "jpeg": (0.025, 0.05, 0.1, 0.2, 0.4),
}
WHAT = {
    "blur": "Gaussian blur, sigma in px",
    "stain": "more hematoxylin, less eosin, share",
    "holes": "white holes, share of the area",
    "nuclei": "nuclei removed, share",
    "modes": "modes dropped, share",
    "copies": "training copies, share",
    "turned": "turned training copies, share",
    "jpeg": "recompressed training copies, share",
}
MEMORIZATION = ("verdict", "smallest_p", "copied_share", "authenticity", "copy_test", "fld_gap")
NATIVE_STATISTICS = ("nuclei", "nuclear_density", "nuclear_area", "nc_ratio")
Pictures = NDArray[np.uint8]  # [N, 3, S, S]


@dataclass(frozen=True)
class Sample:
    """N images with what scores need of them."""

    images: Pictures
    features: NDArray[np.float64]  # [N, F]
    statistics: dict[str, NDArray[np.float64]]  # each [N]

    def __getitem__(self, rows: NDArray[np.intp]) -> "Sample":
        statistics = {name: values[rows] for name, values in self.statistics.items()}
        return Sample(self.images[rows], self.features[rows], statistics)


def join(*parts: Sample) -> Sample:
    """Return samples as one, with the statistics that all have."""
    names = set.intersection(*(set(part.statistics) for part in parts))
    return Sample(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.features for part in parts]),
        {name: np.concatenate([part.statistics[name] for part in parts]) for name in names},
    )


def blur(rgb: Pictures, dose: float, rng: np.random.Generator) -> Pictures:
    """Return a picture [H, W, 3] blurred by sigma = dose px."""
    return np.rint(ndimage.gaussian_filter(rgb.astype(float), (dose, dose, 0))).astype(np.uint8)


def stain(rgb: Pictures, dose: float, rng: np.random.Generator) -> Pictures:
    """Return it with 1 + dose times the hematoxylin and 1 - dose times the eosin."""
    basis = BASIS / np.linalg.norm(BASIS, axis=1, keepdims=True)
    light = light_of(rgb) + 1
    amounts = -np.log((rgb + 1.0) / light) @ np.linalg.inv(basis)
    level = light * np.exp(-(amounts * [1 + dose, 1 - dose, 1]) @ basis) - 1
    return np.rint(level.clip(0, 255)).astype(np.uint8)


def holes(rgb: Pictures, dose: float, rng: np.random.Generator) -> Pictures:
    """Return it with disks of 7 px punched to the light, until they cover the dose."""
    y, x = np.mgrid[: rgb.shape[0], : rgb.shape[1]]
    hole = np.zeros(rgb.shape[:2], bool)
    while hole.mean() < dose:
        row, column = rng.uniform(0, len(rgb), 2)
        hole |= (y - row) ** 2 + (x - column) ** 2 <= 3.5**2
    return np.where(hole[..., None], light_of(rgb), rgb).astype(np.uint8)


def remove_nuclei(rgb: Pictures, nucleus_px: float, dose: float, seed: int) -> Pictures:
    """Return it with a share of its nuclei, and 1 px around, painted as the tissue around."""
    label = find_nuclei(rgb, nucleus_px)
    gone = np.random.default_rng(seed).random(label.max() + 1) < dose
    gone[0] = False
    mask = ndimage.binary_dilation(gone[label])
    kept = ~(mask | (label > 0))  # nuclei that stay lend no color
    weight = ndimage.gaussian_filter(kept.astype(float), nucleus_px)[..., None] + 1e-6
    around = ndimage.gaussian_filter(rgb * kept[..., None].astype(float), (nucleus_px,) * 2 + (0,))
    return np.where(mask[..., None], np.rint(around / weight), rgb).astype(np.uint8)


def jpeg(rgb: Pictures, dose: float, rng: np.random.Generator) -> Pictures:
    """Return it compressed with quality 75."""
    file = BytesIO()
    Image.fromarray(rgb).save(file, "jpeg", quality=75)
    return np.asarray(Image.open(file))


def shrink(rgb: Pictures) -> Pictures:
    """Return it with SIDE px a side, as it is loaded from a file."""
    return np.asarray(resize(Image.fromarray(rgb), SIDE))


def every(images: Pictures, change, *args) -> Pictures:  # noqa: ANN001, ANN002
    """Return images [N, 3, S, S] after a change of each picture [S, S, 3]."""
    pictures = (change(np.ascontiguousarray(x.transpose(1, 2, 0)), *args) for x in images)
    return np.stack(list(pictures)).transpose(0, 3, 1, 2).copy()


def extract(images: Pictures) -> NDArray[np.float64]:
    """Return EfficientNet-Lite0's features [N, F]."""
    return EfficientNetLite0().extract(torch.from_numpy(images)).features.numpy()


def sample(images: Pictures, nucleus_px: float) -> Sample:
    """Return images with features and statistics, from an earlier run's cache where possible."""
    cache = Memory(CACHE / "sensitivity", verbose=0).cache
    statistics = cache(measure)(torch.from_numpy(images), nucleus_px)
    return Sample(images, cache(extract)(images), statistics)


def with_native(found: Sample, native: dict[str, NDArray[np.float64]]) -> Sample:
    """Return the sample with statistics of nuclei that were taken before it was shrunk."""
    more = {f"{name}_{NATIVE}px": native[name] for name in NATIVE_STATISTICS}
    return Sample(found.images, found.features, found.statistics | more)


def samples(root: str) -> dict[tuple[str, float], Sample]:
    """Return all images under each damage that is done to images, and in the eight poses."""
    files = find_images(root, "400x")
    real, native = (load_images(files, side, CACHE).images.copy() for side in (SIDE, NATIVE))
    small, large = (typical_nucleus(torch.from_numpy(x)) for x in (real, native))
    changed: dict[tuple[str, float], Pictures] = {
        ("none", 0): real,
        ("jpeg", 75): every(real, jpeg, 0, None),
    }
    for change in (blur, stain, holes):
        for dose in DOSES[change.__name__]:
            changed[change.__name__, dose] = every(real, change, dose, np.random.default_rng(0))
    turned = memorization.poses(torch.from_numpy(real))
    changed |= {("pose", i): turned[i].contiguous().numpy() for i in range(1, 8)}
    bare = {dose: every(native, remove_nuclei, large, dose, 0) for dose in DOSES["nuclei"]}
    changed |= {("nuclei", dose): every(x, shrink) for dose, x in bare.items()}
    assert (every(native, shrink) == real).all(), "shrunk as loaded"
    jobs = (delayed(sample)(x, small) for x in changed.values())
    found = dict(zip(changed, Parallel(n_jobs=2)(jobs), strict=True))
    cached = Memory(CACHE / "sensitivity", verbose=0).cache(measure)
    for key, x in {("none", 0.0): native, **{("nuclei", d): x for d, x in bare.items()}}.items():
        found[key] = with_native(found[key], cached(torch.from_numpy(x), large, jobs=2))
    return found


def modes_of(features: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the mode [N] of each image: halves of halves of halves by the first principal axis.

    Cells of a k-d tree in place of clusters, as those are too uneven to leave N images.
    """
    mode, parts = np.zeros(len(features), np.intp), [np.arange(len(features))]
    while len(parts) < MODES:
        halved = []
        for rows in parts:
            x = features[rows] - features[rows].mean(0)
            order = np.argsort(x @ np.linalg.svd(x, full_matrices=False)[2][0])
            halved += np.array_split(rows[order], 2)
        parts = halved
    for i, rows in enumerate(parts):
        mode[rows] = i
    return mode


def scores(train: tuple, real: Sample, fake: Sample, slow: bool) -> dict[str, float]:
    """Return every score of the fakes; train is features [8, N_TRAIN, F] and images."""
    features, images = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    x, y = torch.from_numpy(real.features), torch.from_numpy(fake.features)
    pair = Pair(Features(x, x), Features(y, y))
    result = {
        key: score.of(pair)
        for key, score in FULL.items()
        if key != "inception_score"  # needs logits, and says nothing of one tissue
    }
    result["fid_36_axes"] = fid_extrapolated(x, y, principal_axes(features.flatten(0, 1), 36))
    result["ms_ssim"] = float(ms_ssim(torch.from_numpy(fake.images)).mean())
    sides = images, torch.from_numpy(real.images), torch.from_numpy(fake.images)
    found = memorization.verdict(features, x, y, sides)
    result |= {"verdict": float(found.word != "fine")}
    result |= {"copying": float(found.word == "copying"), "copied_share": found.share}
    result |= {"smallest_p": min(found.p_values.values())}
    result["authenticity"] = memorization.authenticity(features, y)
    if slow:
        result["copy_test"] = memorization.copy_test(features, x, y).z
        result["fld_gap"] = fld_gap(features, x, y)
    shared = {key: value for key, value in real.statistics.items() if key in fake.statistics}
    for name, entry in compare(shared, fake.statistics, resamples=2, floor_splits=0).items():
        result[name] = entry.get("value", np.nan)
    return result


def deal(number: int, found: dict[tuple[str, float], Sample]) -> list[dict[str, float | str]]:
    """Return the scores of one deal of the images, undamaged and, if early, under each dose."""
    torch.set_num_threads(1)
    rng, real = np.random.default_rng([0, number]), found["none", 0]
    order = rng.permutation(len(real.images))
    train, held_out, rest = np.split(order, [N_TRAIN, N_TRAIN + N])
    poses = [real.features[train], *(found["pose", i].features[train] for i in range(1, 8))]
    side = np.stack(poses), real.images[train]
    plan = {("none", 0.0): real[rest[:N]]}
    mode = modes_of(real.features)[rest]
    for damage, dose in [(k, dose) for k, v in DOSES.items() for dose in v if number < REPEATS]:
        copied = train[: round(dose * N)]
        if damage == "modes":
            gone = rng.permutation(MODES)[: round(dose * MODES)]
            plan[damage, dose] = real[rest[~np.isin(mode, gone)][:N]]
        elif damage in ("copies", "turned", "jpeg"):
            kinds = {"copies": [("none", 0)], "jpeg": [("jpeg", 75)]}
            kind = kinds.get(damage, [("pose", i) for i in range(1, 8)])
            parts = [found[key][copied[i :: len(kind)]] for i, key in enumerate(kind)]
            plan[damage, dose] = join(*parts, real[rest[len(copied) : N]])
        else:
            plan[damage, dose] = found[damage, dose][rest[:N]]
        assert len(plan[damage, dose].images) == N, "enough images are left"
    rows = []
    for (damage, dose), fake in plan.items():
        values = scores(side, real[held_out], fake, number < SLOW)
        rows += [
            {"damage": damage, "dose": dose, "deal": number, "score": score, "value": value}
            for score, value in values.items()
        ]
    print("deal", number, flush=True)
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean, spread and 95 % range of each score under each dose, and how often it is seen.

    A score sees damage in a deal if it lies outside its own 95 % range over the undamaged deals;
    the verdict, if it is not "fine".
    """
    usual = rows[rows["damage"] == "none"].groupby("score")["value"]
    low, high = (rows["score"].map(usual.quantile(q)) for q in (0.025, 0.975))
    seen = (rows["value"] < low) | (rows["value"] > high)
    words = rows["score"].isin(["verdict", "copying"])
    rows = rows.assign(seen=seen.where(~words, rows["value"] > 0))
    groups = rows.dropna().groupby(["damage", "dose", "score"], sort=False)
    found = groups["value"].agg(deals="count", mean="mean", sd="std")
    found["low"], found["high"] = (groups["value"].quantile(q) for q in (0.025, 0.975))
    found["seen"] = groups["seen"].mean()
    return found.round(6).reset_index()


def visible(rows: pd.DataFrame) -> pd.DataFrame:
    """Return [score, damage] the smallest dose from which on all are seen, as words.

    A star says that, undamaged included, the mean takes a step back by more than three standard
    errors, against the way that it goes in all.
    """
    undamaged, cells = rows[rows["damage"] == "none"].set_index("score"), {}
    for (score, damage), group in rows[rows["damage"] != "none"].groupby(["score", "damage"]):
        unseen = group["dose"][group["seen"] < VISIBLE].max()
        doses = group["dose"] if np.isnan(unseen) else group["dose"][group["dose"] > unseen]
        if not len(doses):
            cells[score, damage] = "-"
            continue
        unit = "{:g}" if damage == "blur" else "{:.3g} %"
        first = "up to " if np.isnan(unseen) else ""
        cells[score, damage] = first + unit.format(doses.min() * (1 if damage == "blur" else 100))
        steps = pd.concat([undamaged.loc[[score]], group])
        change, variance = np.diff(steps["mean"]), steps["sd"] ** 2 / steps["deals"]
        error = np.sqrt(variance.to_numpy()[1:] + variance.to_numpy()[:-1])
        if (change * np.sign(change.sum()) < -3 * error).any():
            cells[score, damage] += " \\*"
    return pd.Series(cells).unstack()


def table(cells: pd.DataFrame, names: list[str]) -> str:
    """Return rows of `visible` as Markdown."""
    lines = ["| score | " + " | ".join(WHAT[k] for k in DOSES) + " |", "|---" * 9 + "|"]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(cells.loc[name, list(DOSES)]) + " |")
    return "\n".join(lines)


def write_tables(rows: pd.DataFrame) -> None:
    """Put the tables between the marks of question.md."""
    cells = visible(rows)
    image = [name for name in (*FULL, "fid_36_axes", "ms_ssim") if name in cells.index]
    tissue = [name for name in STATISTICS if name in cells.index]
    tissue += [name for name in cells.index if name.endswith(f"_{NATIVE}px")]
    cells = cells.fillna("")
    text = (HERE / "question.md").read_text()
    for mark, names in (("scores", image), ("memorization", MEMORIZATION), ("tissue", tissue)):
        part = f"<!-- {mark} -->\n{table(cells, list(names))}\n<!-- end -->"
        text = re.sub(rf"<!-- {mark} -->.*?<!-- end -->", lambda _, p=part: p, text, flags=re.S)
    (HERE / "question.md").write_text(text)


def draw(rows: pd.DataFrame) -> None:
    """Draw how far each score's mean moves, in half widths of its undamaged range."""
    names = ["kid", "fid", "fid_36_axes", "precision", "recall", "density", "coverage"]
    names += ["diversity", "vendi_ratio", "ms_ssim"]
    names += ["authenticity", "copy_test", "fld_gap"]
    usual = rows[rows["damage"] == "none"].set_index("score")
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.4), layout="constrained", sharey=True)
    for panel, (damage, doses) in zip(axes.flat, DOSES.items(), strict=True):
        panel.axhspan(-1, 1, color="0.9")
        for i, name in enumerate(names):
            group = rows[(rows["damage"] == damage) & (rows["score"] == name)].sort_values("dose")
            center, half = (
                (usual.loc[name, "high"] + sign * usual.loc[name, "low"]) / 2 for sign in (1, -1)
            )
            y = (np.array([usual.loc[name, "mean"], *group["mean"]]) - center) / half
            dashed = "--" if name in MEMORIZATION else "-"
            panel.plot(range(len(y)), y, dashed, color=f"C{i}", marker="o", ms=3, label=name)
        panel.set_xticks(range(len(doses) + 1), [f"{dose:g}" for dose in (0, *doses)])
        panel.set(xlabel=WHAT[damage], yscale="symlog")
        panel.set_yticks([-10, -1, 0, 1, 10, 100], ["-10", "-1", "0", "1", "10", "100"])
        panel.grid(alpha=0.3)
    figure.supylabel("shift of the mean, half widths of the undamaged 95 % range (gray)")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right center", frameon=False)
    (HERE / "figures").mkdir(exist_ok=True)
    figure.savefig(HERE / "figures/sensitivity.svg", metadata={"Date": None})


def main(root: str | None = None) -> None:
    """Damage, score, count; or only draw and write what was counted."""
    plt.rcParams["svg.hashsalt"] = "sensitivity"
    if root:
        quiet_libraries()
        found = samples(root)
        jobs = (delayed(deal)(number, found) for number in range(UNDAMAGED))
        rows = pd.DataFrame([row for part in Parallel(n_jobs=2)(jobs) for row in part])
        summary(rows).to_csv(HERE / "sensitivity.csv", index=False, lineterminator="\n")
    rows = pd.read_csv(HERE / "sensitivity.csv")
    draw(rows)
    write_tables(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
