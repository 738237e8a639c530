"""Small stand-ins for data and networks, and a way to run verbs inside the test process."""

import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from mbgan.augment import Augment
from mbgan.combinations import check_parts
from mbgan.data.fields import Squash
from mbgan.data.preparation import Preparation
from mbgan.data.quality import Check
from mbgan.data.stain import Identity
from mbgan.data.stream import BatchStream
from mbgan.data.verdicts import DuplicateRules
from mbgan.gan import GAN
from mbgan.images import Rows
from mbgan.losses import Wasserstein
from mbgan.networks import Critic, Generator
from mbgan.regularizers import GeneratorRegularizer, GradientPenalty
from mbgan.runs import Run, write_text
from mbgan.verbs import conf_dir, register_resolvers

os.environ["WANDB_MODE"] = "offline"
SHARED = Path(__file__).parents[2] / "shared"


class TinyGenerator(Generator):
    """A dense layer, batch norm and a convolution; 16 x 16 pixels."""

    def __init__(self):
        super().__init__(z_dim=4, image_size=16)
        self.dense = nn.Linear(4, 4 * 16 * 16)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, z, draws=None):
        return torch.tanh(self.conv(self.norm(self.dense(z).unflatten(1, (4, 16, 16)))))


class TinyCritic(Critic):
    """A strided convolution, dropout and a linear score."""

    def __init__(self, dropout=0.3):
        super().__init__(image_size=16, width_out=8 * 4 * 4)
        self.conv, self.dropout = nn.Conv2d(3, 8, 4, stride=4), nn.Dropout(dropout)

    def features(self, x):
        return self.dropout(nn.functional.leaky_relu(self.conv(x), 0.2)).flatten(1)


def tiny_gan(**kwargs):
    """A WGAN-GP of two small networks, the same weights every time."""
    torch.manual_seed(0)
    optimizer = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.9))
    settings = {
        "generator": TinyGenerator(),
        "critic": TinyCritic(),
        "loss": Wasserstein(),
        "regularizer": GradientPenalty(),
        "augment": Augment(),
        "make_opt_g": optimizer,
        "make_opt_d": optimizer,
        "n_critic": 2,
        "critic_batches": "fresh",
        "ema_half_life": 20,
    }
    return GAN(**settings | kwargs)


def compatible(generator, critic, loss, regularizer):
    """Raise if these do not go together."""
    check_parts(generator, critic, loss, regularizer, Augment(), GeneratorRegularizer())


def preset_gan(name, *overrides):
    """The GAN of conf/model/NAME.yaml at 32 pixels and width 4, the same weights every time."""
    small = ["image_size=32", "model.generator.width=4", "model.critic.width=4"]
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"model={name}", *small, *overrides])
    torch.manual_seed(0)
    gan = instantiate(cfg.model, _convert_="all")
    gan.condition_on([] if gan.condition == "none" else ["first", "second"], [1, 1])
    return gan


def field(seed, side=48):
    """Blots of hematoxylin and eosin, an image [side, side, 3]; another field for each seed."""
    amounts = np.random.default_rng(seed).random((10, 10, 2), dtype=np.float32) * 1.5
    amounts = cv2.resize(amounts, (side, side), interpolation=cv2.INTER_CUBIC).clip(0)
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    return np.rint(240 * np.exp(-amounts @ stains)).astype(np.uint8)


def put(root, name, rgb, **settings):
    """Save an image [H, W, 3] or [H, W, 4] below root, and return its path."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, **settings)
    return path


def preparation(out, **changes):
    """A preparation in this process; blank images are dropped."""
    settings = {
        "image_size": 32,
        "fields": Squash(),
        "checks": {"blank": Check("background", "drop", above=0.98)},
        "duplicates": DuplicateRules(),
        "normalizer": Identity(),
        "target": None,
        "shares": {"val": 0.25, "test": 0.25},
        "seed": 0,
        "workers": 1,
    }
    return Preparation(out, **settings | changes)


class ArrayData(L.LightningDataModule):
    """Random training images [n, 3, S, S] served as the real data module serves its own."""

    def __init__(self, n=10, batch_size=4, num_workers=0, image_size=16, conditions=0):
        super().__init__()
        shape = (n, 3, image_size, image_size)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.train = Rows(images, np.arange(n), np.arange(n) % conditions if conditions else None)
        self.train_files = [SimpleNamespace(name=f"{i:02d}.png") for i in range(n)]
        self.batch_size, self.num_workers = batch_size, num_workers

    def train_dataloader(self):
        stream = BatchStream(
            self.train,
            self.batch_size,
            seed=0,
            start=self.trainer.lightning_module.images_drawn,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return torch.utils.data.DataLoader(stream, batch_size=None, num_workers=self.num_workers)


class StopAfter(Callback):
    """Ends the endless stream after some batches, as the guard does after some images."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, trainer, *rest):
        self.left -= 1
        trainer.should_stop = self.left == 0


@pytest.fixture
def fit(tmp_path):
    """Train a GAN on random images for some batches and return its trainer."""

    def run(gan, batches, data=None, ckpt_path=None, callbacks=()):
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=-1,
            callbacks=[StopAfter(batches), *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(gan, data or ArrayData(), ckpt_path=ckpt_path, weights_only=True)
        return trainer

    return run


@pytest.fixture
def folder(tmp_path):
    """Sixteen 40 x 40 PNGs at 40x, eight of each of two classes."""
    rng = np.random.default_rng(0)
    for i in range(16):
        path = tmp_path / "images" / "40x" / ("tumor" if i % 2 else "normal") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def small(folder, tmp_path):
    """Overrides of mbgan.train for a run of seconds on `folder`."""
    return [
        "data=folder",
        f"data.root={folder}",
        "magnification=40x",
        "image_size=32",
        "batch_size=4",
        "total_images=40",
        "eval_every=20",
        "extractor=efficientnet_lite0",
        "metrics.max_images=3",
        "full_metrics.floor_splits=2",
        "trainer=cpu",
        "model.n_critic=2",
        "model.generator.width=4",
        "model.critic.width=4",
        f"cache_dir={tmp_path}/cache",
        f"hydra.run.dir={tmp_path}/run",
    ]


@pytest.fixture
def untrained(small, tmp_path):
    """The run folder of a preset whose training was stopped before its first step."""

    def make(model):
        register_resolvers()
        overrides = [f"model={model}", *small, f"run_dir={tmp_path}/run"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", [o for o in overrides if not o.startswith("hydra")])
        datamodule = instantiate(cfg.data, _convert_="all")
        datamodule.setup()
        torch.manual_seed(0)
        weights = instantiate(cfg.model.generator).state_dict()
        run = Run(tmp_path / "run")
        write_text(run.config, OmegaConf.to_yaml(cfg))
        data = {"sha256": datamodule.sha256, "n_train": len(datamodule.train)}
        data["n_held_out"] = len(datamodule.held_out)
        write_text(run.status, json.dumps({"data": data}))
        run.checkpoint("best").parent.mkdir()
        checkpoint = {"state_dict": {f"generator_ema.{k}": v for k, v in weights.items()}}
        checkpoint |= {"counters": {"images_seen": 0}, "conditions": [], "critic_extractor": None}
        torch.save(checkpoint, run.checkpoint("best"))
        return run.folder

    return make


@pytest.fixture
def full_disk(monkeypatch):
    """/dev/full stands in for the disk: writes to a new file fail as they do on a full one."""
    true_open = Path.open

    def open_full(path, mode="r", *args, **kwargs):
        if mode == "xb":
            true_open(path, mode).close()
            path, mode = Path("/dev/full"), "wb"
        return true_open(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)


@pytest.fixture
def call(monkeypatch, capfd):
    """Run a verb in this process; return its exit code and what it wrote to stderr."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["mbgan", *arguments])
        handlers, level = logging.root.handlers[:], logging.root.level
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            for handler in set(logging.root.handlers) - set(handlers):
                handler.close()
            logging.root.handlers = handlers
            logging.root.setLevel(level)
        return code, capfd.readouterr().err

    return run
