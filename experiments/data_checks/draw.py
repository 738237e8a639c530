"""Draw a phantom with planted faults, once, and print where it lies: python draw.py SEED."""

import os
import sys

from mbgan.data.phantom import phantom_dir

COUNTS = {"10x": 350, "100x": 350}
EACH = 20  # of each fault at each magnification


def main() -> None:
    """Print the folder of the set."""
    cache_dir = os.environ.get("MBGAN_CACHE", "~/.cache/mbgan")
    print(phantom_dir(cache_dir, int(sys.argv[1]), COUNTS, EACH))


if __name__ == "__main__":
    main()
