"""A run ends when its KID has not become better for a while, and stays ended."""

import logging
from types import SimpleNamespace

import pytest
from conftest import tiny_gan

from mbgan.callbacks.evaluation import Evaluation
from mbgan.callbacks.guard import Guard
from mbgan.callbacks.patience import Patience


class Scripted(Evaluation):
    """An evaluation every batch of 4 images, whose KIDs are known beforehand."""

    def __init__(self, kids, rows=()):
        suite = SimpleNamespace(extractor=SimpleNamespace(name="tiny"))
        super().__init__("run", suite, every=4, seed=0)
        self.kids, self.rows = list(kids), list(rows)

    def on_train_start(self, trainer, gan):
        self._ordered = self._batches = 0
        self.rows = self.rows or [{"images_seen": 0, "kid/tiny": 0.0}]

    def act(self, trainer, gan):
        self.rows.append({"images_seen": gan.images_seen, "kid/tiny": self.kids.pop(0)})


@pytest.mark.parametrize(
    ("kids", "patience", "batches"),
    [
        ([5, 4, 4.5, 4.2, 3], 2, 4),  # 3 would have been better
        ([5, 4, 4.5, 3, 3.5, 3.1, 9], 2, 6),  # a new best begins the count again
        ([5, 4, 4.5, 4, 4.5, 9, 9], 2, 6),  # an equal one is the new best, as for best.ckpt
        ([1, 2, 3], 1, 2),
        ([1, 2, 3, 4, 5], None, 5),
    ],
)
def test_a_run_stops_after_evaluations_without_a_new_best(fit, caplog, kids, patience, batches):
    """The start, here of KID 0, is not an evaluation of this run."""
    caplog.set_level(logging.INFO, "mbgan")
    gan = tiny_gan()
    fit(gan, len(kids), callbacks=[Guard(10**6), Scripted(kids), Patience(patience)])
    assert gan.images_seen == 4 * batches
    said = [r.getMessage() for r in caplog.records if "no better KID" in r.getMessage()]
    seen = kids[:batches]
    best = 4 * (len(seen) - seen[::-1].index(min(seen)))
    rule = f"no better KID in {patience} evaluations: stopped at {4 * batches} images"
    assert said == ([f"{rule}, best at {best}"] if patience else [])


@pytest.mark.parametrize(("patience", "batches"), [(2, 0), (3, 1), (None, 3)])
def test_the_count_survives_a_resume_and_more_patience_goes_on(fit, patience, batches):
    """Two evaluations without a new best stand in the rows that a resumed run reads."""
    rows = [{"images_seen": n, "kid/tiny": k} for n, k in ((0, 9), (4, 1), (8, 2), (12, 3))]
    gan = tiny_gan()
    gan.images_seen = 12
    fit(gan, 3, callbacks=[Guard(10**6), Scripted([4, 5, 6], rows), Patience(patience)])
    assert gan.critic_steps == batches


def test_patience_out_of_range_is_refused():
    with pytest.raises(ValueError, match="patience must be null or at least 1 evaluation, got 0"):
        Patience(0)
