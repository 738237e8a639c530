"""A generator as programs that run without this package: torch.export and ONNX."""

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from mbgan.latents import fixed_latents
from mbgan.networks import Generator

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # between PyTorch and a program, of pixels in [-1, 1]
BATCH = 1, 64  # images that a program draws at a time


class Drawn(nn.Module):
    """Latents [N, z_dim], and numbers [N] of conditions if there are some, to images."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return images [N, 3, H, W] in [-1, 1]."""
        return self.generator.render(self.generator.points(z, condition))


@torch.no_grad()
def write_programs(generator: Generator, folder: Path, onnx: bool) -> dict[str, float | str]:
    """Write programs, and return by how much the images of each differ from PyTorch's.

    Of one that cannot be made, the reason: then the bundle is its weights, and says so.

    Args:
        generator: in eval mode.
        folder: for generator.pt2 and generator.onnx.
        onnx: whether to write the second.

    Raises:
        ValueError: if images differ by more than TOLERANCE, or ONNX's packages are missing.
    """
    if onnx and not all(map(importlib.util.find_spec, ("onnxruntime", "onnxscript"))):
        raise ValueError("onnx=true needs packages: pip install 'mbgan[onnx]', or onnx=false")
    drawn = Drawn(generator.cpu()).eval()
    makers = {"generator.pt2": _torch_export} | ({"generator.onnx": _onnx} if onnx else {})
    other = _inputs(generator, range(4, 11))  # neither the latents nor the number that is traced
    expected, found = drawn(*other.values()), dict[str, float | str]()
    for name, make in makers.items():
        try:
            images = make(_traced(drawn), other, folder / name)
        except Exception as failure:  # tracers raise whatever they meet, of no common type
            (folder / name).unlink(missing_ok=True)
            found[name] = str(failure).strip().splitlines()[0]
            log.warning("%s is left out, as it cannot be made: %s", name, found[name])
            continue
        found[name] = error = float((images - expected).abs().max())
        if not error <= TOLERANCE:
            raise ValueError(f"{name} must draw as PyTorch does, to {TOLERANCE}, got {error}")
    return found


def _inputs(generator: Generator, numbers: range) -> dict[str, Tensor]:
    inputs = {"z": fixed_latents(numbers, generator.z_dim, 0)}
    if generator.conditions:
        inputs["condition"] = torch.tensor(numbers) % len(generator.conditions)
    return inputs


def _traced(drawn: Drawn) -> torch.export.ExportedProgram:
    inputs = _inputs(drawn.generator, range(4))
    batch = torch.export.Dim("batch", min=BATCH[0], max=BATCH[1])
    shapes = {name: {0: batch} for name in inputs}
    program = torch.export.export(
        drawn, tuple(inputs.values()), dynamic_shapes=shapes, strict=False
    )
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _torch_export(
    program: torch.export.ExportedProgram, inputs: dict[str, Tensor], path: Path
) -> Tensor:
    """Write a program, and return its images [N, 3, H, W]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "No complete tensor": of views; the images are compared
        torch.export.save(program, path)
    images: Tensor = torch.export.load(path).module()(*inputs.values())
    return images


def _onnx(program: torch.export.ExportedProgram, inputs: dict[str, Tensor], path: Path) -> Tensor:
    """Write a program, and return its images [N, 3, H, W]."""
    import onnxruntime

    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every node
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(program, dynamo=True, input_names=list(inputs), verbose=False)
    assert written is not None, "a program, as it is asked for with dynamo"
    written.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (images,) = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    return torch.from_numpy(images)
