"""What a run computes on."""

import logging
from functools import partial

import pytest
import torch
from conftest import ArrayData, preset_gan
from omegaconf import OmegaConf

from mbgan import assembly, devices


def trainer(**settings):
    asked = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "auto"}
    return OmegaConf.create(asked | settings)


@pytest.fixture
def bfloat16(monkeypatch):
    """Pretend that the hardware has it, or not, and that it is that many times as fast."""

    def pretend(there, speedup=None):
        monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: there)
        monkeypatch.setattr(devices, "bfloat16_speedup", lambda device: speedup)

    return pretend


@pytest.mark.parametrize(("speedup", "chosen"), [(2.0, "bf16-mixed"), (1.05, "32-true")])
def test_precision_is_what_was_measured_to_be_faster(bfloat16, caplog, speedup, chosen):
    bfloat16(True, speedup)
    with caplog.at_level(logging.INFO):
        assert devices.pick_precision(trainer()) == chosen
    assert f"precision {chosen}: convolutions are measured {speedup:.1f} times" in caplog.text


def test_several_processes_do_not_measure_as_they_might_not_agree(bfloat16):
    bfloat16(True, speedup=0.5)
    assert devices.pick_precision(trainer(devices=2)) == "bf16-mixed"


@pytest.mark.parametrize(
    ("asked", "used", "told"),
    [("auto", "32-true", False), ("bf16-mixed", "32-true", True), ("64-true", "64-true", False)],
)
def test_without_bfloat16_in_hardware_a_run_goes_on_in_float32(bfloat16, caplog, asked, used, told):
    bfloat16(False)
    assert devices.pick_precision(trainer(precision=asked)) == used
    line = "trainer.precision=bf16-mixed is slow on this cpu, which does not multiply bfloat16"
    assert (line in caplog.text) == told


def test_the_probe_leaves_threads_and_random_numbers_alone():
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    assert devices.bfloat16_speedup("cpu", rounds=1) > 0
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("compiler", "compiled"), [(True, True), (False, False)])
def test_networks_are_compiled_where_a_compiler_is(monkeypatch, caplog, compiler, compiled):
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/g++" if compiler else None)
    gan = preset_gan("wgan_gp")
    cfg = OmegaConf.create({"compile": "default", "trainer": trainer()})
    assembly.compile_networks(cfg, gan)
    assert (gan.critic._compiled_call_impl is not None) == compiled
    assert (gan.generator._compiled_call_impl is not None) == compiled
    assert ("compile=default needs a C++ compiler" in caplog.text) != compiled


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_compiles_by_triton_whatever_it_is_called(monkeypatch, accelerator):
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    assert not devices.can_compile(accelerator)


def test_an_unknown_mode_of_compile_is_refused():
    cfg = OmegaConf.create({"compile": "fast", "trainer": trainer()})
    with pytest.raises(ValueError, match=r"compile must be null or one of default, .*, got fast"):
        assembly.compile_networks(cfg, preset_gan("wgan_gp"))


@pytest.mark.slow
def test_compiled_networks_train_the_same_weights(fit):
    """Two turns of the paper's model without dropout; the penalty stays with PyTorch's kernels."""
    weights = []
    for compiled in (False, True):
        gan = preset_gan("wgan_gp", "model.critic.dropout=0", "model.n_critic=2")
        # Adam's first steps go by the gradient's sign, which rounding may turn where it is nearly 0
        gan.make_opt_g = gan.make_opt_d = partial(torch.optim.SGD, lr=0.1)
        if compiled:
            gan.compile_networks("default")
        fit(gan, batches=2, data=ArrayData(image_size=32))
        weights.append(torch.cat([w.detach().flatten() for w in gan.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)
