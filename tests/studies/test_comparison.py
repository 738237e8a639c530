"""The comparison of runs: who may meet in a ranking, what is called a tie, and the page."""

import json
import re
import shutil
import subprocess
from importlib.resources import files

import pandas as pd
import pytest
import yaml
from PIL import Image

from mbgan import compare as verb
from mbgan.compare import load
from mbgan.studies.comparison import compare
from mbgan.studies.page import csp_hash
from mbgan.studies.report import write_report
from mbgan.studies.run_table import find_runs, read_run
from mbgan.studies.scoring import VERSION

KID = "kid/efficientnet_lite0"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def run(tmp_path):
    """Write a run folder as mbgan.train would, with what differs from the usual."""

    def make(name, kid, *, model="dcgan", seed=0, augment="none", scores=None, **settings):
        folder = tmp_path / "runs" / name
        (folder / ".hydra").mkdir(parents=True)
        config = {
            **{"seed": seed, "image_size": 32, "magnification": "100x", "run_dir": str(folder)},
            **{"augment": {"strength": augment}, "model": {"kind": model}, "total_images": 800},
        }
        chosen = {"hydra": {"runtime": {"choices": {"model": model, "augment": augment}}}}
        (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config | settings))
        (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump(chosen))
        data = {"sha256": "d" * 64, "n_held_out": 80, "magnification": "100x"}
        record = {"status": "done", "images_seen": 800, "wall_s": 90.0, "data": data}
        parameters = {"generator": 1_000_000, "critic": 500_000}
        (folder / "run.json").write_text(json.dumps(record | {"parameters": parameters}))
        rows = [{"images_seen": n, KID: kid or 0.5, "n_real": 80} for n in (0, 800)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "samples").mkdir()
        Image.new("RGB", (66, 66), "plum").save(folder / "samples/000800.png")
        if kid is not None:
            floor = {"n_each": 40, "splits": 20, "mean": 0.0, "range": [-0.004, 0.004]}
            entry = {"value": kid, "interval": [kid - 0.01, kid + 0.01], "floor": floor}
            content = {
                **{"version": VERSION, "run": str(folder), "checkpoint": "best"},
                **{"checkpoint_sha256": name, "images_seen": 800, "data_sha256": "d" * 64},
                **{"magnification": "100x", "image_size": 32, "extractor": "efficientnet_lite0"},
                **{"extractor_sha256": "e" * 64, "n_real": 80, "n_fake": 80, "by_condition": {}},
                "scores": {KID: entry, "fid/efficientnet_lite0": entry | {"value": 100 * kid}},
                "memorization": {"verdict": "fine", "share": 0.0},
            }
            (folder / "scores.json").write_text(json.dumps(content | (scores or {})))
        return folder

    return make


@pytest.fixture
def read(tmp_path):
    return lambda: [read_run(f, name, load) for f, name in find_runs([tmp_path / "runs"])]


def seeds(run, model, *kids, **settings):
    for seed, kid in enumerate(kids):
        run(f"{model}-{seed}", kid, model=model, seed=seed, **settings)


def test_a_clear_winner_is_first_and_equal_ones_share_their_places(run, read):
    seeds(run, "good", 0.101, 0.099, 0.100, 0.102)
    seeds(run, "even", 0.500, 0.530, 0.480, 0.510)
    seeds(run, "odd", 0.520, 0.500, 0.500, 0.490)
    (part,) = compare(read())["sections"]
    places = {row["name"]: row["places"] for row in part["groups"]}
    assert places == {"good": (1, 1), "odd": (2, 3), "even": (2, 3)}
    assert part["verdict"].startswith("good is better than every other")


def test_a_tie_is_called_a_tie(run, read):
    seeds(run, "even", 0.500, 0.530, 0.480)
    seeds(run, "odd", 0.520, 0.500, 0.500)
    (part,) = compare(read())["sections"]
    assert [row["places"] for row in part["groups"]] == [(1, 2), (1, 2)]
    assert part["verdict"].startswith("A tie")
    assert part["pairs"][0]["word"] == "not told apart"


def test_a_difference_below_what_the_images_can_tell_makes_no_winner(run, read):
    """The floor's range of 0.008 is a deviation of about 0.001 at full n: 0.004 can be told."""
    seeds(run, "a", 0.1000, 0.1001, 0.1002)
    seeds(run, "b", 0.1010, 0.1011, 0.1013)
    (part,) = compare(read())["sections"]
    assert part["pairs"][0]["p_holm"] < 0.05
    assert part["pairs"][0]["word"] == "differ, by less than these images can tell"
    assert [row["places"] for row in part["groups"]] == [(1, 2), (1, 2)]


def test_one_seed_each_decides_nothing(run, read):
    seeds(run, "a", 0.1)
    seeds(run, "b", 0.9)
    (part,) = compare(read())["sections"]
    assert part["verdict"].startswith("Not decided: a has the lowest KID")
    assert [row["places"] for row in part["groups"]] == [(1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"data_sha256": "f" * 64}, "data"),
        ({"extractor_sha256": "f" * 64}, "weights of the extractor"),
        ({"n_real": 40}, "number of held-out images"),
    ],
)
def test_scores_on_different_scales_never_share_a_ranking(run, read, other, word):
    run("a", 0.1)
    run("b", 0.2, scores=other)
    parts = compare(read())["sections"]
    assert [len(part["groups"]) for part in parts] == [1, 1]
    assert parts[0]["apart"] == parts[1]["apart"] == [word]


def test_runs_that_differ_by_their_seed_are_one_model_and_others_are_named_by_what_differs(
    run, read
):
    seeds(run, "dcgan", 0.1, 0.2)
    run("c", 0.3, augment="ada")
    run("d", 0.4, total_images=900)
    (part,) = compare(read())["sections"]
    assert {row["name"]: row["scores"]["kid"].n_seeds for row in part["groups"]} == {
        "dcgan, augment=none, total_images=800": 2,
        "dcgan, augment=ada, total_images=800": 1,
        "dcgan, augment=none, total_images=900": 1,
    }


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"checkpoint_sha256": "a"}, "the same checkpoint as a"),
        ({"critic_extractor": "efficientnet_lite0"}, "its critic learned by efficientnet_lite0"),
    ],
)
def test_copied_runs_and_flattered_scores_have_no_rank(run, read, scores, reason):
    run("a", 0.3)
    run("b", 0.1, model="projected", seed=1, scores=scores)
    (part,) = compare(read())["sections"]
    (aside,) = [row for row in part["groups"] if row["places"] is None]
    assert reason in aside["unranked"][0]
    assert part["verdict"].startswith("Only dcgan can be ranked")


def test_the_order_in_which_runs_are_found_changes_nothing(run, read, tmp_path):
    seeds(run, "a", 0.1, 0.2, 0.15)
    seeds(run, "b", 0.2, 0.1, 0.16, augment="ada")
    run("c", None)
    run("copy", 0.1, model="a", scores={"checkpoint_sha256": "a-0"})
    texts = []
    for name, order in {"one": 1, "other": -1}.items():
        write_report(read()[::order], tmp_path / name, real_images=True)
        texts.append((tmp_path / name / "report.md").read_text())
    assert texts[0] == texts[1]


def test_what_is_missing_or_damaged_is_said_and_the_rest_is_ranked(run, read):
    run("fine", 0.2)
    run("unscored", None)
    run("old", 0.1, scores={"version": VERSION - 1})
    (run("damaged", 0.1) / "metrics.jsonl").write_text("nonsense\n{}\n")
    (run("running", None) / "run.json").write_text('{"status": "run')
    with (run("torn", 0.3) / "metrics.jsonl").open("a") as file:
        file.write('{"images_se')
    notes = {row["name"]: " ".join(row["notes"]) for row in compare(read())["runs"]}
    assert "not scored: python -m mbgan.evaluate run=" in notes["unscored"]
    assert f"its version must be {VERSION}, got {VERSION - 1}; make it anew" in notes["old"]
    assert "line 1 is not JSON" in notes["damaged"]
    assert "run.json cannot be read" in notes["running"]
    assert notes["fine"] == notes["torn"] == ""


def test_scores_of_an_older_best_checkpoint_are_not_used(run, read):
    folder = run("a", 0.2)
    record = json.loads((folder / "run.json").read_text()) | {"best_images_seen": 1600}
    (folder / "run.json").write_text(json.dumps(record))
    (found,) = read()
    assert found.scores is None
    assert "its scores are of 800 images seen, its best checkpoint now of 1600" in found.problems[0]


@pytest.fixture
def page(run, read, tmp_path):
    hostile = '<script>alert("1")</script>'
    seeds(run, "a", 0.1, 0.2, 0.15)
    run("b", 0.3, model=hostile, augment='it\'s "$x^2$" | https://example.com')
    out = tmp_path / 'out "quoted"'
    write_report(read(), out, real_images=True)
    return out


def test_the_page_is_one_file_without_network_and_runs_no_script_of_a_name(page):
    text = (page / "report.html").read_text()
    links = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']*)|url\(\s*["']?([^"')]*)""", text)
    assert {(a or b)[:5] for a, b in links if not (a or b).startswith("#")} == {"data:"}
    assert "<script>alert" not in text
    assert "default-src 'none'" in text
    assert len(re.findall(r"<script", text)) == 2  # settings as data, and the page's own
    assert (page / "report.html").stat().st_size < 10_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_browser_the_page_sorts_zooms_and_tells_settings_apart_without_errors(page):
    """Presses what a reader would, from within the page's own script, so that its policy holds."""
    press = """
    document.querySelector("button.zoom").click();
    const table = [...document.querySelectorAll("table.sorted")].at(-1);
    const byKid = table.querySelectorAll("th button")[4];
    for (let i = 0; i < 2; i++) {
      byKid.click();
      document.title += "|" + [...table.tBodies[0].rows].map((r) => r.cells[0].textContent);
    }
    """
    text = (page / "report.html").read_text()
    script = files("mbgan.studies").joinpath("report.js").read_text()
    pressed = page / "pressed.html"
    new = text.replace(script, script + press).replace(csp_hash(script), csp_hash(script + press))
    pressed.write_text(new)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, "--dump-dom", pressed.as_uri()],
        **{"capture_output": True, "text": True, "timeout": 120, "check": True},
    )
    (title,) = re.findall("<title>(.*)</title>", done.stdout)
    assert title.split("|")[1:] == ["a-0,a-2,a-1,b", "b,a-1,a-2,a-0"]
    assert re.search('<dialog[^>]* open=""', done.stdout)
    assert done.stdout.count("<option") == 2 * 4
    assert re.findall("<td>(.*?)</td>", done.stdout.split('id="differences"')[1])[0] == "seed"
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_what_is_written_holds_all_runs_as_data_and_figures_in_two_formats(page):
    table = pd.read_csv(page / "results.csv")
    kids = table[table.score == KID].set_index("run")["value"]
    assert kids.to_dict() == {"a-0": 0.1, "a-1": 0.2, "a-2": 0.15, "b": 0.3}
    names = {path.name for path in (page / "figures").iterdir()}
    charts = {f"{c}.{kind}" for c in ("kid", "fid", "curves", "cost") for kind in ("svg", "png")}
    assert names == charts | {"samples_1.png"}


def test_a_page_to_hand_on_shows_no_real_image(run, read, tmp_path):
    folder = run("a", 0.1)
    Image.new("RGB", (66, 66), "red").save(folder / "samples/real.png")
    for real_images in (True, False):
        found = write_report(read(), tmp_path / "out", real_images=real_images)
        names = [row["name"] for row in found["sections"][0]["samples"]]
        assert ("real" in names) == real_images


def test_files_of_others_in_the_folder_stay(run, read, tmp_path):
    run("a", 0.1)
    (tmp_path / "out/figures").mkdir(parents=True)
    (tmp_path / "out/figures/mine.png").touch()
    write_report(read(), tmp_path / "out", real_images=True)
    assert (tmp_path / "out/figures/mine.png").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "out"}


def test_the_verb_writes_a_report_and_tells_what_was_found(call, run, tmp_path):
    seeds(run, "a", 0.1, 0.2)
    code, err = call(verb.main, f"runs={tmp_path}/runs", f"out={tmp_path}/out")
    assert code == 0, err
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "runs must be given"),
        (("runs=[]",), "runs must name at least one folder, got an empty list"),
        (("runs=nowhere",), "runs must be a folder of runs, got nowhere, which is none"),
        (("runs=empty",), "runs must be run folders of mbgan.train or a folder of them, got empty"),
        (("runs=runs", "out=file"), "out must be a folder, new or old, got the file file"),
        (("runs=runs", "out=file/in"), "out must be a folder that can be made, got"),
    ],
)
def test_what_a_user_can_mend_is_said_in_one_line(
    call, run, tmp_path, monkeypatch, arguments, message
):
    run("a", 0.1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    code, err = call(verb.main, *arguments)
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
