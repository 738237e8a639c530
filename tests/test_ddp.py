import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "two_ranks.py"


def train(devices, out):
    subprocess.run([sys.executable, SCRIPT, str(devices), out], check=True, timeout=300)
    return [torch.load(f"{out}.{rank}") for rank in range(devices)]


@pytest.mark.ddp
def test_gradients_of_two_ranks_are_those_of_one_process(tmp_path):
    """Latents, penalty and augmentation are drawn for the whole batch and shared out.

    A backward outside Lightning's own would leave each rank with its own gradients, silently.
    """
    (alone,) = train(1, tmp_path / "one")
    first, second = train(2, tmp_path / "two")
    assert alone[2] == first[2] == 24  # images seen count the whole batch
    assert len(alone[0]) == len(first[0]) == 6 + 2  # critic and generator turns
    for ours, theirs, other in zip(first[0], second[0], alone[0], strict=True):
        for a, b, one in zip(ours, theirs, other, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, one, rtol=1e-10, atol=1e-14)
    for name, weight in alone[1].items():
        torch.testing.assert_close(first[1][name], weight, rtol=1e-10, atol=1e-12)
