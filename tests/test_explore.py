"""The verbs that draw from a run: mbgan.explore, and truncation in mbgan.generate."""

import json

import pytest
import torch
from PIL import Image

from mbgan import explore, generate
from mbgan.data.folder import find_images
from mbgan.studies import animation

SIZES = {  # of sheets of 32-pixel images and 2-pixel gaps: width, height
    "interpolation": (3 * 34 - 2, 2 * 34 - 2),  # 2 rows of 3
    "mixing": (3 * (3 * 34 - 2) + 2 * 12, 3 * 34 - 2),  # 3 tables of (1 + 2) x (1 + 2)
    "truncation": (2 * 34 - 2, 4 * 34 - 2),  # 4 rows of 2
    "projection": (3 * (2 * 34 - 2) + 2 * 12, 2 * 34 - 2),  # 3 blocks of 2 pairs
    "walk": (32, 32),
}
STEPS = {"interpolation": ["steps=3"], "walk": ["steps=3"], "projection": ["steps=2"]}


def test_every_show_writes_its_picture_and_where_it_came_from_beside_the_others(call, untrained):
    run = untrained("stylegan_lite")
    written = set()
    for show, size in SIZES.items():
        code, err = call(explore.main, f"run={run}", f"show={show}", "n=2", *STEPS.get(show, []))
        assert code == 0, err
        written |= {f"{show}.json", "walk.gif" if show == "walk" else f"{show}.png"}
        assert {path.name for path in (run / "explored").iterdir()} == written
        record = json.loads((run / f"explored/{show}.json").read_text())
        assert (record["show"], record["n"], record["run"]) == (show, 2, str(run))
        assert (record["images_seen"], len(record["checkpoint_sha256"])) == (0, 64)
        assert record["synthetic"] == (show != "projection")  # which shows real images too
        with Image.open(run / "explored" / record["file"]) as picture:
            assert picture.size == size
    assert not list(run.glob(".explored*"))


def test_projection_tells_both_sides_of_the_runs_own_data_apart(call, untrained, folder):
    """16 images: 13 to train on and 3 held out, all of which are fewer than n."""
    run = untrained("dcgan")
    code, err = call(explore.main, f"run={run}", "show=projection", "n=14", "steps=2")
    assert code == 0, err
    found = json.loads((run / "explored/projection.json").read_text())
    sizes = [found[kind]["n"] for kind in ("train", "held_out", "generated")]
    assert sizes == [13, 3, 14]
    names = found["train"]["files"] + found["held_out"]["files"]
    assert sorted(names) == sorted(f.name for f in find_images(folder, "40x", None))
    for kind, n in zip(("train", "held_out", "generated"), sizes, strict=True):
        distances = found[kind]["distances"]
        assert len(distances) == n
        assert min(distances) <= found[kind]["median"] <= max(distances)
    nearer = [t < h for t in found["train"]["distances"] for h in found["held_out"]["distances"]]
    assert found["probability"] == pytest.approx(sum(nearer) / len(nearer))
    assert f"with probability {found['probability']:.2f} (0.5: nothing memorized" in err


def test_one_seed_draws_one_picture_and_replaces_the_last(call, untrained):
    run, pictures = untrained("dcgan"), []
    for seed in (0, 1, 0):
        assert call(explore.main, f"run={run}", "n=2", "steps=2", f"seed={seed}")[0] == 0
        pictures.append((run / "explored/interpolation.png").read_bytes())
    assert pictures[0] == pictures[2] != pictures[1]


def test_a_walk_of_another_format_replaces_the_first(call, untrained):
    run = untrained("dcgan")
    for format in ("gif", "mp4"):
        asked = ("show=walk", "n=2", "steps=2", f"format={format}")
        assert call(explore.main, f"run={run}", *asked)[0] == 0
        names = {path.name for path in (run / "explored").iterdir()}
        assert names == {"walk.json", f"walk.{format}"}


def test_what_fails_leaves_the_last_picture_and_nothing_else(call, untrained, monkeypatch):
    run = untrained("dcgan")
    asked = (f"run={run}", "show=walk", "n=2", "steps=2")
    assert call(explore.main, *asked)[0] == 0
    before = {path.name: path.read_bytes() for path in (run / "explored").iterdir()}

    def full(frames, path, fps):
        path.write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(animation.WRITERS, ".gif", full)
    assert call(explore.main, *asked, "seed=1")[0] == 1
    assert {path.name: path.read_bytes() for path in (run / "explored").iterdir()} == before
    assert not list(run.glob(".explored*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show=mixing"], "mixing needs a generator with styles"),
        (["n=0"], "n must be at least 1, got 0"),
        (["truncation=0"], "truncation must be in (0, 1], got 0"),
        (["show=walk", "format=webm"], "format must be one of gif, mp4, got 'webm'"),
        (["show=mixing", "steps=3"], "no setting is called 'steps'"),
        (["show=walk", "fsp=3"], "no setting is called 'fsp'; did you mean fps?"),
        (["show=truncation", "truncation=0.5"], "truncation must be a list, as [0.5,1.0], got 0.5"),
        (["show=walks"], "interpolation mixing projection truncation walk"),
        (["checkpoint=last"], "no checkpoint 'last' in"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(call, untrained, words, message):
    run = untrained("dcgan")
    code, err = call(explore.main, f"run={run}", *words)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err
    assert not (run / "explored").exists()
    assert not list(run.glob(".explored*"))


def test_generate_draws_towards_the_mean_and_says_so(call, untrained, tmp_path):
    run, spreads = untrained("stylegan_lite"), []
    for psi in (0.2, 1.0):
        out = tmp_path / f"psi{psi}"
        code, err = call(generate.main, f"run={run}", "n=8", f"truncation={psi}", f"out={out}")
        assert code == 0, err
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        assert [line["truncation"] for line in lines] == [psi] * 8
        images = [torch.tensor(bytearray(Image.open(out / x["file"]).tobytes())) for x in lines]
        spreads.append(torch.stack(images).float().std(0).mean().item())
    assert spreads[0] < 0.5 * spreads[1]
    code, err = call(generate.main, f"run={run}", "truncation=1.1", f"out={tmp_path}/wrong")
    assert (code, "truncation must be in (0, 1], got 1.1" in err) == (1, True)
    assert not (tmp_path / "wrong").exists()
