"""A set of scores under one protocol: which images, how many, by which extractor."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbgan.images import Rows
from mbgan.latents import seed_of
from mbgan.metrics.distances import diversity, fid, inception_score, kid, kid_error
from mbgan.metrics.features import Extractor, Features


class Suite:
    """KID, FID, Inception score and diversity of fakes against held-out images, at equal n.

    Args:
        extractor: turns images into features.
        max_images: at most this many images on each side; None for all that are held out.
        floor_splits: random half splits of the reals for the real-vs-real floor in `full`.

    Raises:
        ValueError: if max_images is under 2 or floor_splits negative.
    """

    def __init__(
        self, extractor: Extractor, max_images: int | None = None, floor_splits: int = 0
    ) -> None:
        if max_images is not None and max_images < 2:
            raise ValueError(f"metrics.max_images must be null or at least 2, got {max_images}")
        if floor_splits < 0:
            raise ValueError(f"metrics.floor_splits must be at least 0, got {floor_splits}")
        self.extractor, self.max_images = extractor, max_images
        self.floor_splits = floor_splits

    def pick(self, held_out: Rows) -> tuple[Tensor, Tensor]:
        """Return what scores are taken against: images [n, 3, S, S], uint8, and conditions [n].

        The same ones in every run on this split, whatever its seed.
        """
        n = len(held_out) if self.max_images is None else min(self.max_images, len(held_out))
        order = np.random.default_rng(seed_of("held-out")).permutation(len(held_out))
        rows = np.sort(order[:n])
        return torch.from_numpy(held_out[rows]), torch.from_numpy(held_out.conditions[rows])

    def scores(self, real: Features, fake: Features) -> dict[str, float]:
        """Return each score of the fakes, keyed by its name and the extractor's."""
        name = self.extractor.name
        return {
            f"kid/{name}": kid(real.features, fake.features),
            f"fid/{name}": fid(real.features, fake.features),
            f"inception_score/{name}": inception_score(fake.logits),
            f"diversity/{name}": diversity(real.features, fake.features),
        }

    def full(self, real: Features, fake: Features) -> dict[str, dict[str, Any]]:
        """Return each score with all that is known of its uncertainty.

        KID has a 95 % interval over images, as if they were independent: too narrow where
        patients gave several. KID and FID have the real-vs-real floor, what random halves of the
        reals score against each other, at half of n_real; FID's bias is larger there.
        """
        result: dict[str, dict[str, Any]] = {
            key: {"value": value} for key, value in self.scores(real, fake).items()
        }
        name = self.extractor.name
        if len(real.features) >= 3:
            value, error = result[f"kid/{name}"]["value"], kid_error(real.features, fake.features)
            result[f"kid/{name}"]["interval"] = [value - 1.96 * error, value + 1.96 * error]
            result[f"kid/{name}"]["interval_over"] = "images"
        n, rng = len(real.features) // 2, np.random.default_rng(seed_of("floor"))
        halves: dict[str, list[float]] = {"kid": [], "fid": []}
        for _ in range(self.floor_splits if n >= 2 else 0):
            order = torch.from_numpy(rng.permutation(len(real.features)))
            a, b = real.features[order[:n]], real.features[order[n : 2 * n]]
            halves["kid"].append(kid(a, b))
            halves["fid"].append(fid(a, b))
        for key, values in halves.items():
            if values:
                floor = {"mean": float(np.mean(values)), "range": [min(values), max(values)]}
                result[f"{key}/{name}"]["floor"] = floor | {"n_each": n, "splits": len(values)}
        return result

    def part(self, real: Features, fake: Features, rows: Tensor) -> dict[str, Any]:
        """Return n and the scores in `full` of some rows [n], or the reason why there are none."""
        n = int(rows.sum())
        if n < 2:
            return {"n": n, "scores": {}, "reason": f"scores need 2 held-out images, got {n}"}
        real, fake = (Features(*(values[rows] for values in side)) for side in (real, fake))
        return {"n": n, "scores": self.full(real, fake)}


def table(result: dict[str, Any]) -> str:
    """Return a scored run (the content of scores.json) as lines for the terminal."""
    lines = [
        f"{result['magnification']}, {result['images_seen']} images seen, "
        f"checkpoint {result['checkpoint']}; n_real {result['n_real']}, n_fake {result['n_fake']}, "
        f"extractor {result['extractor']} ({result['extractor_sha256'][:12]})",
        f"{'score':34} {'value':>10}  {'95 % interval':22}real-vs-real floor (range)",
    ]
    if result["critic_extractor"] == result["extractor"]:
        lines.insert(1, "the critic learned by this extractor, so these scores flatter the run")
    lines += _lines(result["scores"])
    for name, part in result["by_condition"].items():
        lines.append(f"{name}: " + part.get("reason", f"n {part['n']} on each side"))
        lines += _lines(part["scores"])
    return "\n".join(lines)


def _lines(scores: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for key, score in scores.items():
        interval, floor = "-", "-"
        if "interval" in score:
            interval = "{:.4g} .. {:.4g}".format(*score["interval"])
        if "floor" in score:
            floor = "{mean:.4g} ({range[0]:.4g} .. {range[1]:.4g}) at n = {n_each}"
            floor = floor.format(**score["floor"])
        note = "  (about 1 for one tissue)" if key.startswith("inception_score") else ""
        lines.append(f"{key:34} {score['value']:10.4g}  {interval:22}{floor}{note}")
    return lines
