"""Makes the mistakes of README's troubleshooting table; what each prints goes into results.csv.

python experiments/errors/mistakes.py [NAME...]    # all: a minute on one core; mounts a small disk

Each is the command itself, in a process of its own: a copy of one that has imported everything.
"""

import csv
import os
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SMALL = (
    *("data=folder", "data.root=DIR/images", "magnification=40x", "image_size=32", "batch_size=4"),
    *("total_images=8", "eval_every=8", "full_metrics=null", "metrics.max_images=3"),
    *("extractor=efficientnet_lite0", "model=wgan_gp_small", "model.generator.width=4"),
    *("model.critic.width=4", "trainer=cpu", "hydra.run.dir=DIR/RUN"),
)
MISTAKES = {  # name -> overrides of mbgan.train, besides SMALL or (resume) alone
    "magnification": ["magnification=20x"],
    "typo": ["batchsize=8"],
    "devices": ["trainer=auto", "trainer.devices=4"],
    "multiple": ["trainer=ddp_cpu", "trainer.devices=3"],
    "no_weights": ["extractor=inception"],
    "nan": ["total_images=4000", "model.make_opt_g.lr=1e30", "model.make_opt_d.lr=1e30"],
    "memory": ["model.generator.width=2048", "model.critic.width=2048"],
    "disk": ["hydra.run.dir=DIR/disk/run"],
    "none": [],
    "twice": ["hydra.run.dir=DIR/none"],
    "others": ["resume=DIR/none", "total_images=16"],
}
LIMIT = 8 * 2**30  # bytes of address space, for the mistake "memory"


def main(names: list[str]) -> None:
    """Make them in this order: twice and others need what none leaves."""
    scratch = Path(tempfile.mkdtemp())
    os.environ |= {"MBGAN_CACHE": f"{scratch}/cache", "TORCH_HOME": f"{scratch}/torch"}
    draw(scratch / "images")
    import mbgan.assembly  # noqa: F401 - into the process that the others are copies of

    with (HERE / "results.csv").open() as file:
        printed = {row["mistake"]: row["printed"] for row in csv.DictReader(file)}
    for name in names or MISTAKES:
        if name == "disk":
            (scratch / "disk").mkdir()
            small = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(scratch / "disk")]
            subprocess.run(small, check=True)
        if name == "others":
            draw(scratch / "images", 16, 17)
        said = make(name, scratch)
        if name == "disk":
            subprocess.run(["umount", str(scratch / "disk")], check=True)
        if name != "none":
            printed[name] = said.replace(str(scratch), "DIR")
            print(name, printed[name], sep=": ", flush=True)
    shutil.rmtree(scratch)
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("mistake", "printed"), *printed.items()])


def make(name: str, scratch: Path) -> str:
    """Return the last line that a mistake prints on stderr."""
    words = MISTAKES[name] if name == "others" else [*SMALL, *MISTAKES[name]]
    words = [word.replace("DIR", str(scratch)).replace("RUN", name) for word in words]
    log = scratch / "stderr.txt"
    if (child := os.fork()) == 0:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        os.dup2(file, 1)
        sys.argv = ["mbgan.train", *words]
        if name == "memory":
            resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
        runpy.run_module("mbgan.train", run_name="__main__", alter_sys=True)
        os._exit(0)
    os.waitpid(child, 0)
    return (log.read_text().strip() or "nothing").splitlines()[-1]


def draw(folder: Path, first: int = 0, end: int = 16) -> None:
    """Save noise as images of two classes."""
    for i in range(first, end):
        path = folder / "40x" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(noise).save(path)


if __name__ == "__main__":
    main(sys.argv[1:])
