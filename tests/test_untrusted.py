"""Files from strangers, handed to the verbs: nothing in them runs, and one line says what is wrong.

Each of them would write a marker file if anybody ran, unpickled or unpacked it.
"""

import ast
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import field, put
from fuzzing import readers
from omegaconf import OmegaConf

from mbgan import compare, detect, evaluate, explore, export, generate, privacy, reader_study, train
from mbgan.data import manifest
from mbgan.documents import read_json, read_torch
from mbgan.metrics.encoders import DINOv2, Local
from mbgan.metrics.features import InceptionV3
from mbgan.runs import Run
from mbgan.saved import read_settings
from mbgan.studies.classifiers import backbone
from mbgan.studies.feature_cache import _read as read_features
from mbgan.studies.page import environment
from mbgan.studies.reader_answers import seal_of
from mbgan.weights import read_checkpoint

ROOT = Path(__file__).parents[1]
MARKUP = "<img src=x onerror=alert(1)><svg/onload=alert(2)>\"'><script>alert(3)</script>$\\frac{$"


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.open, (self.marker, os.O_CREAT)


def pickled(marker):
    """By name: ways to hide a pickle in a file of weights."""
    archive, legacy, nested = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(Bomb(marker), archive)
    torch.save(Bomb(marker), legacy, _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"a": Bomb(marker)}, "counters": {}, "conditions": []}, nested)
    return {
        "plain": pickle.dumps(Bomb(marker)),
        "archive": archive.getvalue(),
        "legacy": legacy.getvalue(),
        "nested": nested.getvalue(),
    }


def one_line(result, message):
    code, err = result
    last = err.splitlines()[-1]
    assert (code, last[:6], err.count("error:"), "Traceback" in err) == (1, "error:", 1, False), err
    assert message in last


def test_a_bomb_would_go_off(tmp_path):
    """Or all that follows would prove nothing."""
    for name, content in pickled(tmp_path / "ran").items():
        if name == "plain":
            os.close(pickle.loads(content))
        else:
            torch.load(io.BytesIO(content), weights_only=False)
        (tmp_path / "ran").unlink()


def test_the_package_unpickles_and_unpacks_nothing():
    """One function reads what torch saved; TorchScript, a program, has one door of its own."""
    found = set()
    for path in (ROOT / "mbgan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            if call.endswith((".load", ".loads", "extractall", "unpack_archive", "full_load")):
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                found.add((path.name, call, said.get("weights_only"), said.get("allow_pickle")))
            assert call not in ("eval", "exec", "compile", "__import__", "os.system"), path
    assert found == {
        ("documents.py", "torch.load", "True", None),
        ("documents.py", "json.loads", None, None),
        ("inspection.py", "json.loads", None, None),  # of a database that we made
        ("phantom.py", "json.loads", None, None),  # of what we drew
        ("phantom_faults.py", "json.loads", None, None),
        ("programs.py", "torch.export.load", None, None),  # of what was just written
        ("utility.py", "json.loads", None, None),  # of what was just written
        ("feature_cache.py", "np.load", None, None),  # pickles are off by default
        ("encoders.py", "torch.jit.load", None, None),
        ("saved.py", "OmegaConf.load", None, None),
        ("verbs.py", "OmegaConf.load", None, None),  # of conf/
        ("evaluate.py", "OmegaConf.load", None, None),  # of conf/
    }


def test_pickles_in_place_of_weights_are_refused_everywhere(marker, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    for content in pickled(marker).values():
        path.write_bytes(content)
        for read in (
            lambda: read_torch(path, "tensors only"),
            lambda: InceptionV3(path),
            lambda: Local(path, architecture="resnet10t"),
            lambda: DINOv2("vits14", path),
            lambda: backbone(2, "timm", "resnet10t", str(path), None),
        ):
            with pytest.raises(ValueError, match="tensors only"):
                read()
        with pytest.raises(ValueError, match="must be a TorchScript file"):
            Local(path)


def test_a_network_of_the_hub_is_none_of_ours(tmp_path):
    for name in ("hf-hub:somebody/model", "hf_hub:somebody/model", "local-dir:/tmp", "a/b"):
        with pytest.raises(ValueError, match="own, got"):
            Local(put(tmp_path, "w.png", field(0)), architecture=name)
        with pytest.raises(ValueError, match="own, got"):
            backbone(2, "timm", name, None, None)


def test_a_cache_of_objects_is_made_anew(marker, tmp_path):
    np.savez(tmp_path / "f.npz", features=np.array([Bomb(marker)], object), logits=np.zeros(1))
    assert read_features(tmp_path / "f.npz") is None


def test_nothing_of_a_hostile_run_folder_runs_in_any_verb(call, untrained, marker, tmp_path):
    run = Run(untrained("dcgan"))
    clean, out = OmegaConf.load(run.config), tmp_path / "out"
    folder = f"run={run.folder}"
    shutil.copy(run.checkpoint("best"), run.checkpoint("last"))
    verbs = {
        generate.main: ([folder, f"out={out}"], "generator"),
        explore.main: ([folder, "show=interpolation", f"out={out}"], "generator"),
        export.main: ([folder, f"out={out}"], "generator"),
        privacy.main: ([folder], "generator"),
        evaluate.main: ([folder], "data"),
        reader_study.main: ([folder, f"out={out}"], "data"),
        train.main: ([f"resume={run.folder}"], "optimizer"),
    }
    touch = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path"}}
    touch["self"]["_args_"] = [str(marker)]
    system = {"_target_": "os.system", "command": f"touch {marker}"}
    popen = {"_target_": "mbgan.sweeps.subprocess.Popen", "args": ["touch", str(marker)]}
    code = {"_target_": "builtins.eval", "_args_": [f"open({str(marker)!r}, 'w')"]}
    for main, (words, _) in verbs.items():
        for place, evil in (
            ("model.generator", system),
            ("data", touch),
            ("extractor", popen),
            ("callbacks.samples", code),
        ):
            cfg = clean.copy()
            OmegaConf.update(cfg, place, evil, merge=False)
            run.config.write_text(OmegaConf.to_yaml(cfg))
            one_line(call(main, *words), f"has {place}")
            assert not marker.exists()
    text = OmegaConf.to_yaml(clean)
    laughs = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))
    for lines, message in (
        (f"a0: &a0 [x]\n{laughs}", "must have no YAML aliases"),
        (f"evil: !!python/object/apply:os.system ['touch {marker}']", "is no config"),
        ("evil: ${oc.env:HOME}", "must refer to its own settings only"),
    ):
        run.config.write_text(f"{text}\n{lines}\n")
        one_line(call(generate.main, folder, f"out={out}"), message)
        code, err = call(compare.main, f"runs={run.folder}", f"out={tmp_path}/compared")
        assert code == 0, err  # says what it could not read, and goes on
    run.config.write_text(text)
    for content in pickled(marker).values():
        for name in ("best", "last"):
            run.checkpoint(name).write_bytes(content)
        for main, (words, _) in verbs.items():
            one_line(call(main, *words), "must be a checkpoint of mbgan.train, got")
    assert not out.exists()


def bomb_png(width=60_000, height=60_000):
    """A few hundred bytes that claim 3.6 billion pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_images_are_limited_in_pixels_before_they_are_decoded(call, tmp_path):
    put(tmp_path, "fake/a.png", field(0, 32))
    put(tmp_path, "fake/b.png", field(1, 32))
    (tmp_path / "bombs").mkdir()
    for name in ("a.png", "b.jpg", "c.tif"):
        (tmp_path / "bombs" / name).write_bytes(bomb_png())
    bombs, fake = tmp_path / "bombs", tmp_path / "fake"
    code, err = call(detect.main, f"images={bombs}")
    assert (code, "must hold at least one readable image" in err) == (1, True)
    words = ["extractor=efficientnet_lite0", f"cache_dir={tmp_path}/c", f"out={tmp_path}/o"]
    code, err = call(evaluate.main, f"real={fake}", f"fake={bombs}", *words)
    assert (code, "fake must hold readable images" in err) == (1, True)
    code, err = call(evaluate.main, f"real={bombs}", f"fake={fake}", *words)
    assert (code, "more than 178956970 pixels" in err) == (1, True)


def test_a_shard_writes_nothing_and_leads_nowhere(call, tmp_path):
    image, out = put(tmp_path, "image.png", field(0)).read_bytes(), tmp_path / "deep/er"
    out.mkdir(parents=True)
    with tarfile.open(out / "shard.tar", "w") as tar:
        for name in ("../../slip.png", "/tmp/mbgan-slip.png", "ok.png"):
            info = tarfile.TarInfo(name)
            info.size = len(image)
            tar.addfile(info, io.BytesIO(image))
        for kind, target in (
            (tarfile.SYMTYPE, "/etc/passwd"),
            (tarfile.LNKTYPE, "../../image.png"),
        ):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, target
            tar.addfile(info)
        info = tarfile.TarInfo("pipe.png")
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    code, err = call(detect.main, f"images={out}")
    assert code == 0, err
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/mbgan-slip.png").exists()
    content = (out / "shard.tar").read_bytes()
    for damaged in (content[:700], b"x" * 2000):
        (out / "shard.tar").write_bytes(damaged)
        code, err = call(detect.main, f"images={out}")
        assert (code, err.splitlines()[-1][:6]) == (1, "error:")


@pytest.mark.parametrize(
    "image", ["../../x.png", "/etc/x.png", "images/../../x.png", "C:\\x.png", "..\\x.png"]
)
def test_a_manifest_names_images_below_its_folder_only(tmp_path, image):
    row = dict.fromkeys(manifest.COLUMNS, "") | {"image": image, "width": 1, "height": 1}
    manifest.write(pd.DataFrame([row]), tmp_path)
    with pytest.raises(ValueError, match="must name images below its folder"):
        manifest.read(tmp_path)


class Elements(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found |= {tag, *(name for name, _ in attributes if name.startswith("on"))}


def test_whatever_a_page_is_given_it_shows_as_text():
    """By the engine that all pages and cards share; `safe` marks what is ours alone."""
    page = environment().from_string(
        '<p title="{{ x }}">{{ x }}</p><script>{{ x | tojson }}</script>'
    )
    assert Elements(page.render(x=MARKUP)).found == {"p", "script"}
    marked = {
        (path.name, line.split("| safe")[0].rsplit("{{", 1)[-1].strip())
        for path in (ROOT / "mbgan/studies").glob("*.j2")
        for line in path.read_text().splitlines()
        if "| safe" in line
    }
    ours = {
        "' class=\"left\"'",
        "' class=\"aside\"'",
        *("figure.svg", "svg", "size_figure"),  # matplotlib's, which escapes text
        "' class=\"lead\"'",
        'quoted(facts.license or "unknown")',  # as JSON
        "figure.caption",
        "script",
    }
    assert {words for _, words in marked} <= ours, marked


def test_pages_made_of_hostile_names_hold_no_element_of_theirs(call, untrained, tmp_path):
    """Of a run's folder, model, settings and scores; of readers, classes and remarks."""
    run = Run(untrained("dcgan"))
    folder = tmp_path / "runs" / MARKUP.replace("/", "")
    folder.parent.mkdir()
    shutil.move(run.folder, folder)
    run = Run(folder)
    run.status.write_text(json.dumps({"status": MARKUP, "data": {"magnification": MARKUP}}))
    scores = {"version": 3, "extractor": MARKUP, "n_real": 3, "extractor_sha256": MARKUP}
    scores["scores"] = {f"kid/{MARKUP}": {"value": 0.5, "interval": [0.4, 0.6]}}
    scores["memorization"] = {"verdict": "fine", "rule": MARKUP}
    run.scores().write_text(json.dumps(scores))
    row = {"images_seen": 3, f"kid/{MARKUP}": 0.5, "n_real": 3}
    run.metrics.write_text(json.dumps(row) + "\n")
    code, err = call(compare.main, f"runs={tmp_path}/runs", f"out={tmp_path}/compared")
    assert code == 0, err
    page = (tmp_path / "compared/report.html").read_text()
    assert "&lt;script&gt;alert(3)" in page
    assert page.count("<script") == 2
    assert not {"onerror", "onload"} & Elements(page).found


def test_what_a_reader_calls_herself_and_remarks_is_shown_as_text(call, tmp_path):
    made = readers(tmp_path / "made")
    (key,), (path,) = made["reader key"].paths, made["reader answers"].paths
    answers = json.loads(path.read_text()) | {"reader": MARKUP}
    for answer in answers["answers"]:
        answer["note"] = MARKUP
    path.write_text(json.dumps(answers | {"seal": seal_of(answers)}))
    code, err = call(reader_study.main, f"score={path}", f"key={key}", f"out={tmp_path}/out")
    assert code == 0, err
    page = (tmp_path / "out/report.html").read_text()
    assert "&lt;script&gt;alert(3)" in page
    assert not {"script", "onerror", "onload"} & Elements(page).found


def test_a_folder_of_data_is_no_place_to_import_from(tmp_path, marker):
    """Neither its modules, nor a conf/, nor plugins of Hydra that lie in it."""
    evil = f"open({str(marker)!r}, 'w')\n"
    names = ("conf/detect.yaml", "hydra_plugins/evil.py", "hydra_plugins/__init__.py", "torch.py")
    for name in (*names, "yaml.py", "sitecustomize.py", "mbgan.py", "conf/evil.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(evil)
    put(tmp_path, "image.png", field(0))
    if sys.version_info < (3, 11):
        pytest.skip("-P is of Python 3.11; mbgan-detect does the same")
    command = [sys.executable, "-P", "-m", "mbgan.detect", "images=."]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, "0 of 1 images" in found.stdout + found.stderr) == (0, True)


def test_a_pipe_or_a_device_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "scores.json")
    for path in (tmp_path / "scores.json", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path} must be a file"):
            read_json(path)


def test_what_only_looks_like_a_checkpoint_or_a_config_is_refused(tmp_path):
    torch.save({"state_dict": torch.zeros(2)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"must be a checkpoint .* got no state_dict in it"):
        read_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "config.yaml").write_text(f"cache_dir: '${{a:{'[' * 3000}'")
    with pytest.raises(ValueError, match=r"config.yaml is no config \(maximum recursion"):
        read_settings(tmp_path / "config.yaml")


def test_bundles_of_links_pipes_and_huge_networks_are_refused(tmp_path):
    from mbgan.bundle import SUMS, architecture, check_sums

    for name, make in (
        ("link", lambda path: path.symlink_to("/etc/passwd")),
        ("pipe", os.mkfifo),
        ("loop", lambda path: path.symlink_to(tmp_path)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        make(folder / "README.md")
        (folder / SUMS).write_text("")
        with pytest.raises(ValueError, match=r"must hold plain files only, got README\.md"):
            check_sums(folder)
    slip = tmp_path / "slip"
    slip.mkdir()
    for name in ("../outside", "/etc/passwd"):
        sums = f"{'0' * 64}  generator.safetensors\n{'0' * 64}  config.json\n{'0' * 64}  {name}\n"
        (slip / SUMS).write_text(sums)
        with pytest.raises(FileNotFoundError, match="must hold"):
            check_sums(slip)
    for size in (10**9, float("nan"), float("inf"), -1):
        with pytest.raises(ValueError, match="numbers up to 4096"):
            architecture("mbgan.networks.dcgan.DCGANGenerator", {"z_dim": 4, "width": size})
