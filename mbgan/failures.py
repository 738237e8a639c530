"""What goes wrong outside of this program and has no class of its own, told in one sentence."""

import errno
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KNOWN = {  # in PyTorch's words, and in ours
    r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory": (
        "memory must hold a batch and the networks, and was short; lower batch_size, image_size or "
        "the networks' width, or end what else runs on this machine"
    ),
    r"DataLoader worker .*(exited unexpectedly|killed by signal)": (
        "a process that prepares batches is gone; if memory was short, set data.num_workers=0"
    ),
    r"does not have a deterministic implementation": (
        "trainer.deterministic=true needs operations that give the same bits every time, and this "
        "device lacks one; set trainer.deterministic=warn to be told where, or false"
    ),
}

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Make a ValueError, with the way out, of an error that the machine caused.

    Raises:
        ValueError: in place of one of KNOWN; any other error stays as it is.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error  # what builds networks by name wraps it
        said = "out of memory" if isinstance(cause, MemoryError) else str(cause)
        for pattern, sentence in KNOWN.items():
            if isinstance(cause, RuntimeError | MemoryError) and re.search(pattern, said):
                first = f" ({said.splitlines()[0].strip()})" if said != "out of memory" else ""
                raise ValueError(f"{sentence}{first}") from None
        raise


@contextmanager
def writing_to(run: Path) -> Iterator[None]:
    """Say of an error of the disk, which may not know its file, where it was and how to go on.

    Files are written under names that nobody needs to know.

    Raises:
        OSError: in place of one of DISK that says nothing more yet.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK or error.__cause__ is not None:
            raise
        raise OSError(
            error.errno,
            f"cannot write into {run} ({error.strerror}); make room there, then go on from the "
            f"last checkpoint with resume={run}",
        ) from error


def lost_a_rank(error: BaseException) -> bool:
    """Tell whether a process failed because it does not reach another one of its run."""
    from torch.distributed import DistError  # not for every --help

    # gloo's errors have no type of their own
    gone = r"Connection (reset|closed|refused)|Broken pipe|gloo.*[Tt]imed out|[Tt]imeout .*gloo"
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and bool(re.search(gone, str(error)))
    )


def sign_of_life(folder: Path, rank: int) -> Path:
    """Return the file that a rank leaves when it has lost another."""
    return folder / f".rank{rank}.alive"


def silent_ranks(folder: Path, rank: int, world_size: int, wait_s: float = 5) -> list[int]:
    """Return which ranks of a run do not answer, when this one has lost another.

    Those that live lose it too: each leaves a file and looks for those of the others.

    Args:
        folder: that all ranks see.
        rank: this one.
        world_size: number of ranks.
        wait_s: seconds that are given to the others.
    """
    signs = {each: sign_of_life(folder, each) for each in range(world_size)}
    signs[rank].touch()
    time.sleep(wait_s)
    silent = [each for each, sign in signs.items() if not sign.exists()]
    time.sleep(wait_s / 2)  # for those who look later
    signs[rank].unlink(missing_ok=True)
    return silent
