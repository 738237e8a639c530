import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from mbgan.studies.animation import save_animation


def frames():
    """Five frames of 32 x 48 pixels: red grows, the right half is blue."""
    x = torch.zeros(5, 3, 32, 48, dtype=torch.uint8)
    x[:, 0] = torch.arange(40, 240, 40)[:, None, None]
    x[:, 2, :, 24:] = 250
    return x


def read_gif(path):
    with Image.open(path) as image:
        every = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        return np.stack(every), 1000 / image.info["duration"], image.info["loop"]


def read_mp4(path):
    video, every = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        every.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return np.stack(every), video.get(cv2.CAP_PROP_FPS), 0


@pytest.mark.parametrize(("name", "read"), [("a.gif", read_gif), ("a.mp4", read_mp4)])
def test_an_animation_reads_back_with_its_frames_colors_and_speed(tmp_path, name, read):
    """Within what the formats lose: 256 colors, and half of the color's resolution."""
    save_animation(frames(), tmp_path / "new" / name, fps=20)
    back, fps, loop = read(tmp_path / "new" / name)
    assert (len(back), fps, loop) == (5, 20, 0)  # a GIF's 0 is endless
    expected = frames().permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(back - expected).mean() < 5


@pytest.mark.parametrize(
    ("name", "fps", "message"),
    [
        ("a.avi", 20, "format must be one of gif, mp4, got 'avi'"),
        ("a.gif", 0, "fps must be at least 1 frame a second, got 0"),
    ],
)
def test_other_formats_and_speeds_are_refused(tmp_path, name, fps, message):
    with pytest.raises(ValueError, match=message):
        save_animation(frames(), tmp_path / name, fps)
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_written_is_an_error(tmp_path, capfd):
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(OSError, match=r"no video can be written to .*; try format=gif"):
        save_animation(frames(), tmp_path / "a.mp4", fps=20)
