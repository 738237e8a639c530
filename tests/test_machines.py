"""Two machines, played by two network namespaces of this one: what torchrun --nnodes trains."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_train import process, weights

from mbgan import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and ip"
    ),
]


def ip(*words, check=True):
    subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def machines():
    """Names of two namespaces, joined by a cable."""
    names = ["mbgan1", "mbgan2"]
    for name in names:
        ip("netns", "del", name, check=False)
        ip("netns", "add", name)
    ip("link", "add", "mbgan-a", "type", "veth", "peer", "name", "mbgan-b")
    for place, (name, end) in enumerate(zip(names, ("mbgan-a", "mbgan-b"), strict=True), 1):
        ip("link", "set", end, "netns", name)
        ip("-n", name, "addr", "add", f"10.77.0.{place}/24", "dev", end)
        ip("-n", name, "link", "set", end, "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield names
    for name in names:
        ip("netns", "del", name)


def start(machines, arguments):
    """Start a rank on each machine, as the README says."""
    return [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"),
                *("--master-addr=10.77.0.1", "--master-port=29511", "-m", "mbgan.train"),
                *(*arguments, "trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2"),
            ],
            env=os.environ | {"GLOO_SOCKET_IFNAME": f"mbgan-{'ab'[rank]}", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, name in enumerate(machines)
    ]


def rank_in(machine):
    """The process id of the rank that trains on a machine, not of its torchrun."""
    pids = subprocess.run(["ip", "netns", "pids", machine], capture_output=True, text=True).stdout
    for pid in map(int, pids.split()):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read()
        if b"mbgan.train" in command and b"torch.distributed.run" not in command:
            return pid
    raise AssertionError(f"no rank on {machine}")


@pytest.fixture
def exact(small):
    """A small run in double precision, whose batch two and three ranks can share."""
    return [*small, "model=r3gan_lite", "batch_size=6", "trainer.precision=64-true"]


def assert_same_weights(run, other):
    ours, theirs = weights(run), weights(other)
    assert ours["counters"] == theirs["counters"]
    for name, value in ours["state_dict"].items():
        torch.testing.assert_close(value, theirs["state_dict"][name], rtol=0, atol=1e-8)


def test_two_machines_train_the_weights_of_one(call, exact, machines, tmp_path):
    code, err = call(train.main, *exact)
    assert code == 0, err
    pair = start(machines, [*exact, f"hydra.run.dir={tmp_path}/pair"])
    errors = [each.communicate(timeout=300)[1] for each in pair]
    assert [each.returncode for each in pair] == [0, 0], errors
    assert_same_weights(tmp_path / "pair", tmp_path / "run")
    assert json.loads((tmp_path / "pair/run.json").read_text())["devices"] == 2
    assert "images seen" in errors[0]
    assert "images seen" not in errors[1]  # the first rank says it all


def test_a_killed_rank_ends_the_others_and_the_run_goes_on_anywhere(exact, machines, tmp_path):
    run = tmp_path / "run"
    pair = start(machines, [*exact, "total_images=100_000"])
    while not (run / "checkpoints/last.ckpt").is_file():
        assert all(each.poll() is None for each in pair), [e.communicate()[1] for e in pair]
        time.sleep(0.2)
    os.kill(rank_in(machines[1]), signal.SIGKILL)
    errors = [each.communicate(timeout=60)[1] for each in pair]  # within a minute
    assert "error: another of the 2 processes of this run is gone" in errors[0]
    assert f"python -m mbgan.train resume={run}" in errors[0]
    assert "Traceback" not in errors[0].partition("torch/distributed/")[0]  # torchrun's comes after
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    for devices in (1, 3):
        saved = weights(run)["counters"]["images_seen"]
        more = process(
            [
                *(f"resume={run}", f"trainer.devices={devices}", "trainer.num_nodes=1"),
                f"total_images={saved + 24}",
            ]
        )
        _, err = more.communicate(timeout=300)
        assert more.returncode == 0, err
        assert weights(run)["counters"]["images_seen"] == saved + 24
    pair = start(machines, [f"resume={run}", f"total_images={saved + 48}"])
    errors = [each.communicate(timeout=300)[1] for each in pair]
    assert [each.returncode for each in pair] == [0, 0], errors
    assert weights(run)["counters"]["images_seen"] == saved + 48


SLURM = {  # of one job of two nodes, which are the two machines
    "sbatch": """
        export SLURM_JOB_ID=77 SLURM_NNODES=2
        export SLURM_JOB_NUM_NODES=2 SLURM_NTASKS=2 SLURM_JOB_NODELIST='10.77.0.[1-2]'
        cp "$1" "$0.script"
        setsid bash "$1" >"$0.log" 2>&1 &
        echo Submitted batch job 77
    """,
    "srun": """
        while [[ $1 != *python* ]]; do shift; done
        for node in 0 1; do
            SLURM_NODEID=$node SLURM_PROCID=$node SLURM_LOCALID=0 \\
            GLOO_SOCKET_IFNAME=mbgan-$(echo ab | cut -c$((node + 1))) \\
                ip netns exec mbgan$((node + 1)) "$@" &
        done
        wait
    """,
    "sacct": "printf 'JobID|State|NodeList\\n77|RUNNING|10.77.0.[1-2]\\n'",
}


def test_slurm_trains_on_two_nodes_by_a_script_of_submitit(call, exact, machines, tmp_path):
    assert call(train.main, *exact)[0] == 0
    for name, script in SLURM.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{script}")
        path.chmod(0o755)
    job = [override for override in exact if not override.startswith(("hydra", "trainer="))]
    submitted = subprocess.run(
        [
            *(sys.executable, "-m", "mbgan.train", "trainer=slurm", *job),
            *("trainer.num_nodes=2", "trainer.accelerator=cpu", f"hydra.sweep.dir={tmp_path}/s"),
            "hydra.launcher.partition=pathology",
        ],
        env=os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert submitted.returncode == 0, submitted.stderr
    asked = (tmp_path / "bin/sbatch.script").read_text()
    for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=1", "partition=pathology"):
        assert f"#SBATCH --{line}\n" in asked
    assert_same_weights(tmp_path / "s/job", tmp_path / "run")
    assert json.loads((tmp_path / "s/job/run.json").read_text())["devices"] == 2
