"""What a run computes on: which devices, in which precision, and whether compilers are there."""

import logging
import os
import shutil
import time
from collections.abc import Callable

import torch
from omegaconf import DictConfig

log = logging.getLogger(__name__)

FASTER = 1.1  # bf16-mixed must be that many times as fast as 32-true to be chosen


def check_devices(trainer: DictConfig) -> int:
    """Return the number of processes that share a batch.

    Raises:
        ValueError: if there are fewer devices than asked for.
    """
    devices, gpus = trainer.devices, torch.cuda.device_count()
    if not isinstance(devices, int) or devices < 1:
        raise ValueError(f"trainer.devices must be a number, at least 1, got {devices}")
    on_gpu = trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and gpus)
    if (on_gpu and devices > gpus) or (trainer.accelerator == "auto" and devices > max(1, gpus)):
        raise ValueError(
            f"trainer.devices must be at most the number of GPUs here, {gpus}, got {devices}; "
            f"for processes on the CPU use trainer=ddp_cpu trainer.devices={devices}"
        )
    return devices * trainer.num_nodes


def pick_accelerator(trainer: DictConfig) -> str:
    """Return trainer.accelerator, with auto as cuda where there is one, else cpu."""
    if trainer.accelerator != "auto":
        return str(trainer.accelerator)
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_precision(trainer: DictConfig) -> str:
    """Return trainer.precision, with auto as bf16-mixed where that is measured to be faster.

    Several processes would measure by themselves and might not agree: there, auto is bf16-mixed
    where the hardware multiplies bfloat16. bf16-mixed on a device that does not becomes 32-true.
    """
    asked = str(trainer.precision)
    device = "cpu" if pick_accelerator(trainer) == "cpu" else "cuda"
    if not multiplies_bfloat16(device):
        if asked.startswith("bf16"):
            log.warning(
                "trainer.precision=%s is slow on this %s, which does not multiply bfloat16: "
                "using 32-true",
                *(asked, device),
            )
        return "32-true" if asked == "auto" or asked.startswith("bf16") else asked
    if asked != "auto":
        return asked
    if trainer.devices * trainer.num_nodes > 1:
        return "bf16-mixed"
    ratio = bfloat16_speedup(device)
    chosen = "bf16-mixed" if ratio >= FASTER else "32-true"
    log.info(
        "precision %s: convolutions are measured %.1f times as fast in bfloat16 here", chosen, ratio
    )
    return chosen


def multiplies_bfloat16(device: str) -> bool:
    """Tell whether the hardware has instructions for it; without, it is emulated, and slower."""
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_bf16_supported(including_emulation=False)


def bfloat16_speedup(device: str, rounds: int = 5) -> float:
    """Return how many times as fast a convolution goes in bfloat16, there and back: a probe.

    64 to 128 channels at 32 x 32, channels last, as in the middle of a critic. The fastest of some
    rounds each, in turn, and on a CPU the time of a single thread, which does not count when others
    use the core: threads that wait for each other on a busy machine measured anything.
    """
    clock = time.thread_time if device == "cpu" else time.perf_counter
    threads = torch.get_num_threads()
    x, weight = (  # no random numbers: the run's follow
        torch.ones(shape, device=device)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_(True)
        for shape in ((8, 64, 32, 32), (128, 64, 4, 4))
    )

    def there_and_back(mixed: bool) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            y = torch.conv2d(x, weight, stride=2, padding=1).float().sum()
        torch.autograd.grad(y, [x, weight])
        if device == "cuda":
            torch.cuda.synchronize()

    def seconds(work: Callable[[bool], None], mixed: bool) -> float:
        began = clock()
        work(mixed)
        return clock() - began

    torch.set_num_threads(1)
    try:
        times = [[seconds(there_and_back, mixed) for mixed in (False, True)] for _ in range(rounds)]
    finally:
        torch.set_num_threads(threads)
    plain, mixed = map(min, zip(*times, strict=True))
    return plain / mixed


def can_compile(device: str) -> bool:
    """Tell whether torch.compile finds what it needs: a C++ compiler, for a GPU Triton."""
    if device != "cpu":  # cuda, or gpu as Lightning calls it
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
