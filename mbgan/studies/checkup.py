"""What a machine has and what it lacks for a training: findings, each with what to do about it."""

import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from mbgan.documents import read_torch
from mbgan.metrics.features import inception_cache

State = Literal["ok", "notice", "trouble"]
COLORS: dict[State, str] = {"ok": "green", "notice": "yellow", "trouble": "bold red"}
GB, MB = 10**9, 10**6
NAMED = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy", "albumentations")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it is about, in a word or two.
        state: ok, notice (it works, with less than could be) or trouble (a training would fail).
        seen: what was found.
        advice: what to do about it; empty if nothing.
    """

    topic: str
    state: State
    seen: str
    advice: str = ""


def check_packages() -> Finding:
    """Compare the installed packages with the versions that mbgan asks for."""
    wrong, fix = list[str](), list[str]()
    for need in _requirements():
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        found = _installed(need)
        if found is None or not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} {found or 'missing'} (needs {need.specifier})")
            fix.append(f"'{need.name}{need.specifier}'")
    if wrong:
        return Finding("packages", "trouble", "; ".join(wrong), f"pip install {' '.join(fix)}")
    seen = ", ".join(f"{name} {version(name)}" for name in NAMED)
    return Finding("packages", "ok", f"{seen}; all others in their bounds")


def check_extras() -> Finding:
    """Tell which of mbgan's extras are installed."""
    extras: dict[str, bool] = {}
    for need in _requirements():
        for name in ("joblib", "submitit", "ray", "optuna", "mlflow", "dashboard", "onnx", "timm"):
            if need.marker and need.marker.evaluate({"extra": name}):
                extras[name] = extras.get(name, True) and _installed(need) is not None
    there = [name for name, has in extras.items() if has]
    missing = ",".join(name for name, has in extras.items() if not has)
    advice = f"only if you need them: pip install 'mbgan[{missing}]'" if missing else ""
    return Finding("extras", "ok", ", ".join(there) or "none", advice)


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in requires("mbgan") or ()]


def _installed(need: Requirement) -> str | None:
    try:
        return version(need.name)
    except PackageNotFoundError:
        return None


def check_device() -> Finding:
    """Tell what a training computes on."""
    cores = f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return _check_gpus(cores)
    if shutil.which("nvidia-smi"):  # comes with NVIDIA's driver
        built = torch.version.cuda
        cause = (
            f"its CUDA {built} needs a newer driver, or this container was started without GPUs"
            if built
            else "this build is for CPUs only; install the one for CUDA (pytorch.org tells how)"
        )
        seen = f"a driver of NVIDIA's, but no GPU that torch {torch.__version__} can use; {cores}"
        return Finding("device", "trouble", seen, f"see nvidia-smi; {cause}")
    advice = (
        "for small images, as experiment=quick_start; the paper's 256 px take days on a CPU. Where "
        "there is a GPU of NVIDIA's, install its driver"
    )
    return Finding("device", "notice", f"no GPU; {cores}", advice)


def _check_gpus(cores: str) -> Finding:
    names, taken = list[str](), list[str]()
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        names.append(f"GPU {i}: {name}, {free / GB:.0f} of {total / GB:.0f} GB free")
        if free < total / 2:
            taken.append(str(i))
    seen = f"{'; '.join(names)}; CUDA {torch.version.cuda}; {cores}"
    if not taken:
        return Finding("device", "ok", seen)
    others = f"others use GPU {', '.join(taken)} (nvidia-smi tells who); CUDA_VISIBLE_DEVICES=N"
    return Finding("device", "notice", seen, f"{others} picks one")


def check_precision(precision: str) -> Finding:
    """Tell what trainer.precision=auto stands for here."""
    if precision == "bf16-mixed":
        return Finding("precision", "ok", "bf16-mixed: bfloat16 in hardware")
    advice = "nothing to do; newer hardware trains about twice as fast"
    return Finding("precision", "notice", f"{precision}: no bfloat16 in hardware", advice)


def check_extractors() -> Finding:
    """Tell which networks can score without a download, and whether a kept one is whole."""
    lite, cached = "efficientnet_lite0 and _lite2 (in packages)", inception_cache()
    dinov2 = sorted(cached.parent.glob("dinov2_*_pretrain.pth"))
    kept = ", ".join([lite, *(path.name.removesuffix("_pretrain.pth") for path in dinov2)])
    if not cached.is_file():
        advice = (
            "extractor=auto takes efficientnet_lite0; extractor=inception downloads Inception "
            f"(91 MiB), or put the file at {shown(cached)}"
        )
        return Finding("extractors", "notice", f"{kept}; no weights of Inception", advice)
    try:
        read_torch(cached, "Inception")
    except ValueError:
        seen = f"weights of Inception that cannot be read: {shown(cached)}"
        advice = "remove the file; extractor=inception downloads it again"
        return Finding("extractors", "trouble", seen, advice)
    return Finding("extractors", "ok", f"inception, {kept}")


def check_wandb(mode: str) -> Finding:
    """Tell what logger=wandb would do."""
    if mode == "offline":
        advice = "only for logger=wandb: wandb login, or later wandb sync"
        return Finding("W&B", "ok", "offline: no key here", advice)
    return Finding("W&B", "ok", mode)


def check_folder(
    topic: str, folder: Path, way_out: str, write_mb: int, slow_mb_per_s: float, min_free_gb: float
) -> Finding:
    """Tell how much room a folder has, and how fast a flushed file is written to it.

    Args:
        topic: what lies in it.
        folder: need not be there: the nearest one above it is looked at, and nothing is left.
        way_out: how to choose another one.
        write_mb: size of the file that is written.
        slow_mb_per_s: a notice below.
        min_free_gb: trouble below.
    """
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    free_gb = shutil.disk_usage(there).free / GB
    seen, place = f"{free_gb:.1f} GB free", f"in {shown(folder)}"
    if free_gb < min_free_gb:
        advice = f"a run needs {min_free_gb:g} GB: free some, or {way_out}"
        return Finding(topic, "trouble", f"{seen} {place}", advice)
    try:
        speed = write_speed(there, write_mb)
    except OSError as error:
        advice = f"let it be written to, or {way_out}"
        return Finding(topic, "trouble", f"{seen} {place}, but: {error.strerror}", advice)
    seen = f"{seen}, {speed:.0f} MB/s written {place}"
    if speed < slow_mb_per_s:
        advice = (
            f"a checkpoint of 350 MB takes {350 / speed:.0f} s; a local disk is faster: {way_out}"
        )
        return Finding(topic, "notice", seen, advice)
    return Finding(topic, "ok", seen)


def write_speed(folder: Path, write_mb: int) -> float:
    """Return how many MB a second reach the disk below a folder; nothing is left there.

    Raises:
        OSError: if it cannot be written to.
    """
    path = folder / f".mbgan-doctor-{os.getpid()}"
    block = os.urandom(MB)  # not what a file system compresses
    start = time.perf_counter()
    try:
        with path.open("xb") as file:
            for _ in range(write_mb):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
    return write_mb / (time.perf_counter() - start)


def shown(path: Path) -> str:
    """Return a path with the home folder as ~: its name is nobody's business in an issue."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def about() -> str:
    """Return the interpreter and the system in a few words."""
    return f"Python {platform.python_version()}, {platform.platform(terse=True)}"


def table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table: what was seen, and below it what to do."""
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column()
    for finding in findings:
        cell = Text(finding.seen)
        if finding.advice:
            cell.append(f"\n-> {finding.advice}", style="dim")
        lines.add_row(finding.topic, Text(finding.state, style=COLORS[finding.state]), cell)
    return lines
