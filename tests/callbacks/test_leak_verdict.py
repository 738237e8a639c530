import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TinyCritic, field, tiny_gan

from mbgan.augment import Augment, Cutout
from mbgan.callbacks.guard import Guard
from mbgan.callbacks.leaks import Leaks
from mbgan.images import Rows, from_uint8
from mbgan.latents import Draws
from mbgan.networks import Generator


class Stored(Generator):
    """Gives the images it was handed, in their order."""

    def __init__(self, x):
        super().__init__(4, 16)
        self.x, self.weight = x, torch.nn.Parameter(torch.zeros(1))

    def forward(self, z, draws=None):
        given, self.x = self.x[: len(z)], self.x[len(z) :]
        return given


def said(caplog, augment, x_fake, n_held_out=60):
    """What the callback logs at the end of a run whose generator gives x_fake, and how loudly."""
    images = np.stack([field(i, 16).transpose(2, 0, 1) for i in range(120)])
    data = SimpleNamespace(
        train=Rows(images, np.arange(60)),
        held_out=Rows(images, np.arange(60, 60 + n_held_out)),
        d4=True,
    )
    gan = tiny_gan(generator=Stored(x_fake), critic=TinyCritic(), augment=augment)
    guard = Guard(total_images=1, check_every=1)
    trainer = SimpleNamespace(datamodule=data, callbacks=[guard], loggers=[])
    gan.generator_ema = Stored(x_fake)
    with caplog.at_level(logging.INFO, "mbgan"):
        Leaks(n=60, seed=0).on_train_end(trainer, gan)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def fields():
    """Images of other fields than those of the data, [60, 3, 16, 16] in [-1, 1]."""
    return from_uint8(
        torch.stack([torch.from_numpy(field(i, 16)).permute(2, 0, 1) for i in range(200, 260)])
    )


def test_holes_learned_from_cutout_are_a_warning_and_clean_images_are_none(caplog):
    cutout = Cutout(0.5)
    holed = cutout(fields(), Draws(9, 0), "planted")
    ((level, text),) = said(caplog, cutout, holed)
    assert level == "WARNING"
    assert text.startswith("augmentation leaks: ")
    assert "hole in " in text
    caplog.clear()
    assert said(caplog, cutout, fields()) == [("INFO", "no leak of augmentation")]


def test_without_augmentation_or_with_too_few_images_nothing_is_said(caplog):
    assert said(caplog, Augment(), fields()) == []
    assert said(caplog, Cutout(0.5), fields(), n_held_out=39) == []


def test_too_few_to_tell_is_refused():
    with pytest.raises(ValueError, match=r"callbacks.leaks.n must be at least 40, got 39"):
        Leaks(n=39, seed=0)
