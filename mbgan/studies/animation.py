"""Frames as a file that plays: GIF for pages, MP4 for talks."""

from collections.abc import Callable
from pathlib import Path

import cv2
from PIL import Image
from torch import Tensor


def save_animation(frames: Tensor, path: Path, fps: int) -> None:
    """Write frames [N, 3, H, W], uint8, in the format that the path ends in, .gif or .mp4.

    Raises:
        ValueError: if the path ends otherwise, or fps is under 1.
        OSError: if the file cannot be written.
    """
    if path.suffix not in WRITERS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {path.suffix[1:]!r}")
    if fps < 1:
        raise ValueError(f"fps must be at least 1 frame a second, got {fps}")
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[path.suffix](frames, path, fps)


def save_gif(frames: Tensor, path: Path, fps: int) -> None:
    """Write frames as an endless GIF: 256 colors each, and times in hundredths of a second."""
    first, *others = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def save_mp4(frames: Tensor, path: Path, fps: int) -> None:
    """Write frames as MPEG-4 (part 2) video, which players take, browsers do not.

    Raises:
        OSError: if the file cannot be written.
    """
    height, width = frames.shape[2:]
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), codec, fps, (width, height))
    if not writer.isOpened():
        raise OSError(f"no video can be written to {path}; try format=gif")
    for frame in frames:
        writer.write(cv2.cvtColor(frame.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR))
    writer.release()


WRITERS: dict[str, Callable[[Tensor, Path, int], None]] = {".gif": save_gif, ".mp4": save_mp4}
FORMATS = tuple(ending[1:] for ending in WRITERS)
