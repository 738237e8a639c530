"""What a training costs until its end: hours and energy, here and, estimated, on named GPUs."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from mbgan.studies.card_summary import Speed


@dataclass(frozen=True)
class Cost:
    """Of a number of images at a speed.

    Args:
        images: that the critic is still to see.
        images_per_s: at which it sees them.
        watts: that all devices draw together meanwhile.
    """

    images: int
    images_per_s: float
    watts: float

    @property
    def hours(self) -> float:
        """Time to the end."""
        return self.images / self.images_per_s / 3600

    @property
    def kwh(self) -> float:
        """Energy to the end, in kilowatt hours."""
        return self.watts * self.hours / 1000


def on_gpus(images: int, flops_per_image: float, hardware: Mapping[str, Any]) -> dict[str, Cost]:
    """Return estimates by GPU, one each: operations over the peak times the share reached of it.

    In bf16 where the GPU has it, and at full board power.

    Args:
        images: that the critic is still to see.
        flops_per_image: floating-point operations of the training for one of them.
        hardware: as in conf/hardware.
    """
    costs = {}
    for name, gpu in hardware["gpus"].items():
        peak = (gpu["bf16"] or gpu["fp32"]) * 1e12
        costs[name] = Cost(images, peak * hardware["share"] / flops_per_image, gpu["watts"])
    return costs


def table(
    speed: Speed, devices: int, images: int, total_images: int, hardware: Mapping[str, Any]
) -> str:
    """Return the forecast as text for the terminal.

    Args:
        speed: of the training, measured.
        devices: that it was measured on, together.
        images: that the critic is still to see.
        total_images: of the whole run.
        hardware: as in conf/hardware.
    """
    if speed["watts"] is None:
        watts, source = hardware["cpu_watts"] * devices, "assumed (hardware.cpu_watts)"
        if speed["gpu"]:
            raise ValueError(
                f"forecast needs the power of {speed['device']}, which nvidia-smi does not say; "
                "install nvidia-smi, or leave out forecast"
            )
    else:
        watts, source = speed["watts"] * devices, "measured by nvidia-smi"
    here = Cost(images, speed["images_per_s"], watts)
    gflop, memory = speed["flops_per_image"] / 1e9, speed["memory_bytes"] / 2**30
    out = Console(file=io.StringIO(), width=118)
    out.print(f"\n{images:,} of {total_images:,} images are left", highlight=False)
    out.print(
        f"measured here: {speed['steps_timed']} critic steps at batch size {speed['batch_size']}; "
        f"{gflop:.3g} GFLOP an image; memory at most {memory:.2f} GiB "
        f"({'of the GPU' if speed['gpu'] else 'this process'}, at that batch size)",
        soft_wrap=True,
        highlight=False,
    )
    rows = Table(box=None, pad_edge=False)
    rows.add_column("device")
    for name in ("images/s", "hours", "kWh"):
        rows.add_column(name, justify="right")
    rows.add_column("power, and where it is from")
    several = f"{devices} x " if devices > 1 else ""
    _add(rows, f"{several}{speed['device']}", here, source)
    for name, cost in on_gpus(images, speed["flops_per_image"], hardware).items():
        _add(rows, f"{name}, estimate", cost, "board power")
    out.print(rows, highlight=False, soft_wrap=True)
    out.print(
        "estimate: operations over the GPU's peak, of which a share of "
        f"{hardware['share']} is assumed to be reached (conf/hardware); small networks do less.\n"
        "Evaluations, samples and checkpoints come on top; energy is the device's alone.",
        soft_wrap=True,
        highlight=False,
    )
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines())


def _add(rows: Table, device: str, cost: Cost, source: str) -> None:
    numbers = [_readable(x) for x in (cost.images_per_s, cost.hours, cost.kwh)]
    rows.add_row(device, *numbers, f"{cost.watts:,.0f} W, {source}")


def _readable(x: float) -> str:
    if x < 0.01:
        return "< 0.01"
    return f"{x:.2f}" if x < 10 else f"{x:,.0f}"
