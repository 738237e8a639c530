"""Notices of what goes wrong in a run while it can still be mended."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from mbgan.callbacks import find
from mbgan.callbacks.evaluation import Evaluation
from mbgan.gan import GAN

log = logging.getLogger(__name__)

# Seen by EfficientNet-Lite0 at 40 to 100 images, in runs of 4,000 to 38,000 images with five
# models, a rule of thumb: diversity is 0.12 and more from the first evaluation on, and 0.004 to
# 0.07 where the latents of 100 images are 1 to 20 fixed ones, slightly moved.
COLLAPSED = 0.08  # diversity, of the reals'
# The same runs stay at or below 0.998; with a generator that stands still, or a critic that
# learns ten times too fast, it is 0.9995 and more.
WON = 0.999  # critic/ordered, over the images since the last evaluation
# Of so many images one would stand out of order, with a probability of 95 %, if one in a thousand
# did. Short runs of healthy models have stretches of hundreds of images without any
# (experiments/faults/detectors.csv).
ENOUGH = 3_000  # images of the two stretches together


def troubles(rows: list[dict[str, Any]], extractor: str) -> dict[str, str]:
    """Return what is wrong at both of the last two evaluations: by name, what to tell the user.

    One evaluation alone says little: scores of some hundred images jump, and the young generator
    is far from the critic.

    Args:
        rows: the evaluations so far, oldest first, from that of the start on.
        extractor: the name in the scores' keys.
    """
    trained = [row for row in rows if "critic/ordered" in row]  # not the start
    last = trained[-2:]
    if len(last) < 2:
        return {}
    found = {}
    diversity = max(row[f"diversity/{extractor}"] for row in last)
    if diversity < COLLAPSED:
        found["collapse"] = (
            f"the generator draws nearly the same images again and again (diversity "
            f"{diversity:.2f} of the real images'): try augment=histology, a lower "
            "model.make_opt_g.lr or a larger batch_size"
        )
    ordered = min(row["critic/ordered"] for row in last)
    if ordered > WON and last[-1]["images_seen"] - rows[-3]["images_seen"] >= ENOUGH:
        found["critic"] = (
            f"the critic has won: it scores {ordered:.2%} of real images above generated ones, "
            "which leaves the generator little to learn from: try augment=histology, a lower "
            "model.make_opt_d.lr or a smaller model.n_critic"
        )
    kid = f"kid/{extractor}"
    best = min(trained, key=lambda row: row[kid])
    lowest = min(row[kid] for row in last)
    if lowest > max(2 * best[kid], best[kid] + 0.05):  # 0.05: noise, where the best is near 0
        found["divergence"] = (
            f"the run gets worse: KID {last[-1][kid]:.3f}, and {best[kid]:.3f} at "
            f"{best['images_seen']} images, which checkpoints/best.ckpt keeps: try a lower "
            "model.make_opt_g.lr and model.make_opt_d.lr or augment=histology; patience=5 ends "
            "such runs"
        )
    return found


class Health(Callback):
    """Says in the log what goes wrong and what to try, once until it is over.

    Everything is read from the rows of the evaluation, so that a resumed run says it once too.
    Listed after the evaluation.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, gan: GAN, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the evaluation, if there was one just now."""
        evaluation = find(trainer, Evaluation)
        *before, last = evaluation.rows
        if last["images_seen"] != gan.images_seen:
            return
        name = evaluation.suite.extractor.name
        known = troubles(before, name)
        for trouble, notice in troubles(evaluation.rows, name).items():
            if trouble not in known:
                log.warning("at %d images: %s", gan.images_seen, notice)
