"""Runs read back for a comparison: what each is, what it scored, and what is wrong with it."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbgan.runs import Run
from mbgan.studies.card_summary import natural
from mbgan.studies.ranking import Measurement
from mbgan.studies.run_files import (
    LoadConfig,
    Settings,
    read_record,
    read_rows,
    read_scores,
    read_settings,
)

IGNORED = (  # settings that make no other model: seeds, places, scoring, and a section's own
    *("seed", "resume", "run_dir", "cache_dir", "data.root", "data.num_workers", "logger"),
    *("callbacks", "extractor", "metrics", "full_metrics", "trainer.accelerator"),
    *("magnification", "image_size"),
)


@dataclass(frozen=True)
class Section:
    """What runs must have in common to be ranked together."""

    magnification: str
    image_size: int
    extractor: str
    extractor_sha256: str
    data_sha256: str
    split: tuple[Any, ...]  # settings that deal the images: held_out, split_seed
    n_real: int

    @property
    def title(self) -> str:
        """Return what a reader calls it."""
        size = f"{self.image_size} px, {self.n_real} held-out images"
        return f"{self.magnification}, {size}, {self.extractor}"


@dataclass
class RunRecord:
    """One run as it was found.

    Attributes:
        folder: where it lies.
        name: its path below what was asked for.
        model: name of its preset, or of its generator's class.
        settings: of its config, by dotted name, interpolations as they stand.
        choices: of config groups, such as augment.
        record: content of run.json.
        rows: evaluations during training.
        scores: content of scores.json; None if there is none of this version.
        problems: what is missing or wrong, in words.
        group: its name together with runs that differ by no more than their seed.
        unranked: why it has no rank; empty if it has one.
    """

    folder: Path
    name: str
    model: str
    settings: Settings
    choices: dict[str, str]
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    scores: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)
    group: str = ""
    unranked: str = ""

    @property
    def status(self) -> str:
        """Return how it ended: running, done, interrupted, failed, or unknown."""
        return str(self.record.get("status", "unknown"))

    @property
    def seed(self) -> int:
        """Return the seed of its training."""
        return int(self.settings.get("seed", 0))

    @property
    def magnification(self) -> str:
        """Return the magnification of its images."""
        found = (self.record.get("data") or {}).get("magnification")
        return str(found or self.settings.get("magnification", "unknown"))

    @property
    def extractor(self) -> str:
        """Return the name of the network that scored it, unknown without any score."""
        if self.scores:
            return str(self.scores["extractor"])
        keys = (key for row in self.rows for key in row if key.startswith("kid/"))
        return next(keys, "kid/unknown").removeprefix("kid/")

    @property
    def section(self) -> Section:
        """Return with which runs it may be ranked."""
        known = self.scores or (self.rows[-1] if self.rows else {})
        data, s = self.record.get("data") or {}, self.settings
        n = [data.get("n_held_out") or 0, s.get("full_metrics.max_images") or math.inf]
        return Section(
            magnification=self.magnification,
            image_size=int(s.get("image_size") or 0),
            extractor=self.extractor,
            extractor_sha256=str(known.get("extractor_sha256", "")),
            data_sha256=str((self.scores or {}).get("data_sha256") or data.get("sha256", "")),
            split=tuple(s.get(f"data.{key}") for key in ("held_out", "split_seed")),
            n_real=int(self.scores["n_real"] if self.scores else min(n)),
        )

    @property
    def minutes(self) -> float | None:
        """Return the time it took, that of what it was resumed from with it, in minutes."""
        parts = [self.record, *(self.record.get("earlier") or [])]
        times = [part["wall_s"] for part in parts if part.get("wall_s") is not None]
        return sum(times) / 60 if times else None

    @property
    def images_seen(self) -> int | None:
        """Return how many images its critic has seen."""
        seen = self.rows[-1].get("images_seen") if self.rows else None
        return self.record.get("images_seen") or seen

    @property
    def parameters(self) -> int | None:
        """Return the number of weights of generator and critic together."""
        found = self.record.get("parameters")
        return sum(found.values()) if found else None

    @property
    def peak_memory(self) -> float | None:
        """Return the most memory it took, in GiB."""
        found = self.record.get("peak_memory_bytes")
        return found and found / 2**30

    @property
    def sample(self) -> Path | None:
        """Return its last grid of samples."""
        grids = sorted(self.folder.glob("samples/[0-9]*.png"))
        grids = [path for path in grids if path.stem.isdecimal() and path.is_file()]
        return grids[-1] if grids else None

    def entry(self, score: str) -> dict[str, Any] | None:
        """Return what scores.json has of a score by its name without the extractor's."""
        found = (self.scores or {}).get("scores", {}).get(f"{score}/{self.extractor}")
        return found if found and found.get("value") is not None else None

    def measurement(self, score: str) -> Measurement | None:
        """Return its value of a score with its interval, without one the value alone."""
        entry = self.entry(score)
        if entry is None:
            return None
        value = float(entry["value"])
        low, high = entry.get("interval", (value, value))
        return Measurement(self.seed, value, low, high)


def find_runs(roots: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return each run folder at or below some folders, with its path below it as a name.

    Raises:
        FileNotFoundError: if one of them is missing, or holds no run.
    """
    found: dict[Path, str] = {}
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"runs must be a folder of runs, got {root}, which is none")
        before = len(found)
        for path, folders, _ in os.walk(root):
            folder, run = Path(path), Run(path)
            if any(file.is_file() for file in (run.config, run.status, run.metrics)):
                name = folder.relative_to(root).as_posix() if folder != root else folder.name
                found[folder.resolve()] = name if len(roots) == 1 else f"{root.name}/{name}"
                folders.clear()  # what a run holds is its own
            folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(found) == before and not any(f.is_relative_to(root.resolve()) for f in found):
            raise FileNotFoundError(
                f"runs must be run folders of mbgan.train or a folder of them, got {root}, which "
                "holds none (with .hydra/config.yaml, run.json or metrics.jsonl)"
            )
    return list(found.items())


def read_run(folder: Path, name: str, load: LoadConfig) -> RunRecord:
    """Return a run as far as it can be read; what is missing or wrong is among its problems.

    Args:
        folder: of the run.
        name: to show.
        load: reads a config, without resolving its interpolations.
    """
    run, problems = Run(folder), list[str]()

    def attempt(read: Callable[[], Any], otherwise: Any, what: str) -> Any:
        try:
            return read()
        except FileNotFoundError:
            problems.append(f"no {what}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"{what} cannot be read: {' '.join(str(error).split())}")
        return otherwise

    settings = attempt(lambda: read_settings(run, load), {}, ".hydra/config.yaml")
    choices: dict[str, str] = attempt(lambda: run.choices, {}, ".hydra/hydra.yaml")
    record = attempt(lambda: read_record(run), {}, "run.json")
    rows = attempt(lambda: read_rows(run), [], "metrics.jsonl")
    if not rows and not any("metrics.jsonl" in problem for problem in problems):
        problems.append("no evaluation yet")
    scores = None
    if run.scores().is_file():
        scores = attempt(lambda: read_scores(run), None, "scores.json")
    else:
        problems.append(f"not scored: python -m mbgan.evaluate run={folder}")
    best = record.get("best_images_seen")
    if scores and best is not None and scores.get("images_seen") not in (None, best):
        problems.append(
            f"its scores are of {scores['images_seen']} images seen, its best checkpoint now of "
            f"{best}: python -m mbgan.evaluate run={folder}"
        )
        scores = None
    generator = str(settings.get("model.generator._target_", "unknown")).rpartition(".")[2]
    model = choices.get("model", generator)
    return RunRecord(folder, name, model, settings, choices, record, rows, scores, problems)


def name_groups(runs: Sequence[RunRecord]) -> None:
    """Give each run of a section the name of its group: its model, and in what runs of it differ.

    The file that was chosen of a config group stands for its settings: augment=ada.
    """
    for model in {run.model for run in runs}:
        family = [run for run in runs if run.model == model]
        known = {id(run): compared(run) for run in family}
        keys = sorted({key for settings in known.values() for key in settings})
        for run in family:
            words = dict.fromkeys(
                word_for(run, key, {id(r): known[id(r)].get(key) for r in family}, family)
                for key in keys
                if any(known[id(r)].get(key) != known[id(run)].get(key) for r in family)
            )
            run.group = ", ".join([model, *words])


def compared(run: RunRecord) -> Settings:
    """Return the settings by which runs are told apart."""
    return {
        key: value
        for key, value in run.settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in IGNORED)
    }


def word_for(
    run: RunRecord, key: str, values: Mapping[int, Any], family: Sequence[RunRecord]
) -> str:
    """Return how a group's name tells a setting, of which each run of the model has a value."""
    group, value = key.split(".")[0], values[id(run)]
    choice = run.choices.get(group)
    alike = [other for other in family if other.choices.get(group) == choice]
    if choice and "." in key and all(values[id(other)] == value for other in alike):
        return f"{group}={choice}"
    return f"{key}={'not set' if value is None else value}"


def sections(runs: Sequence[RunRecord]) -> dict[Section, list[RunRecord]]:
    """Return the runs that may be ranked together; each gets its group, and why it has no rank."""
    found: dict[Section, list[RunRecord]] = {}
    seen: dict[str, str] = {}
    for run in sorted(runs, key=lambda run: natural(run.name)):
        found.setdefault(run.section, []).append(run)
        checkpoint = (run.scores or {}).get("checkpoint_sha256", run.name)
        if run.scores is None:
            run.unranked = "not scored"
        elif run.scores.get("critic_extractor") == run.extractor:
            run.unranked = f"its critic learned by {run.extractor}: these scores flatter it"
        elif checkpoint in seen:
            run.unranked = f"the same checkpoint as {seen[checkpoint]}"
        seen.setdefault(checkpoint, run.name)
    for members in found.values():
        name_groups(members)
    order = sorted(found, key=lambda part: (all(r.unranked for r in found[part]), part.title))
    return {part: found[part] for part in order}


def why_apart(a: Section, b: Section) -> list[str]:
    """Return in words what keeps two sections' runs from one ranking."""
    words = {
        "magnification": "magnification",
        "image_size": "image size",
        "extractor": "extractor",
        "extractor_sha256": "weights of the extractor",
        "data_sha256": "data",
        "split": "split of the data",
        "n_real": "number of held-out images",
    }
    return [word for key, word in words.items() if getattr(a, key) != getattr(b, key)]
