"""Bundles: gates before they are made, and nothing but the run's own images out of them."""

import json
import os
import pickle
import shutil
import subprocess
import venv
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import preset_gan
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file, save_file

from mbgan import bundle, export, generate
from mbgan.networks.dcgan import DCGANGenerator
from mbgan.runs import sha256_of
from mbgan.studies import programs
from mbgan.studies.programs import TOLERANCE, write_programs
from mbgan.studies.release import Facts, gates, write_bundle
from mbgan.verbs import conf_dir

PRESETS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
ORIGIN = {"checkpoint": "best", "checkpoint_sha256": "0" * 64, "images_seen": 40}
SETTINGS = {"z_dim": 8, "image_size": 16, "width": 4}
FACTS = Facts(
    origin=ORIGIN | {"run": "/home/somebody/secret"},
    architecture="mbgan.networks.dcgan.DCGANGenerator",
    settings=SETTINGS,
    scores=None,
    status={"versions": {"mbgan": "0.1.0", "torch": "2.6.0"}},
    card={"license": None},
    card_sha256="1" * 64,
    license="CC-BY-4.0",
    patients=None,
    jpeg_quality=None,
)


def scored(verdict, checkpoint=ORIGIN["checkpoint_sha256"]):
    return {
        "checkpoint_sha256": checkpoint,
        "n_real": 3,
        "n_fake": 3,
        "extractor": "tiny",
        "extractor_sha256": "2" * 64,
        "scores": {"kid/tiny": {"value": 0.25}, "fid/tiny": {"value": None, "reason": "few"}},
        "memorization": {"verdict": verdict},
    }


def small_generator():
    torch.manual_seed(0)
    return DCGANGenerator(**SETTINGS).eval()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    out = tmp_path_factory.mktemp("first") / "bundle"
    write_bundle(out, small_generator(), replace(FACTS, scores=scored("fine")), None, False)
    return out


@pytest.fixture
def made(first, tmp_path):
    """A bundle to damage."""
    return shutil.copytree(first, tmp_path / "bundle")


def sign(folder):
    """Write the hashes anew, as somebody would who hands on a bundle of their own."""
    files = sorted(p for p in folder.iterdir() if p.name != bundle.SUMS)
    lines = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
    (folder / bundle.SUMS).write_text(lines)


def change_config(folder, **changes):
    config = json.loads((folder / bundle.CONFIG).read_text()) | changes
    (folder / bundle.CONFIG).write_text(json.dumps(config))
    sign(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": scored("fine")}, None),
        ({"scores": scored("suspicious")}, None),
        ({"scores": scored("copying")}, "it copies training images"),
        ({"scores": scored(None)}, "nobody knows whether it copies"),
        ({"scores": None}, "nobody knows whether it copies"),
        ({"scores": scored("fine", "9" * 64)}, "scores.json is of other weights"),
        ({"scores": scored("fine"), "card": None}, "there is no data card"),
        ({"scores": scored("fine"), "license": None}, "the license of the training images"),
    ],
)
def test_a_gate_is_closed_for_one_reason(changes, reason, tmp_path):
    facts = replace(FACTS, **changes)
    assert (
        [reason] == [found[: len(reason)] for found in gates(facts)] if reason else not gates(facts)
    )
    if reason:
        for override in (None, " "):
            with pytest.raises(ValueError, match="must not be handed on"):
                write_bundle(tmp_path / "b", small_generator(), facts, override, False)
        assert not (tmp_path / "b").exists()


def test_the_reason_for_passing_a_gate_stands_in_the_card(tmp_path):
    facts = replace(FACTS, scores=scored("copying"))
    write_bundle(tmp_path / "b", small_generator(), facts, "only drawn tissue", False)
    card = (tmp_path / "b/README.md").read_text()
    assert "it copies training images" in card
    assert "Reason given: only drawn tissue" in card
    assert "Verdict on copies: **copying**" in card


def test_a_bundle_holds_what_it_says_and_no_paths(made):
    generator, origin, _ = bundle.read_bundle(made)
    for name, weight in small_generator().state_dict().items():
        assert torch.equal(generator.state_dict()[name], weight)
    assert origin["checkpoint_sha256"] == "0" * 64
    assert not any(b"somebody/secret" in path.read_bytes() for path in made.iterdir())
    sbom = json.loads((made / "sbom.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    assert "torch" in {part["name"] for part in sbom["components"]}
    assert "| kid/tiny | 0.25 |" in (made / "README.md").read_text()


@pytest.mark.parametrize("name", ["generator.safetensors", "config.json", "README.md"])
def test_a_changed_byte_is_refused(made, name):
    content = bytearray((made / name).read_bytes())
    content[len(content) // 2] ^= 1
    (made / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} was changed since mbgan.export"):
        bundle.read_bundle(made)


def test_files_that_are_missing_or_strange_are_refused(made):
    (made / "extra.py").write_text("")
    with pytest.raises(ValueError, match=r"holds extra.py, which is not in SHA256SUMS"):
        bundle.read_bundle(made)
    (made / "extra.py").unlink()
    (made / "sbom.cdx.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold sbom.cdx.json"):
        bundle.read_bundle(made)


def test_a_newer_bundle_is_refused(made):
    change_config(made, version=2)
    with pytest.raises(ValueError, match="must be a bundle of version 1, got 2; update mbgan"):
        bundle.read_bundle(made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "os.system"}, "must be one of mbgan.networks, got os.system"),
        ({"architecture": "mbgan.networks.dcgan.torch"}, "must be a generator"),
        ({"architecture": "mbgan.networks.dcgan.DCGANCritic"}, "must be a generator"),
        ({"settings": SETTINGS | {"hook": 1}}, "must be its own, and numbers"),
        ({"settings": SETTINGS | {"width": "4"}}, "must be its own, and numbers"),
        ({"settings": SETTINGS | {"width": 8}}, "must hold the generator, got"),
        ({"settings": None}, "must have dict as settings, got None"),
    ],
)
def test_a_config_names_our_own_architectures_only(made, changes, message):
    change_config(made, **changes)
    with pytest.raises(ValueError, match=message):
        bundle.read_bundle(made)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_by_another_name_runs_nothing(call, made, untrained, tmp_path, write):
    marker = tmp_path / "ran"
    with (tmp_path / "evil").open("wb") as file:
        write(Malicious(marker), file)
    shutil.copy(tmp_path / "evil", made / bundle.WEIGHTS)
    sign(made)
    out = f"out={tmp_path}/out"
    code, err = call(generate.main, f"bundle={made}", out)
    assert (code, err.count("\n")) == (1, 1)
    assert "must hold the generator, got" in err
    run = untrained("dcgan")
    shutil.copy(tmp_path / "evil", run / "checkpoints/best.ckpt")
    code, err = call(generate.main, f"run={run}", out)
    assert (code, err.count("\n")) == (1, 1)
    assert "must be a checkpoint of mbgan.train" in err
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def bare(tmp_path):
    """A Python with torch, safetensors, numpy, Pillow, what these need, and this package."""
    venv.create(tmp_path / "bare", symlinks=True)
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    wanted, known = ["torch", "safetensors", "numpy", "pillow"], set()
    while wanted:
        name = wanted.pop()
        if name in known:
            continue
        known.add(name)
        package = distribution(name)
        for text in package.requires or ():
            requirement = Requirement(text)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    (site / "mbgan").symlink_to(Path(bundle.__file__).parent)
    return tmp_path / "bare/bin/python"


def test_a_bundle_alone_draws_the_runs_images_where_nothing_else_is(
    call, untrained, bare, tmp_path
):
    run = untrained("dcgan")
    made, out = tmp_path / "bundle", tmp_path / "from_bundle"
    code, err = call(export.main, f"run={run}", f"out={made}", "onnx=false")
    assert (code, "must not be handed on" in err.splitlines()[-1]) == (1, True)
    (run / "scored/best").mkdir(parents=True)
    attack = run / "scored/best/privacy.json"
    attack.write_text(json.dumps({"checkpoint_sha256": "9" * 64, "attacks": {}, "note": ""}))
    gate = "override_gate='a test, of noise'"
    code, err = call(export.main, f"run={run}", f"out={made}", "onnx=false", gate)
    assert code == 0, err
    assert (
        "Membership attack: not measured." in (made / "README.md").read_text()
    )  # of these weights

    def bare_run(*words):
        found = {**os.environ, "PYTHONPATH": ""}
        return subprocess.run([bare, *words], env=found, cwd=tmp_path, timeout=120).returncode

    for absent in ("lightning", "hydra", "omegaconf", "scipy", "pandas", "cv2"):
        assert bare_run("-c", f"import {absent}"), absent
    assert bare_run("-m", "mbgan.bundle", made, "n=3", f"out={out}") == 0
    assert call(generate.main, f"run={run}", "n=3")[0] == 0
    assert call(generate.main, f"bundle={made}", "n=3", f"out={tmp_path}/again")[0] == 0
    for i in range(3):
        name = f"{i:06d}.png"
        ours, theirs, again = (
            np.asarray(Image.open(folder / name))
            for folder in (run / "generated", out, tmp_path / "again")
        )
        assert np.array_equal(ours, theirs)
        assert np.array_equal(ours, again)


def test_weights_of_another_shape_are_refused(made):
    weights = load_file(made / bundle.WEIGHTS)
    weights[min(weights)] = torch.zeros(1)
    save_file(weights, made / bundle.WEIGHTS)
    sign(made)
    with pytest.raises(ValueError, match="must hold the generator, got"):
        bundle.read_bundle(made)


def programs_of(folder, *overrides):
    """By how much the programs of a preset at 32 pixels differ; its noise is not zero here."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    if Version(torch.__version__) < Version("2.7"):
        pytest.skip("torch 2.6 writes no ONNX of a batch norm; bundles say so, and do without")
    generator = preset_gan(*overrides).generator.eval()
    for name, weight in generator.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(weight, 0.5)
    found = write_programs(generator, folder, onnx=True)
    assert sorted(found) == ["generator.onnx", "generator.pt2"]
    assert {path.name for path in folder.iterdir()} >= set(found)
    return found.values()


def test_programs_draw_what_pytorch_draws(tmp_path):
    """Other latents, conditions and another number of them than were traced."""
    found = programs_of(tmp_path, "dcgan", "model.condition=class")
    assert max(found) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["none", "class"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_becomes_programs(tmp_path, preset, condition):
    assert max(programs_of(tmp_path, preset, f"model.condition={condition}")) <= TOLERANCE


class Branching(DCGANGenerator):
    """Looks at its latents, as no program can."""

    def forward(self, z, draws=None):
        return super().forward(z if z[0, 0] > 0 else -z)


def test_what_cannot_become_a_program_is_told_and_the_weights_are_handed_on(tmp_path, caplog):
    generator = Branching(**SETTINGS).eval()
    facts = replace(FACTS, scores=scored("fine"))
    write_bundle(tmp_path / "b", generator, facts, None, False)
    assert "generator.pt2 is left out, as it cannot be made: " in caplog.text
    assert "| generator.pt2 | not made: " in (tmp_path / "b/README.md").read_text()
    assert not (tmp_path / "b/generator.pt2").exists()
    bundle.read_bundle(tmp_path / "b")


def test_a_program_that_draws_other_images_is_refused(tmp_path, monkeypatch):
    def off(program, inputs, path):
        return program.module()(*inputs.values()) + 2 * TOLERANCE

    monkeypatch.setattr(programs, "_torch_export", off)
    facts = replace(FACTS, scores=scored("fine"))
    with pytest.raises(ValueError, match=r"generator.pt2 must draw as PyTorch does, to 0.0001"):
        write_bundle(tmp_path / "b", small_generator(), facts, None, False)
    assert not (tmp_path / "b").exists()


def utility_result(generator, checkpoint):
    """As mbgan.utility writes it, of two arms."""
    row = {"train_share": 1.0, "classifier": "linear_probe", "score": "balanced_accuracy"}
    means = [
        row | {"title": title, "mean": mean, "sd": 0.01, "n_folds": 10}
        for title, mean in (("real", 0.8), ("real + synthetic 1:1", 0.82))
    ]
    pair = {"a": "real + synthetic 1:1", "b": "real", "difference": 0.02, "low": -0.01}
    pair |= {"high": 0.05, "word": "not told apart"}
    return {
        "images": "40 images",
        "n_folds": 10,
        "names": {"balanced_accuracy": "balanced accuracy"},
        "means": means,
        "comparisons": [row | pair],
        "settings": {
            "generator": generator,
            "gan": {"model": "projected", "total_images": 3000},
        },
        "folds": [{"generator": {"checkpoint_sha256": checkpoint}}],
        "rarest": "large_cell",
    }


def reader_result(**checkpoint):
    """As mbgan.reader_study writes it, of one reader."""
    share = {"k": 12, "n": 20, "value": 0.6, "interval": [0.36, 0.81]}
    reader = {"reader": "Dr. Secret", "accuracy": share, "auroc": None, "verdict": "not told"}
    images = [{"truth": "real"}, {"truth": "synthetic", **checkpoint}]
    return {"n_images": 20, "readers": [reader], "together": None, "images": images}


def card_of(folder, **facts):
    write_bundle(
        folder, small_generator(), replace(FACTS, scores=scored("fine"), **facts), None, False
    )
    return (folder / "README.md").read_text()


def test_the_card_says_whose_images_helped_a_classifier_and_were_shown_to_readers(tmp_path):
    own = {"checkpoint_sha256": ORIGIN["checkpoint_sha256"]}
    ours = card_of(
        tmp_path / "ours",
        utility=utility_result("RUN", **{"checkpoint": own["checkpoint_sha256"]}),
        readers=reader_result(**own),
    )
    arm = "| real + synthetic 1:1 | 0.820 | +0.020 (\u22120.010 to +0.050): not told apart |"
    assert arm in ours
    assert "| 1 | 12 of 20 | 0.60 (0.36 to 0.81) | - | not told |" in ours
    assert "Secret" not in ours
    assert ours.count("this generator's") == 2
    assert "Not of this generator" not in ours
    others = card_of(
        tmp_path / "others", utility=utility_result(None, "9" * 64), readers=reader_result()
    )
    assert arm in others
    assert "**Not of this generator:** each fold trained one of its own (projected, 3000" in others
    assert "Nobody recorded whether" in others


def test_a_card_without_studies_says_that_they_were_not_made(made):
    card = (made / "README.md").read_text()
    for head in ("Whether its images help a classifier", "What readers say"):
        assert f"## {head}\n\nNot measured.\n" in card
    assert "Membership attack: not measured." in card


@pytest.mark.parametrize(
    "facts",
    [
        {"utility": utility_result("OTHER", "9" * 64)},
        {"readers": reader_result(checkpoint_sha256="9" * 64)},
    ],
)
def test_results_of_other_weights_are_refused(facts):
    (name,) = facts
    with pytest.raises(ValueError, match=f"{name} must be about images of this checkpoint"):
        replace(FACTS, **facts)


@pytest.mark.parametrize("key", ["utility", "readers", "data_card"])
def test_other_files_are_not_taken_for_results(call, untrained, tmp_path, key):
    (tmp_path / "x.json").write_text("{}")
    words = [f"run={untrained('dcgan')}", f"out={tmp_path}/b", f"{key}={tmp_path}/x.json"]
    code, err = call(export.main, *words)
    assert (code, f"{key} must be " in err.splitlines()[-1]) == (1, True)
