"""The weights of a run: read back, compared, and handed to another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mbgan.documents import read_torch, reason
from mbgan.runs import Run, sha256_of

PARTS = (  # of a checkpoint, with what they are and hold
    ("state_dict", dict, Tensor),
    ("counters", dict, int),
    ("conditions", list, str),
)
OF_CONDITIONS = ("critic.projection.", "generator_ema.embedding.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, which may hold tensors and plain values only.

    Raises:
        ValueError: if the file is damaged, or would run code.
    """
    content = read_torch(path, f"{path} must be a checkpoint of mbgan.train, got")
    for name, kind, inside in PARTS:
        part = content.get(name) if isinstance(content, dict) else None
        values: Any = part.values() if isinstance(part, dict) else part
        if not isinstance(part, kind) or not all(isinstance(value, inside) for value in values):
            raise ValueError(f"{path} must be a checkpoint of mbgan.train, got no {name} in it")
    if "images_seen" not in content["counters"]:
        raise ValueError(f"{path} must say how many images its critic saw")
    if not isinstance(content.setdefault("critic_extractor", None), str | None):
        raise ValueError(f"{path} must name the critic's extractor, or none")
    losses = content.setdefault("losses", {})  # earlier versions did not keep them
    if not isinstance(losses, dict) or not all(isinstance(x, Tensor) for x in losses.values()):
        raise ValueError(f"{path} must hold the last losses as tensors")
    return dict(content)


def part_of(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return the tensors of a part of a checkpoint's GAN, such as generator_ema."""
    named, prefix = content["state_dict"].items(), f"{name}."
    return {key.removeprefix(prefix): x for key, x in named if key.startswith(prefix)}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a network the tensors of a file, all of them.

    Raises:
        ValueError: if they are those of another network.
    """
    for what in differences(tensors, network.state_dict()).values():
        raise ValueError(f"{path} does not fit the config beside it, got {what}")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:  # of a kind that cannot be copied
        raise ValueError(f"{path} must hold plain tensors, got: {reason(error)}") from None


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
