"""A bundle of a generator to hand on, and the gates before it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mbgan import bundle
from mbgan.files import remove_drafts, whole
from mbgan.networks import Generator
from mbgan.runs import sha256_of, write_text
from mbgan.studies.page import environment
from mbgan.studies.programs import write_programs
from mbgan.studies.reader_answers import SYNTHETIC
from mbgan.studies.reader_report import interval
from mbgan.studies.utility_report import HEADLINE, pairs, said, tables


@dataclass(frozen=True)
class Facts:
    """What is known of a generator beside its weights.

    Attributes:
        origin: run, checkpoint, hash.
        architecture: name of its class.
        settings: of that class.
        scores: content of scores.json; None if it was not scored.
        status: content of run.json.
        card: content of the data card; None if there is none.
        card_sha256: of that file.
        license: of the images it learned from; None if unknown.
        patients: how many gave images; None if that is unknown.
        jpeg_quality: of these images; None if they are no JPEG.
        privacy: result of the membership attack; None if none was tried.
        utility: content of utility.json of mbgan.utility; None if that was not measured.
        readers: content of scores.json of mbgan.reader_study; None if nobody was asked.

    Raises:
        ValueError: if the classifiers or the readers saw images of other weights.
    """

    origin: Mapping[str, Any]
    architecture: str
    settings: Mapping[str, Any]
    scores: Mapping[str, Any] | None
    status: Mapping[str, Any]
    card: Mapping[str, Any] | None
    card_sha256: str | None
    license: str | None
    patients: int | None
    jpeg_quality: int | None
    privacy: Mapping[str, Any] | None = None
    utility: Mapping[str, Any] | None = None
    readers: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, seen in (("utility", self.used), ("readers", self.shown)):
            if seen - {None, self.origin["checkpoint_sha256"]}:
                raise ValueError(
                    f"{name} must be about images of this checkpoint, got those of other weights; "
                    f"leave out {name}=..., or measure again"
                )

    @property
    def used(self) -> set[str | None]:
        """Whose images the classifiers learned from; None for generators trained in each fold."""
        folds = self.utility["folds"] if self.utility else ()
        given = self.utility and self.utility["settings"]["generator"] is not None
        return {fold["generator"]["checkpoint_sha256"] if given else None for fold in folds}

    @property
    def shown(self) -> set[str | None]:
        """Whose images the readers saw; None for a folder's, which nobody can tell."""
        images = self.readers["images"] if self.readers else ()
        return {x.get("checkpoint_sha256") for x in images if x["truth"] == SYNTHETIC}


def gates(facts: Facts) -> list[str]:
    """Return the reasons why a generator must not be handed on; none if it may."""
    closed = []
    scores = facts.scores or {}
    verdict = scores.get("memorization", {}).get("verdict")
    if scores and scores.get("checkpoint_sha256") != facts.origin["checkpoint_sha256"]:
        closed.append("scores.json is of other weights (run mbgan.evaluate again)")
    elif verdict is None:
        closed.append("nobody knows whether it copies (run mbgan.evaluate)")
    elif verdict == "copying":
        closed.append("it copies training images")
    if facts.card is None:
        closed.append("there is no data card (mbgan.prepare makes one; data_card=FILE)")
    if not facts.license:
        closed.append("the license of the training images is not known (license=NAME)")
    return closed


def write_bundle(
    out: Path, generator: Generator, facts: Facts, override: str | None, onnx: bool
) -> None:
    """Write a bundle, whole or not at all.

    Args:
        out: new folder.
        generator: in eval mode.
        facts: what is known of it.
        override: why closed gates are passed, for the card; None to be stopped by them.
        onnx: whether to write ONNX, too.

    Raises:
        FileExistsError: if the folder is there.
        ValueError: if a gate is closed, or what was exported draws other images.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out must be a new or empty folder, got {out}; set out=DIR")
    closed = gates(facts)
    if closed and not (override and override.strip()):
        raise ValueError(
            f"this generator must not be handed on: {'; '.join(closed)}. Who knows better "
            "says why: override_gate=REASON, which is written into the card"
        )
    bundle.architecture(facts.architecture, dict(facts.settings))  # readable again
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(out.parent, out.name)
    with whole(out) as draft:
        draft.mkdir()
        weights = {name: x.contiguous().clone() for name, x in generator.state_dict().items()}
        save_file(weights, draft / bundle.WEIGHTS, {"format": "pt"})
        (draft / bundle.WEIGHTS).chmod(0o644)  # safetensors writes it for its owner alone
        programs = write_programs(generator, draft, onnx)
        origin = {key: value for key, value in facts.origin.items() if key != "run"}
        config = {
            "version": bundle.VERSION,
            "architecture": facts.architecture,
            "settings": dict(facts.settings),
            "conditions": list(generator.conditions),
            "jpeg_quality": facts.jpeg_quality,
            "origin": origin,
        }
        write_text(draft / bundle.CONFIG, json.dumps(config, indent=2) + "\n")
        write_text(draft / "sbom.cdx.json", json.dumps(components(facts.status), indent=2) + "\n")
        card = environment().get_template("release.md.j2")
        values = {"facts": facts, "generator": generator, "programs": programs, "closed": closed}
        if facts.utility:
            values["arms"] = tables(dict(facts.utility))
            values["against"] = pairs(dict(facts.utility)).get(HEADLINE, {})
        helpers = {"quoted": json.dumps, "interval": interval, "said": said}
        page = card.render(values, override=override, **helpers)
        write_text(draft / "README.md", page)
        files = sorted(path for path in draft.iterdir() if path.is_file())
        sums = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
        write_text(draft / bundle.SUMS, sums)
        bundle.read_bundle(draft)


def components(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions of all packages here, and of those that trained, as CycloneDX 1.6."""
    here = {str(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    trained = status.get("versions", {})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "machine-learning-model", "name": "generator"},
            "properties": [
                {"name": f"mbgan:trained-with:{name}", "value": str(version)}
                for name, version in trained.items()
            ],
        },
        "components": [
            {
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
            }
            for name, version in sorted(here.items())
        ],
    }
