"""Images a second of each run in runs.csv, on one core: python measure.py DIR [SECONDS].

Prints how many images each would see in ten CPU minutes; runs.csv holds these, so that a run is
as long on a busy machine as on an idle one.
"""

import csv
import shlex
import sys
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from mbgan.assembly import assemble
from mbgan.callbacks.timing import StepTimer
from mbgan.verbs import conf_dir, register_resolvers

HERE = Path(__file__).parent


def speed(words: list[str], root: str, seconds: float) -> float:
    """Return images a second of one run, without evaluations."""
    words = [*words, f"data.root={root}", f"run_dir={tempfile.mkdtemp()}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["experiment=small_data_recipe", *words])
    cfg.callbacks, cfg.logger = {}, {}
    parts, timer = assemble(cfg), StepTimer(seconds)
    parts.trainer.callbacks.append(timer)
    parts.trainer.fit(parts.gan, parts.datamodule)
    return timer.images_per_s


def main(root: str, seconds: str = "20") -> None:
    """Print name, images a second, and images in ten minutes."""
    torch.set_num_threads(1)
    register_resolvers()
    with (HERE / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    seen: dict[str, float] = {}
    for row in rows:
        if row["words"] not in seen:
            seen[row["words"]] = speed(shlex.split(row["words"]), root, float(seconds))
            rate = seen[row["words"]]
            print(
                f"{row['name']:24} {rate:7.1f} images/s {600 * rate:9.0f} in 10 minutes", flush=True
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
