"""From a generator that copies to the gates that stop it: evaluate, generate, privacy, export."""

import json
from pathlib import Path

import pytest
import torch
from conftest import field, put
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from mbgan import evaluate, export, generate, privacy
from mbgan.assembly import load_data
from mbgan.images import from_uint8
from mbgan.metrics.features import Extractor
from mbgan.networks import Critic, Generator
from mbgan.runs import Run
from mbgan.saved import TRUST

SIDE = 32


class Pixels(Extractor):
    """A blurred image is its features."""

    def __init__(self):
        network = nn.Sequential(nn.AvgPool2d(4), nn.BatchNorm2d(3))
        super().__init__("pixels", network, Path(__file__))

    def forward(self, x):
        features = self.network(x.float()).flatten(1)
        return features, features[:, :2]


class Planted(Generator):
    """Draws one of n images that it holds, by the largest number in z."""

    def __init__(self, n):
        super().__init__(z_dim=n, image_size=SIDE)
        self.images = nn.Parameter(torch.zeros(n, 3, SIDE, SIDE))

    def forward(self, z, draws=None):
        return self.images[z.argmax(1)]


class Knowing(Critic):
    """Gives a high score to one of n images that it holds."""

    def __init__(self, n):
        super().__init__(image_size=SIDE, width_out=1)
        self.images = nn.Parameter(torch.zeros(n, 3, SIDE, SIDE))

    def features(self, x):
        return -torch.cdist(x.flatten(1), self.images.flatten(1)).amin(1, keepdim=True)


@pytest.fixture
def planted(folder, untrained, monkeypatch):
    """A run of 64 images whose generator draws `images(data)`, and whose critic knows those."""
    monkeypatch.setenv(TRUST, "test_release")  # its networks are of this file

    def make(images, patients=0):
        for i in range(64 if patients else 48):
            name = f"patient{i % patients}_{i}" if patients else f"f{i}"
            put(folder, f"40x/{'tumor' if i % 2 else 'normal'}/{name}.png", field(i))
        for path in folder.rglob("[0-9]*.png"):
            if patients:
                path.unlink()
        run = Run(untrained("dcgan"))
        config = OmegaConf.load(run.config)
        x = from_uint8(images(load_data(run)))
        for player, of in (("generator", "Planted"), ("critic", "Knowing")):
            config.model[player] = {"_target_": f"test_release.{of}", "n": len(x)}
        config.extractor = {"_target_": "test_release.Pixels"}
        run.config.write_text(OmegaConf.to_yaml(config))
        critic = Knowing(len(x))
        nn.init.ones_(critic.score.weight)
        weights = {f"critic.{k}": v for k, v in critic.state_dict().items()}
        weights |= {"generator_ema.images": x, "critic.images": x}
        content = torch.load(run.checkpoint("best"), weights_only=True)
        torch.save(content | {"state_dict": weights}, run.checkpoint("best"))
        return run

    return make


def training_images(data):
    return torch.from_numpy(data.train[:])


def turned(data):
    return training_images(data).rot90(1, (2, 3))


def strangers(data):
    """As the training images are: some of noise, most of tissue."""
    noise = torch.randint(0, 256, (8, 3, 40, 40), generator=torch.Generator().manual_seed(9))
    tissue = [torch.from_numpy(field(seed)).permute(2, 0, 1) for seed in range(500, 530)]
    return torch.cat(
        [F.interpolate(x.float(), SIDE, mode="area") for x in (noise, torch.stack(tissue))]
    ).to(torch.uint8)


def rows_of(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def test_a_planted_copy_is_refused_at_the_gate_and_rejected_and_given_away(call, planted, tmp_path):
    """Training images as a generator's output, through the verbs as a user would call them."""
    run = planted(turned)
    where = f"run={run.folder}"
    code, err = call(evaluate.main, where, "metrics.floor_splits=2")
    assert code == 0, err
    assert json.loads(run.scores().read_text())["memorization"]["verdict"] == "copying"
    code, err = call(export.main, where, f"out={tmp_path}/b", "onnx=false", "license=CC0-1.0")
    assert code == 1
    assert "must not be handed on: it copies training images; there is no data card" in err
    assert not (tmp_path / "b").exists()

    out = tmp_path / "out"
    code, err = call(generate.main, where, f"out={out}", "n=32", "reject.copies=true")
    assert code == 0, err
    assert [row["rejected"] for row in rows_of(out)] == ["near copy"] * 32
    assert not list(out.glob("*.png"))

    assert call(privacy.main, where, "n=300")[0] == 0
    found = json.loads((run.scored("best") / "privacy.json").read_text())
    assert found["attacks"]["images alone (distance)"]["auroc"] > 0.99
    assert found["checkpoint_sha256"] == rows_of(out)[0]["checkpoint_sha256"]
    assert "patients unknown" in found["over"]


def test_a_generator_of_strangers_passes_what_stops_copies(call, planted, tmp_path):
    run = planted(strangers)
    out = tmp_path / "out"
    assert (
        call(generate.main, f"run={run.folder}", f"out={out}", "n=48", "reject.copies=true")[0] == 0
    )
    rejected = sum(row["rejected"] is not None for row in rows_of(out))
    assert rejected <= 10  # one in twenty of each measure is one by definition
    assert len(list(out.glob("*.png"))) == 48 - rejected
    assert call(privacy.main, f"run={run.folder}", "n=300")[0] == 0
    found = json.loads((run.scored("best") / "privacy.json").read_text())
    for attack in found["attacks"].values():
        low, high = attack["interval"]
        assert low < 0.5 < high
        assert low < attack["auroc"] < high


def test_a_critic_that_knows_its_training_images_gives_them_away(call, planted):
    """Also where the images of the generator would not; the interval is over patients."""
    run = planted(training_images, patients=8)
    content = torch.load(run.checkpoint("best"), weights_only=True)
    weights = content["state_dict"]
    weights["generator_ema.images"] = torch.zeros_like(weights["critic.images"])
    torch.save(content, run.checkpoint("best"))
    code, err = call(privacy.main, f"run={run.folder}", "n=20")
    assert code == 0, err
    found = json.loads((run.scored("best") / "privacy.json").read_text())
    assert found["attacks"]["critic too (loss)"]["auroc"] == 1
    assert found["over"] == "interval over patients"
    assert found["attacks"]["images alone (distance)"]["auroc"] < 0.8


def test_what_no_training_image_is_near_is_rejected(call, planted, tmp_path):
    """Half of the generator's images are training images, half are one plain green."""

    def mixed(data):
        x = training_images(data)[:20]
        green = torch.zeros_like(x)
        green[:, 1] = 255
        return torch.cat([x, green])

    run, out = planted(mixed), tmp_path / "out"
    code, err = call(
        generate.main, f"run={run.folder}", f"out={out}", "n=64", "reject.min_density=0.2"
    )
    assert code == 0, err
    low = [row for row in rows_of(out) if row["rejected"]]
    assert 16 <= len(low) <= 48
    assert {(row["rejected"], row["density"]) for row in low} == {("low density", 0)}
    kept = [row for row in rows_of(out) if not row["rejected"]]
    assert all(row["density"] >= 0.2 and row["nearest_distance"] == 0 for row in kept)
    assert {path.name for path in out.glob("*.png")} == {row["file"] for row in kept}
    code, err = call(
        generate.main, f"run={run.folder}", f"out={tmp_path}/x", "reject.min_density=0"
    )
    assert (code, "reject.min_density must be null or above 0, got 0" in err) == (1, True)
