"""Train a GAN in float64 on one process or two and save every gradient.

Used by test_ddp (a small GAN) and test_presets (one of conf/model, named after the other words).
"""

import sys

import lightning as L
import torch
from conftest import ArrayData, StopAfter, TinyCritic, preset_gan, tiny_gan
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from mbgan.augment import Translation


class Gradients(Callback):
    """Keeps what each optimizer is about to use."""

    def __init__(self):
        self.kept = []

    def on_before_optimizer_step(self, trainer, gan, optimizer):
        learning = [p for p in optimizer.param_groups[0]["params"] if p.requires_grad]
        self.kept.append([p.grad.clone() for p in learning])


class SaveRank(Callback):
    """Leaves each rank's weights in the run folder, as rank0.pt and so on."""

    def __init__(self, run_dir):
        self.run_dir = run_dir

    def on_train_end(self, trainer, gan):
        torch.save(gan.state_dict(), f"{self.run_dir}/rank{trainer.global_rank}.pt")


def remove_batch_norm(network):
    """Batch norm in training sees each rank's own share; dropout draws each rank's own mask."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.training:
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.Dropout):
                child.p = 0.0


def tiny():
    torch.manual_seed(0)  # the critic is made before tiny_gan seeds
    return tiny_gan(critic=TinyCritic(dropout=0.0), augment=Translation(0.125), n_critic=3)


def main(devices, out, *preset):
    gan = preset_gan(*preset) if preset else tiny()
    for network in (gan.generator, gan.generator_ema.train(), gan.critic):
        remove_batch_norm(network)
    gan.generator_ema.eval()
    gradients = Gradients()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto",
        max_epochs=-1,
        callbacks=[StopAfter(4 if preset else 6), gradients],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # Each rank's share holds whole groups of a minibatch statistic.
    data = ArrayData(10, 8, image_size=32, conditions=2) if preset else ArrayData(10, 4)
    trainer.fit(gan.double(), data)
    state = dict(gan.state_dict())
    torch.save((gradients.kept, state, gan.images_seen), f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
