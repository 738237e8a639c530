"""Train a small GAN in float64 on one process or two and save every gradient; used by test_ddp."""

import sys

import lightning as L
import torch
from conftest import ArrayData, StopAfter, TinyCritic, tiny_gan
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from mbgan.augment import Translation


class Gradients(Callback):
    """Keeps what each optimizer is about to use."""

    def __init__(self):
        self.kept = []

    def on_before_optimizer_step(self, trainer, gan, optimizer):
        self.kept.append([p.grad.clone() for p in optimizer.param_groups[0]["params"]])


def main(devices, out):
    torch.manual_seed(0)  # the critic is made before tiny_gan seeds
    gan = tiny_gan(critic=TinyCritic(dropout=0.0), augment=Translation(0.125), n_critic=3)
    gan.generator.norm = nn.Identity()  # batch norm sees each rank's own share
    gan.generator_ema.norm = nn.Identity()
    gradients = Gradients()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto",
        max_epochs=-1,
        callbacks=[StopAfter(6), gradients],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(gan.double(), ArrayData(n=10, batch_size=4))
    state = dict(gan.state_dict())
    torch.save((gradients.kept, state, gan.images_seen), f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
