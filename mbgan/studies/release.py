"""A bundle of a generator to hand on, and the gates before it."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mbgan import bundle
from mbgan.latents import fixed_latents
from mbgan.networks import Generator
from mbgan.runs import sha256_of, write_text
from mbgan.studies.page import environment

TOLERANCE = 1e-4  # between PyTorch and what was exported, of pixels in [-1, 1]


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
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        weights = {name: x.contiguous().clone() for name, x in generator.state_dict().items()}
        save_file(weights, draft / bundle.WEIGHTS, {"format": "pt"})
        (draft / bundle.WEIGHTS).chmod(0o644)  # safetensors writes it for its owner alone
        errors = _export(generator, draft, onnx)
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
        values = {"facts": facts, "generator": generator, "errors": errors, "closed": closed}
        page = card.render(values, override=override, quoted=json.dumps)
        write_text(draft / "README.md", page)
        files = sorted(path for path in draft.iterdir() if path.is_file())
        sums = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
        write_text(draft / bundle.SUMS, sums)
        bundle.read_bundle(draft)
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class Drawn(nn.Module):
    """Latents [N, z_dim], and numbers [N] of conditions if there are some, to images."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1]."""
        return self.generator.render(self.generator.points(z, condition))


@torch.no_grad()
def _export(generator: Generator, folder: Path, onnx: bool) -> dict[str, float]:
    """Write other tools' formats, and return by how much their images differ from ours.

    Raises:
        ValueError: if by more than TOLERANCE, or ONNX's packages are missing.
    """
    drawn, given = Drawn(generator.cpu()).eval(), [fixed_latents(range(4), generator.z_dim, 0)]
    if generator.conditions:
        given.append(torch.arange(4) % len(generator.conditions))
    batch = torch.export.Dim("batch", min=1, max=64)
    names = ["z", "condition"][: len(given)]
    shapes = {name: {0: batch} for name in names}
    program = torch.export.export(drawn, tuple(given), dynamic_shapes=shapes, strict=False)
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # paths of this machine
    torch.export.save(program, folder / "generator.pt2")
    fresh = [torch.cat([x, x.flip(0)])[:7] for x in given]  # another batch size
    expected = drawn(*fresh)
    again = torch.export.load(folder / "generator.pt2").module()(*fresh)
    errors = {"generator.pt2": float((again - expected).abs().max())}
    if onnx:
        errors["generator.onnx"] = _export_onnx(program, names, fresh, expected, folder)
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise ValueError(f"{name} must draw as PyTorch does, to {TOLERANCE}, got {error}")
    return errors


def _export_onnx(
    program: Any, names: list[str], fresh: list[Tensor], expected: Tensor, folder: Path
) -> float:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError("onnx=true needs packages: pip install 'mbgan[onnx]'") from None
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every node
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = folder / "generator.onnx"
        written = torch.onnx.export(program, dynamo=True, input_names=names, verbose=False)
        assert written is not None, "a program, as it is asked for with dynamo"
        written.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {i.name: x.numpy() for i, x in zip(session.get_inputs(), fresh, strict=True)}
    (images,) = session.run(None, inputs)
    return float((torch.from_numpy(images) - expected).abs().max())


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
