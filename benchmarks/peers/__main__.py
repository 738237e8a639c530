"""Train the paper's WGAN-GP by mbgan, torchgan, Lightning as in tutorials, and a plain loop.

python -m benchmarks.peers [rounds=3] [image_size=64] [batch_size=16] [name=peers] [clock=wall_s]:
writes benchmarks/results/NAME.json and prints it. clock=cpu_s, with one core, is for a machine that
others use, too. Nobody scores, draws samples or saves while it is measured. The peers' packages go
into a venv of their own here, which sees this environment's torch: all run on the same build.
"""

import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import measure
from benchmarks.workers import Worker, alternate, folder_of, python

VENV = Path(__file__).parent / ".venv"
PACKAGES = ["torchgan==0.1.0"]


def peers_python() -> str:
    """Return the interpreter of the peers' venv, made on first use."""
    program = VENV / "bin" / "python"
    ready = VENV / ".ready"
    if not ready.is_file():
        venv.create(VENV, with_pip=True, clear=True)
        # torchgan asks for torch>=1.2 and would fetch a build of its own: it gets this one's.
        subprocess.run([program, "-m", "pip", "install", "--no-deps", *PACKAGES], check=True)
        ours = sysconfig.get_paths()["purelib"]
        theirs = next((VENV / "lib").glob("python*")) / "site-packages"
        (theirs / "ours.pth").write_text(ours + "\n")
        ready.touch()
    return str(program)


def draw(folder: Path, image_size: int, n: int = 200) -> None:
    """Write images of noise in the layout of a class folder: what they show costs nothing."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def main() -> None:
    """Measure all in turn, and write the result."""
    given = {"rounds": "3", "image_size": "64", "batch_size": "16", "name": "peers"}
    given["clock"] = "wall_s"
    given |= dict(word.split("=", 1) for word in sys.argv[1:])
    size, batch, rounds = given["image_size"], given["batch_size"], int(given["rounds"])
    # torchgan's TensorBoard and Visdom backends want packages and a server of their own.
    quiet = {"TENSORBOARD_LOGGING": "0", "VISDOM_LOGGING": "0", "CONSOLE_LOGGING": "0"}
    with tempfile.TemporaryDirectory(prefix="mbgan-peers-") as scratch:
        root = Path(scratch)
        draw(root / "data" / "100x" / "noise", int(size))
        data = [f"data.root={root / 'data'}", "data=folder", "magnification=100x"]
        data += [f"image_size={size}", f"batch_size={batch}", f"cache_dir={root / 'cache'}"]
        words = [str(root / "data" / "100x"), size, batch]

        def folder(name: str) -> Path:
            return folder_of(root, name)

        ours = python("benchmarks.ours", folder("ours"), "steps", 1, *data)
        full = python(
            "benchmarks.ours", folder("full"), "steps", 1, *data, "trainer.precision=32-true"
        )
        tutorial = python("benchmarks.peers.lightning_worker", *words, folder("lightning"))
        theirs = [peers_python(), "-m", "benchmarks.peers.torchgan_worker", *words]
        speeds, memory = alternate(
            {
                "mbgan": Worker(ours),
                "mbgan, float32": Worker(full),
                "torchgan": Worker([*theirs, str(folder("torchgan"))], quiet),
                "Lightning, as in tutorials": Worker(tutorial),
                "plain loop": Worker(python("benchmarks.plain", "train", size, batch, "fp32")),
            },
            rounds,
            given["clock"],
        )
    found = {}
    facts = {"image_size": int(size), "batch_size": int(batch), "clock": given["clock"]}
    for name, values in speeds.items():
        found[f"peers/{name}"] = measure.record("images/s", values, **facts)
        found[f"peers/{name}/memory"] = measure.record("MiB", [memory[name]["peak"]])
        if name != "mbgan":
            found[f"peers/mbgan against {name}"] = measure.ratios(speeds["mbgan"], values)
    for name, measured in found.items():
        print(f"{name}: {measure.said(measured)}")
    out = measure.ROOT / "benchmarks" / "results" / f"{given['name']}.json"
    content = {"machine": measure.machine() | {"peers": PACKAGES}, "measures": found}
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
