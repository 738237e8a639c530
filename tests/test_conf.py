from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mbgan.assembly import assemble, record_config
from mbgan.callbacks.wandb import finished
from mbgan.metrics import features
from mbgan.runs import Run
from mbgan.verbs import conf_dir, known_settings, register_resolvers

OF_PREPARE = ("checks", "fields", "naming", "stain")
GROUPS = sorted(
    f"{path.parent.name}={path.stem}"
    for path in conf_dir().glob("*/*.yaml")
    if path.parent.name not in (*OF_PREPARE, "show")
)
NEEDS_GPU = {"trainer=gpu", "trainer=ddp", "trainer=slurm"}
NEEDS_WEIGHTS = {"extractor=inception", "extractor=dinov2", "extractor=local"}
VERBS = (
    *("prepare", "train", "generate", "evaluate", "explore", "compare", "dashboard"),
    *("reader_study", "utility", "detect", "export", "privacy"),
)


def unreachable(weights=None):
    raise FileNotFoundError("no Inception weights in tests")


@pytest.fixture
def config():
    """Compose a verb's config as the command line would."""
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield lambda name, overrides: compose(name, overrides)


@pytest.mark.parametrize("choice", GROUPS)
def test_every_choice_composes_builds_and_trains_a_batch(
    config, choice, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "InceptionV3", unreachable)  # extractor=auto asks no network
    monkeypatch.chdir(tmp_path)  # mlflow.db lies where one is
    overrides = [o for o in small if not o.startswith("hydra")]
    overrides += [f"run_dir={tmp_path}/run", "image_size=16", "total_images=4", choice]
    if choice == "data=phantom":
        overrides = [o for o in overrides if not o.startswith("data")]
        overrides += ["magnification=10x", "data.root.counts={10x: 11}"]
    if choice == "data=prepared":
        with pytest.raises(FileNotFoundError, match=r"must be a folder that mbgan.prepare made"):
            assemble(config("train", overrides))
        return
    if choice == "trainer=ddp_cpu":
        overrides.append("trainer.devices=1")  # test_train starts the second process
    if choice in NEEDS_GPU and not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"trainer.devices must be at most the number of GPUs"):
            assemble(config("train", overrides))
        return
    if choice in NEEDS_WEIGHTS or choice.startswith("experiment"):
        overrides.append("extractor=efficientnet_lite0")  # tests/metrics load the others
    if choice in ("regularizer=none", "regularizer=lecam", "augment=ada"):  # not for Wasserstein
        overrides.append("model=dcgan")
    if choice == "model=projected":  # judged by another network than its critic's
        overrides.append("extractor=efficientnet_lite2")
    if choice in ("experiment=first_light", "experiment=small_data_recipe"):
        overrides.append("data.n_train=13")
    cfg = config("train", overrides)
    parts = assemble(cfg)
    record_config(parts, cfg, Run(tmp_path / "run"))
    with finished():  # or the next test's W&B run would be this one
        parts.trainer.fit(parts.gan, parts.datamodule)
    assert parts.gan.images_seen >= 4
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


def test_the_saved_config_has_all_that_the_extractor_was_told(config, small, tmp_path, monkeypatch):
    """A resume or an evaluation from elsewhere would otherwise score by another one."""
    monkeypatch.setattr(
        features, "InceptionV3", lambda weights, tap, download: features.EfficientNetLite0()
    )
    overrides = [o for o in small if not o.startswith("hydra")]
    overrides += [f"run_dir={tmp_path}/run", "extractor=inception", "extractor.tap=64"]
    parts = assemble(cfg := config("train", [*overrides, "extractor.weights=inception.pth"]))
    record_config(parts, cfg, Run(tmp_path / "run"))
    parts.trainer.callbacks[-1].on_train_start(parts.trainer, parts.gan)
    saved = OmegaConf.load(Run(tmp_path / "run").config).extractor
    assert (saved._target_, saved.tap) == ("mbgan.metrics.features.InceptionV3", 64)
    assert saved.weights == str(Path("inception.pth").absolute())


@pytest.mark.parametrize("group", OF_PREPARE)
def test_every_choice_of_prepare_builds(config, group):
    for path in (conf_dir() / group).glob("*.yaml"):
        cfg = config("prepare", [f"{group}={path.stem}"])
        built = instantiate(cfg[group], _convert_="all")
        assert built, path


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_refuses_a_setting_that_its_files_do_not_have(config, name):
    with pytest.raises(HydraException, match="Could not override 'sead'"):
        config(name, ["sead=1"])


def test_paper_preset_is_the_paper(config):
    cfg = config("train", [])
    model = cfg.model
    assert (cfg.image_size, cfg.batch_size, model.generator.z_dim) == (256, 128, 128)
    assert (model.critic.width, model.critic.dropout, cfg.regularizer.gp_weight) == (64, 0.3, 10)
    assert (model.make_opt_g.lr, model.make_opt_d.lr, model.critic_batches) == (2e-4, 2e-4, "same")


def test_an_experiment_wins_over_its_model_and_the_command_line_over_both(config):
    assert config("train", ["experiment=quick_start"]).model.critic.dropout == 0
    both = config("train", ["experiment=quick_start", "regularizer.gp_weight=3", "augment=none"])
    assert both.model.regularizer.gp_weight == 3
    assert both.model.augment._target_ == "mbgan.augment.Augment"


def test_known_settings_are_those_of_the_composed_config(config):
    names = known_settings()
    for name in ("total_images", "model.critic.dropout", "data.n_train", "trainer.devices"):
        assert name in names
        found = OmegaConf.select(config("train", ["data=folder"]), name, default="missing")
        assert found != "missing"
