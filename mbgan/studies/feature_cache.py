"""Features of real images on disk: an extractor looks at the same ones once."""

import hashlib
import logging
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from mbgan.data.cache import whole_file
from mbgan.metrics.features import Extractor, Features

log = logging.getLogger(__name__)

VERSION = 1  # raise with every change to what an extractor of the same fingerprint computes


def extract_once(extractor: Extractor, images: Tensor, cache_dir: str | Path) -> Features:
    """Return an extractor's features of images, read from cache_dir from the second time on.

    They are in `features/<key>.npz`; the key covers the extractor's fingerprint and the images'
    shape and bytes. A damaged file is made anew. Where none can be written, a warning says so and
    the next evaluation extracts again.

    Args:
        extractor: looks at the images.
        images: [N, 3, H, W], uint8.
        cache_dir: where features are kept; made if missing.

    Raises:
        ValueError: if the features are not finite.
    """
    digest = hashlib.sha256(f"{VERSION} {extractor.fingerprint} {list(images.shape)}".encode())
    digest.update(images.contiguous().numpy().data)
    path = Path(cache_dir).expanduser() / "features" / f"{digest.hexdigest()[:32]}.npz"
    if (found := _read(path)) is not None:
        return found
    seen = extractor.extract(images)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, features=seen.features.numpy(), logits=seen.logits.numpy())
    except OSError as error:
        log.warning(
            "features of %d real images are not kept in %s (%s): the next evaluation extracts "
            "them again; make room there, or set cache_dir=DIR to a folder elsewhere",
            *(len(images), path.parent, error.strerror or error),
        )
    return seen


def _read(path: Path) -> Features | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as file:  # a zip, which has checksums
            return Features(*(torch.from_numpy(file[name]) for name in Features._fields))
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        log.warning("extracting anew: the features %s are damaged (%r)", path, error)
        return None
