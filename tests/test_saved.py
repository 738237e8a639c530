"""Saved configs: what may be built of one, what it may refer to, and how large it may grow."""

import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mbgan.saved import MAX_SIZE, TRUST, portable, read_config, targets
from mbgan.verbs import conf_dir, register_resolvers

GROUPS = ("model", "data", "transforms", "regularizer", "augment", "metrics", "logger", "extractor")
CHOICES = [  # of every group a file, until each had its turn
    [f"{group}={files[turn % len(files)]}" for group, files in zip(GROUPS, offered, strict=True)]
    for offered in [[sorted(p.stem for p in (conf_dir() / g).glob("*.yaml")) for g in GROUPS]]
    for turn in range(max(map(len, offered)))
]


@pytest.fixture(scope="module")
def composed():
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield lambda *overrides: compose("train", ["run_dir=runs/1", *overrides])


@pytest.fixture(scope="module")
def base(composed):
    return OmegaConf.to_yaml(portable(composed()))


@pytest.fixture
def saved(base, tmp_path):
    """Read a config back that somebody added lines to."""

    def read(lines, text=base):
        path = tmp_path / "config.yaml"
        path.write_text(f"{text}\n{lines}\n")
        return read_config(path)

    return read


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_whatever_conf_offers_is_read_back_as_it_was(saved, composed, choice, monkeypatch):
    monkeypatch.setenv(TRUST, "mbgan.metrics.encoders.Local")  # TorchScript; see below
    cfg = composed(*choice, "sweep=optuna")
    again = saved("", OmegaConf.to_yaml(portable(cfg)))
    assert targets(again) == targets(cfg)
    assert OmegaConf.to_container(again, resolve=False) == OmegaConf.to_container(
        cfg, resolve=False
    )


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "subprocess.Popen", "builtins.eval", "builtins.open", "functools.partial"),
        *("mbgan.verbs.os.system", "mbgan.sweeps.subprocess.Popen", "mbgan.verbs.Run"),
        *("mbgan.runs.write_text", "mbgan.sweeps.run_relayed", "mbgan.saved.instantiate"),
        *("torch.load", "torch.hub.load", "torch.optim.lr_scheduler.LambdaLR", "torch.optim.os"),
        *("hydra.utils.get_method", "lightning.pytorch.loggers.os", "lightning.LightningModule"),
        *("albumentations.from_dict", "albumentations.core.serialization.load", "__main__.main"),
        *("mbgan.networks.dcgan.DCGANGenerator.__init__", "mbgan", "..os.system", "os..system"),
        *("${model.loss._target_}", "mbgan.metrics.encoders.Local", "mbgan.no.such.Thing"),
    ],
)
def test_nothing_else_is_built(saved, name):
    """A class that another module of ours imports is not at home there; a function may do harm."""
    with pytest.raises(ValueError, match=r"has zz\.0\._target_=.*a saved config may|TorchScript"):
        saved(f"\nzz: [{{_target_: '{name}'}}]\n")


def test_what_the_user_trusts_by_name_is_built(saved, monkeypatch):
    monkeypatch.setenv(TRUST, "somebody.models, os.path.join")
    for name in ("somebody.models.Net", "os.path.join"):
        assert saved(f"\nzz: {{_target_: {name}}}\n").zz._target_ == name
    for name in ("somebody.modelsx.Net", "os.path.joint"):
        with pytest.raises(ValueError, match=f"set {TRUST}=NAME"):
            saved(f"\nzz: {{_target_: {name}}}\n")


@pytest.mark.parametrize("architecture", ["null", "'${augment.none}'", "[x]"])
def test_torchscript_of_a_saved_config_is_a_program(saved, architecture):
    local = "{_target_: mbgan.metrics.encoders.Local, weights: x.pt, architecture: %s}"
    with pytest.raises(ValueError, match="a TorchScript file is a program"):
        saved("\nzz: " + local % architecture + "\n")
    assert saved("\nzz: " + local % "vit_small" + "\n").zz.architecture == "vit_small"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${oc.env:SECRET}", "must refer to its own settings only"),
        ("${oc.env:MBGAN_CACHE,${oc.env:SECRET}}", "must refer to its own settings only"),
        ("'${oc.create:\"{_target_: os.system}\"}'", "must refer to its own settings only"),
        ("${oc.decode:x}", "must refer to its own settings only"),
        ("${hydra:runtime.cwd}", "must refer to its own settings only"),
        ("$${seed}{oc.env:SECRET}", "must refer to its own settings only"),
        (r"'\\${oc.env:SECRET}'", "must refer to its own settings only"),
        ("${${seed}}", "must refer to its own settings only"),
        ("{run_dir: /home/somebody}", r"must have zz\.run_dir=\$\{run_dir\}, got /home/somebody"),
        ("{a: {save_dir: ../..}}", r"must have zz\.a\.save_dir=\$\{run_dir\}"),
        ("&a [*a]", r"must have no YAML aliases, got \*a"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("{b: '${zz.b}'}", "refers to its own settings in circles"),
        ("${zz.b.c}", "refers to its own settings in circles"),
        ("${.zz}", "refers to its own settings in circles"),
        ("[" * 70 + "]" * 70, "must be nested at most 60 deep"),
        ("x" * 400_000, "must have at most 300000 bytes"),
        ("{a: b", "is not YAML"),
        ("{[a, b]: c}", "is no config"),
    ],
)
def test_a_saved_config_is_data_of_a_bounded_size(saved, value, message):
    with pytest.raises(ValueError, match=message) as refusal:
        saved(f"\nzz: {value}\n")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("lines", ["a{}: ['${{a{}}}', '${{a{}}}']", "a{}: '${{a{}}}${{a{}}}'"])
def test_references_that_double_each_other_are_counted_and_not_resolved(saved, lines):
    """Forty lines would stand for 10^12 values."""
    doubling = "\n".join(lines.format(i, i + 1, i + 1) for i in range(40))
    with pytest.raises(ValueError, match=f"at most {MAX_SIZE} characters"):
        saved(f"\n{doubling}\na40: x\n")


@pytest.mark.parametrize("missing", ["model", "data", "extractor"])
def test_a_config_without_a_part_is_named(saved, base, missing):
    with pytest.raises(ValueError, match=f"must have settings of {missing}, got 5"):
        saved("", re.sub(rf"^{missing}:\n(  .*\n)+", f"{missing}: 5\n", base, flags=re.M))


def test_what_a_user_has_computed_is_saved_as_its_value(composed, monkeypatch, tmp_path):
    """Or the run could not be read back; what conf/ looks up is looked up again elsewhere."""
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    kept = portable(composed("cache_dir=${oc.env:SCRATCH}/mbgan"))
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(kept))
    monkeypatch.delenv("SCRATCH")
    cfg = read_config(path)
    assert cfg.cache_dir == cfg.data.cache_dir == "/scratch/me/mbgan"
    path.write_text(OmegaConf.to_yaml(portable(composed())))
    monkeypatch.setenv("MBGAN_CACHE", "/elsewhere")
    assert read_config(path).data.cache_dir == "/elsewhere"
