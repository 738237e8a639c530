"""Each generated image beside the training images: how near is it, and does it lie among them?"""

from typing import Any

import torch
from torch import Tensor

from mbgan.data.datamodule import MagnificationDataModule
from mbgan.metrics.features import Extractor
from mbgan.metrics.memorization import TAIL, match_others, nearest_pose, poses, similarity
from mbgan.metrics.neighbors import blocks, radius
from mbgan.studies.feature_cache import extract_once

K = 5  # neighbors that make a ball, as in Naeem et al. 2020


class Audit:
    """Says of images how near they come to training images, and which to reject.

    A near copy is closer to a training image, in any pose, than 95 % of training images are to
    others: in features or in structure, as in the verdict on a generator. One image in twenty of
    an honest generator as good as the data is called one.

    Args:
        extractor: turns images into features.
        datamodule: of the training images.
        reject_copies: whether near copies are rejected.
        min_density: reject images in fewer balls of training images than this, over K; None for
            none. 0 is an image where no training image is near, 1 the usual.

    Raises:
        ValueError: if min_density is negative.
    """

    def __init__(
        self,
        extractor: Extractor,
        datamodule: MagnificationDataModule,
        reject_copies: bool,
        min_density: float | None,
    ) -> None:
        if min_density is not None and not min_density > 0:
            raise ValueError(f"reject.min_density must be null or above 0, got {min_density}")
        self.extractor = extractor.eval()
        self.reject_copies, self.min_density = reject_copies, min_density
        self.names = [file.name for file in datamodule.train_files]
        self.images = torch.from_numpy(datamodule.train[:])
        cache_dir = datamodule.cache_dir
        seen = [extract_once(extractor, pose, cache_dir).features for pose in poses(self.images)]
        self.features = torch.stack(seen)  # [8, N, F]
        usual = match_others(self.features)
        self.near = float(usual.distance.quantile(TAIL))
        self.alike = float(similarity(usual, self.images, self.images).quantile(1 - TAIL))
        self.radii = radius(self.features[0], K) if min_density is not None else None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[dict[str, Any]]:
        """Return columns of the manifest for images [N, 3, S, S], uint8, N at least 2."""
        features = self.extractor.extract(images).features
        found = nearest_pose(self.features, features)
        likeness = similarity(found, self.images, images)
        rows = []
        for i in range(len(images)):
            distance, like = float(found.distance[i]), float(likeness[i])
            row: dict[str, Any] = {
                "nearest": self.names[int(found.image[i])],
                "nearest_distance": round(distance, 6),
                "nearest_similarity": round(like, 6),
                "near_copy": distance < self.near or like > self.alike,
            }
            if self.radii is not None:
                ((_, block),) = blocks(features[i : i + 1], self.features[0])
                row["density"] = float((block[0] <= self.radii).sum()) / K
            row["rejected"] = self._reason(row)
            rows.append(row)
        return rows

    def _reason(self, row: dict[str, Any]) -> str | None:
        if self.reject_copies and row["near_copy"]:
            return "near copy"
        if self.min_density is not None and row["density"] < self.min_density:
            return "low density"
        return None
