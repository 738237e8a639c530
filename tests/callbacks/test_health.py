"""Planted faults are named in the log, each once; healthy runs are left alone."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import ArrayData, TinyCritic, tiny_gan
from lightning.pytorch.callbacks import Callback
from torch import nn

from mbgan.callbacks import health
from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.guard import Guard
from mbgan.callbacks.health import Health, troubles
from mbgan.losses import NonSaturating
from mbgan.metrics.features import Features
from mbgan.metrics.suite import Suite
from mbgan.regularizers import Regularizer


class Pixels(nn.Module):
    """Sees small images: 4 x 4 means of their pixels."""

    name, sha256 = "pixels", "0"

    def extract(self, x):
        seen = nn.functional.adaptive_avg_pool2d(x.double(), 4).flatten(1) / 255
        return Features(seen, seen)


@pytest.fixture(autouse=True)
def short_runs_are_enough(monkeypatch, request):
    """Runs of a few images stand in for those of thousands."""
    if "stretch" not in request.node.name:
        monkeypatch.setattr(health, "ENOUGH", 8)


def row(images_seen, kid=0.3, diversity=0.5, ordered=0.8):
    keys = {"kid/x": kid, "diversity/x": diversity, "critic/ordered": ordered}
    return {"images_seen": images_seen, **keys}


START = {"images_seen": 0, "kid/x": 0.9, "diversity/x": 0.0}


@pytest.mark.parametrize(
    ("fault", "name", "says"),
    [
        ({"diversity": 0.03}, "collapse", "diversity 0.03 of the real images'): try"),
        ({"ordered": 0.9996}, "critic", "scores 99.96% of real images above generated ones"),
        ({"kid": 0.7}, "divergence", "KID 0.700, and 0.300 at 4 images, which checkpoints/best"),
    ],
)
def test_a_fault_at_two_evaluations_in_a_row_is_named(fault, name, says):
    healthy = [START, row(4), row(8)]
    assert not troubles(healthy, "x")
    assert not troubles([*healthy, row(12, **fault)], "x")
    assert not troubles([*healthy, row(12, **fault), row(16)], "x")
    found = troubles([*healthy, row(12, **fault), row(16, **fault)], "x")
    assert list(found) == [name]
    assert says in found[name]


def test_divergence_is_twice_the_best_and_more_than_noise():
    assert not troubles([row(4, kid=0.3), row(8, kid=0.5), row(12, kid=0.58)], "x")
    assert not troubles([row(4, kid=0.01), row(8, kid=0.05), row(12, kid=0.055)], "x")
    assert troubles([row(4, kid=0.01), row(8, kid=0.07), row(12, kid=0.065)], "x")


def test_a_critic_that_was_right_for_a_short_stretch_has_not_won():
    stretches = {every: [START | {"images_seen": 0}] for every in (1_499, 1_500)}
    for every, rows in stretches.items():
        rows.extend(row(n * every, ordered=1.0) for n in (1, 2))
    assert [list(troubles(rows, "x")) for rows in stretches.values()] == [[], ["critic"]]


class Bright(ArrayData):
    """White images with a little noise, ten to train on and to score against."""

    def __init__(self):
        super().__init__()
        self.train.array[:] = 250 + self.train.array // 64
        self.held_out = self.train


def watch(fit, tmp_path, caplog, gan, batches):
    """Train with an evaluation every ten batches; return its rows and the notices by images."""
    evaluation = Evaluation(str(tmp_path / "run"), Suite(Pixels()), every=40, seed=0)
    fit(gan, batches, Bright(), callbacks=[Guard(10**6), evaluation, Health()])
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    return evaluation.rows, [line for line in said if line.startswith("at ")]


def still(**changes):
    """A GAN whose generator keeps its first weights."""
    return tiny_gan(make_opt_g=partial(torch.optim.SGD, lr=0.0), n_critic=1, **changes)


def test_a_generator_that_ignores_its_latent_is_reported_once(fit, tmp_path, caplog):
    gan = still()
    for generator in (gan.generator, gan.generator_ema):
        nn.init.zeros_(generator.dense.weight)
    rows, said = watch(fit, tmp_path, caplog, gan, batches=40)
    assert [row["diversity/pixels"] < 0.01 for row in rows] == [True] * 5
    (line,) = (line for line in said if "nearly the same images" in line)
    assert line.startswith("at 80 images: ")  # the second evaluation of what was trained


def test_a_critic_that_is_never_wrong_is_reported_once(fit, tmp_path, caplog):
    """Generated images stay gray and the real ones are white."""
    critic = TinyCritic(dropout=0.0)
    gan = still(critic=critic, loss=NonSaturating(), regularizer=Regularizer())
    rows, said = watch(fit, tmp_path, caplog, gan, batches=40)
    assert [row["critic/ordered"] for row in rows[2:]] == [1.0] * 3
    (line,) = (line for line in said if "the critic has won" in line)
    assert int(line.split()[1]) in (80, 120)


def test_the_order_is_averaged_since_the_last_evaluation(fit, tmp_path, caplog):
    shares = []

    class Look(Callback):
        def on_train_batch_end(self, trainer, gan, *rest):
            shares.append(float(gan.losses["critic/ordered"]))

    data = Bright()
    evaluation = Evaluation(str(tmp_path / "run"), Suite(Pixels()), every=40, seed=0)
    fit(tiny_gan(), 20, data, callbacks=[Guard(10**6), evaluation, Look()])
    start, *rows = evaluation.rows
    assert "critic/ordered" not in start
    assert len(set(shares)) > 2
    means = [sum(part) / 10 for part in (shares[:10], shares[10:])]
    assert [row["critic/ordered"] for row in rows] == pytest.approx(means)


def test_a_notice_comes_again_after_it_was_over(caplog):
    evaluation = Evaluation("run", SimpleNamespace(extractor=SimpleNamespace(name="x")), 4, 0)
    trainer, watcher = SimpleNamespace(callbacks=[evaluation]), Health()
    evaluation.rows.append(START)
    said = []
    for i, fault in enumerate([1, 1, 1, 0, 1, 1], 1):
        evaluation.rows.append(row(4 * i, ordered=0.8 + 0.2 * fault))
        caplog.clear()
        for now in (4 * i, 4 * i + 1):  # the second batch has no evaluation
            watcher.on_train_batch_end(trainer, SimpleNamespace(images_seen=now), None, None, 0)
        said.append(len(caplog.records))
    assert said == [0, 1, 0, 0, 0, 1]
