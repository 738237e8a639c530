"""The report of a comparison: one page without network, the same as Markdown, figures, a table."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import matplotlib as mpl

from mbgan.data.decode import UnreadableImage, read_image, size_and_format
from mbgan.files import draft_of, flush, flush_names, remove, remove_drafts
from mbgan.runs import write_text
from mbgan.studies.card_figures import data_uri, to_svg
from mbgan.studies.comparison import Row, compare, results
from mbgan.studies.comparison_figures import CHART, charts, panel
from mbgan.studies.page import csp_hash, environment, writable
from mbgan.studies.ranking import LEVEL
from mbgan.studies.run_table import RunRecord

BUDGET = 7_000_000  # bytes of pictures, so that the page stays under 10 MB
SIDE = 1100  # px of a picture at most
PANEL = 24  # rows of figures/samples_*.png
GAP = 2  # px between the images of a grid, see `images.grid`
TITLES = {
    "kid": "KID",
    "fid": "FID",
    "inception_score": "Inception score",
    "curves": "KID through training",
    "cost": "Quality against cost",
}
CAPTIONS = {
    "kid": (
        "The score that ranks. A dot is a seed, hollow if it is not ranked; the line is the 95 % "
        "interval, over seeds where there are several; gray is where halves of the real images "
        "score against each other."
    ),
    "fid": (
        "Reported because people ask. Most of it is bias at so few images, so it is never to be "
        "compared with a number from elsewhere. The small stroke is what halves of the generated "
        "images score: that may be held against the gray band, which is of as many."
    ),
    "inception_score": (
        "It cannot be below 1, and goes by the classes of ImageNet, which tissue has not: it tells "
        "little here. Gray is what halves of the real images score."
    ),
    "curves": (
        "A line is a run, dotted if it is not done. These are quick scores, of other latents and "
        "often of fewer images than the ranking's."
    ),
    "cost": (
        "A dot is a run; larger ones have more weights. Minutes are comparable on the same machine "
        "only."
    ),
}


class Pictures:
    """Pictures for the page, until their bytes are spent."""

    def __init__(self) -> None:
        self.left, self.missing = BUDGET, list[str]()

    def __call__(self, path: Path) -> str | None:
        """Return a picture as a data URI; None, and its path in `missing`, if it is left out."""
        try:
            uri = data_uri(read_image(path).rgb, SIDE, 85)
        except UnreadableImage:  # being written, or damaged
            uri = None
        if uri is None or len(uri) > self.left:
            self.missing.append(str(path))
            return None
        self.left -= len(uri)
        return uri


def write_report(runs: Sequence[RunRecord], out: Path, *, real_images: bool) -> Row:
    """Write results.csv, figures/, report.md and report.html into a folder; return what they say.

    All is made in a folder beside it and then moved, the page last, so that none is ever half
    written. Of what was there before, only files of the same names are replaced.

    Args:
        runs: that were read, at least one.
        out: folder, made if it is missing.
        real_images: show nearest training images and other real ones, too.

    Raises:
        OSError: if the folder cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"out must be a folder, new or old, got the file {out}")
    found = compare(runs)
    out = out.absolute()
    draft = draft_of(out)
    try:
        (draft / "figures").mkdir(parents=True)
        remove_drafts(out.parent, out.name)
    except OSError as error:
        raise OSError(f"out must be a folder that can be made, got {out} ({error})") from None
    try:
        figures = save_figures(found["sections"], draft / "figures")
        pictures = Pictures()
        for part in found["sections"]:
            part["samples"] = sample_rows(part, pictures, real_images)
            part["nearest"] = nearest_rows(part, pictures) if real_images else []
        for i, part in enumerate(found["sections"]):
            save_panel(part, real_images, draft / "figures" / f"samples_{i + 1}.png")
        script = files("mbgan.studies").joinpath("report.js").read_text(encoding="utf-8")
        content = {
            "study": found,
            "figures": figures,
            "missing": pictures.missing,
            "script": script,
            "script_hash": csp_hash(script),
            "real_images": real_images,
            "level": LEVEL,
        }
        for name in ("report.md", "report.html"):
            text = environment().get_template(f"{name}.j2").render(content)
            write_text(draft / name, writable(text))
        write_text(draft / "results.csv", writable(results(runs).to_csv(index=False)))
        (out / "figures").mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in (draft / "figures").iterdir())
        figures_made = [f"figures/{name}" for name in names]
        flush(draft)
        for name in (*figures_made, "results.csv", "report.md", "report.html"):
            (draft / name).replace(out / name)
        flush_names(out)
    finally:
        remove(draft)
    return found


def save_figures(sections: Sequence[Row], folder: Path) -> list[Row]:
    """Write each chart as SVG and PNG, and return it as SVG for the page, with its words."""
    found = []
    for name, figure in charts(sections).items():
        with mpl.rc_context(CHART | {"svg.hashsalt": name}):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            figure.savefig(folder / f"{name}.png", dpi=200)
            svg = to_svg(figure, name)
        found.append({"name": name, "title": TITLES[name], "caption": CAPTIONS[name], "svg": svg})
    return found


def sample_rows(part: Row, pictures: Pictures, real_images: bool) -> list[Row]:
    """Return a row a group: the last grid of its first run, with its size in px."""
    rows = []
    for name, run, path in sampled(part, real_images):
        if uri := pictures(path):
            (width, height), _ = size_and_format(path)
            side = min(part["part"].image_size or height, height)
            note = "" if name == "real" else f"{run.name}, {int(path.stem):,} images seen"
            rows.append({"name": name, "note": note, "src": uri, "width": width, "side": side})
    return rows


def sampled(part: Row, real_images: bool) -> list[tuple[str, RunRecord, Path]]:
    """Return name, run and grid of samples of each group, and of real images first."""
    found: list[tuple[str, RunRecord, Path]] = []
    for group in part["groups"]:
        run = next((run for run in group["runs"] if run.sample), None)
        if run and run.sample:
            if real_images and not found and (real := run.folder / "samples/real.png").is_file():
                found.append(("real", run, real))
            found.append((group["name"], run, run.sample))
    return found


def nearest_rows(part: Row, pictures: Pictures) -> list[Row]:
    """Return a row a group: the generated images nearest to training images, of its worst run."""
    rows = []
    for group in part["groups"]:
        shown = [(run, run.folder / "scored/best/nearest.png") for run in group["runs"]]
        shown = [(run, path) for run, path in shown if run.scores and path.is_file()]
        if not shown:
            continue
        run, path = max(shown, key=lambda pair: share_of_copies(pair[0]))
        if uri := pictures(path):
            word = (run.scores or {}).get("memorization", {}).get("verdict") or "unknown"
            rows.append({"name": group["name"], "note": f"{run.name}, copies: {word}", "src": uri})
    return rows


def share_of_copies(run: RunRecord) -> float:
    """Return the share of a run's images that are nearer to training images than is usual."""
    return float((run.scores or {}).get("memorization", {}).get("share") or 0)


def save_panel(part: Row, real_images: bool, path: Path) -> None:
    """Write the first images of each group's grid below each other; nothing without any."""
    rows = []
    for name, _, source in sampled(part, real_images)[:PANEL]:
        try:
            grid = read_image(source).rgb
        except UnreadableImage:
            continue
        rows.append((name, grid, min(part["part"].image_size or grid.height, grid.height)))
    if rows:
        panel(rows).savefig(path, dpi=150)
