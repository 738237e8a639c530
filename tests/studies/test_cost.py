"""What a training costs: arithmetic anybody can do again, and words that say what is assumed."""

import pytest
from omegaconf import OmegaConf

from mbgan.studies.cost import Cost, on_gpus, table
from mbgan.verbs import conf_dir

HARDWARE = {
    "cpu_watts": 65,
    "share": 0.5,
    "gpus": {
        "New": {"bf16": 100, "fp32": 10, "watts": 400},
        "Old": {"bf16": None, "fp32": 10, "watts": 70},
    },
}
SPEED = {
    "device": "CPU, 2 threads",
    "gpu": False,
    "images_per_s": 10.0,
    "steps_timed": 10,
    "batch_size": 8,
    "flops_per_image": 1e12,
    "memory_bytes": 2**30,
    "watts": None,
}


def test_hours_are_images_over_speed_and_energy_is_power_times_hours():
    cost = Cost(images=72_000, images_per_s=10, watts=500)
    assert cost.hours == 2
    assert cost.kwh == 1


def test_a_gpu_is_as_fast_as_its_share_of_its_peak_in_the_precision_it_has():
    """Half of 100 TFLOP/s in bf16 are 50 images of a TFLOP; without bf16 fp32 counts."""
    costs = on_gpus(1000, 1e12, HARDWARE)
    assert {name: cost.images_per_s for name, cost in costs.items()} == {"New": 50, "Old": 5}
    assert costs["Old"].kwh == pytest.approx(70 * 200 / 3600 / 1000)


def test_the_table_says_what_is_measured_assumed_and_estimated():
    said = table(SPEED, 2, images=72_000, total_images=100_000, hardware=HARDWARE)
    assert "72,000 of 100,000 images are left" in said
    assert "10 critic steps at batch size 8; 1e+03 GFLOP an image; memory at most 1.00 GiB" in said
    (here,) = (line for line in said.splitlines() if line.startswith("2 x CPU"))
    assert here.split()[5:8] == ["10", "2.00", "0.26"]  # two of 65 W for two hours
    assert "130 W, assumed" in here
    assert said.count(", estimate ") == len(HARDWARE["gpus"])
    assert "a share of 0.5 is assumed" in said


def test_a_gpu_whose_power_cannot_be_measured_is_not_taken_for_a_cpu():
    with pytest.raises(ValueError, match="nvidia-smi does not say"):
        table(SPEED | {"gpu": True}, 1, 10, 10, HARDWARE)
    said = table(SPEED | {"gpu": True, "watts": 300.0}, 4, 10, 10, HARDWARE)
    assert "1,200 W, measured by nvidia-smi" in said


def test_every_gpu_of_conf_has_what_an_estimate_needs():
    hardware = OmegaConf.to_container(OmegaConf.load(conf_dir() / "hardware" / "default.yaml"))
    assert 0 < hardware["share"] < 1
    for cost in on_gpus(1000, 1e9, hardware).values():
        assert cost.hours > 0
        assert 50 < cost.watts < 1000
