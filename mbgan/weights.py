"""The weights of a run: read back, compared, and handed to another run."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mbgan.runs import Run, sha256_of

OF_CONDITIONS = ("critic.projection.", "generator_ema.embedding.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, which may hold tensors and plain values only.

    Raises:
        ValueError: if the file is damaged, or would run code.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} must be a checkpoint of mbgan.train, got: {reason}") from None
    return content


def read_run(run: Run, checkpoint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of a run's checkpoint, last or best, and where it came from.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it and the one before are damaged, or would run code.
    """
    path = run.whole(checkpoint)
    content = read_checkpoint(path)
    origin = {
        "run": str(run.folder.absolute()),
        "checkpoint": checkpoint,
        "checkpoint_sha256": sha256_of(path),
        "images_seen": content["counters"]["images_seen"],
        "critic_extractor": content["critic_extractor"],
    }
    return content, origin


def differences(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, by name, the tensors that a checkpoint and a model do not have in one shape."""
    shapes = [{k: list(v.shape) for k, v in state.items()} for state in (theirs, ours)]
    found = {}
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = (shape.get(name, "missing") for shape in shapes)
        if there != here:
            found[name] = f"{name} {there} in the checkpoint and {here} in the model"
    return found


def begin_with(gan: nn.Module, saved: Mapping[str, Tensor], same_conditions: bool) -> None:
    """Give a GAN the critic and the averaged generator of another (Wang et al. 2018).

    Both its generators begin with the averaged one, which is what was scored. What tells
    conditions apart keeps its random start, unless they are the same.

    Args:
        gan: with generator, generator_ema and critic.
        saved: state dict of another.
        same_conditions: whether both tell the same apart, by name.

    Raises:
        ValueError: if the architectures differ.
    """
    theirs, ours = (
        {
            k: v
            for k, v in state.items()
            if k.startswith(("critic.", "generator_ema."))
            and (same_conditions or not k.startswith(OF_CONDITIONS))
        }
        for state in (saved, gan.state_dict())
    )
    for what in differences(theirs, ours).values():
        raise ValueError(
            f"init_from must be a run of the same model and image_size, got {what}; give this "
            "run the other's model=... and settings of it, or leave out init_from"
        )
    generator = {k.replace("generator_ema.", "generator.", 1): v for k, v in theirs.items()}
    gan.load_state_dict(theirs | generator, strict=False)
