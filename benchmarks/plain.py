"""The paper's WGAN-GP as a PyTorch tutorial would write it: what mbgan is measured against.

The layers and sizes are those of mbgan.networks.wgan. float32, NCHW, torch's own dropout, real and
generated images in passes of their own, the penalty by autograd, Adam as it comes. Nothing here
knows of mbgan.

python -m benchmarks.plain train IMAGE_SIZE BATCH_SIZE fp32|bf16
python -m benchmarks.plain generate IMAGE_SIZE BATCH_SIZE IMAGES_A_TURN FOLDER
"""

import sys
from itertools import count, pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.workers import Gate

Z_DIM, N_CRITIC, GP_WEIGHT = 128, 5, 10.0


def generator(image_size: int) -> nn.Sequential:
    """Return the generator: z [N, 128] to images [N, 3, H, W] in [-1, 1]."""
    grid = image_size // 16
    layers: list[nn.Module] = [
        nn.Linear(Z_DIM, 512 * grid * grid),
        nn.Unflatten(1, (512, grid, grid)),
        nn.LeakyReLU(0.2),
    ]
    for c_in, c_out in pairwise((512, 256, 128, 64)):
        layers += [
            nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1),
            nn.BatchNorm2d(c_out, momentum=0.2),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, stride=2, padding=1), nn.Tanh())


def critic(image_size: int) -> nn.Sequential:
    """Return the critic: images [N, 3, H, W] to scores [N, 1]."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise((3, 64, 128, 256, 512)):
        layers += [
            nn.Conv2d(c_in, c_out, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * (image_size // 16) ** 2, 1))


def gradient_penalty(network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return E[(||grad D(x_hat)|| - 1)^2] [] (Gulrajani et al. 2017, eq. 3)."""
    t = torch.rand(len(real), 1, 1, 1)
    mixed = (t * real + (1 - t) * fake).requires_grad_(True)
    scores = network(mixed)
    (grad,) = torch.autograd.grad(scores, mixed, torch.ones_like(scores), create_graph=True)
    return ((grad.reshape(len(grad), -1).norm(2, dim=1) - 1) ** 2).mean()


def train(image_size: int, batch_size: int, precision: str, gate: Gate) -> None:
    """Train on noise, a turn of critic and generator at a time."""
    net_g, net_d = generator(image_size), critic(image_size)
    opt_g = torch.optim.Adam(net_g.parameters(), lr=2e-4, betas=(0.5, 0.9))
    opt_d = torch.optim.Adam(net_d.parameters(), lr=2e-4, betas=(0.5, 0.9))
    data = torch.rand(4 * batch_size, 3, image_size, image_size) * 2 - 1
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    images = 0
    while True:
        gate.wait(images)
        images = 0
        for _ in range(N_CRITIC):
            real = data[torch.randint(len(data), (batch_size,))]
            with bf16:
                fake = net_g(torch.randn(batch_size, Z_DIM)).detach()
                loss_d = net_d(fake).mean() - net_d(real).mean()
                loss_d = loss_d + GP_WEIGHT * gradient_penalty(net_d, real, fake.float())
            opt_d.zero_grad()
            loss_d.backward()
            opt_d.step()
            images += batch_size
        with bf16:
            loss_g = -net_d(net_g(torch.randn(batch_size, Z_DIM))).mean()
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()


def generate(image_size: int, batch_size: int, n: int, folder: Path, gate: Gate) -> None:
    """Draw n images a turn, batch by batch, and write each as PNG."""
    network, number = generator(image_size).eval(), count()
    gate.wait(0)
    while True:
        with torch.no_grad():
            for _ in range(n // batch_size):
                x = network(torch.randn(batch_size, Z_DIM))
                pixels = ((x + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
                for image in pixels:
                    Image.fromarray(image).save(folder / f"{next(number):06d}.png")
        gate.wait(n // batch_size * batch_size)


if __name__ == "__main__":
    words = sys.argv[2:]
    if sys.argv[1] == "train":
        train(int(words[0]), int(words[1]), words[2], Gate())
    else:
        generate(int(words[0]), int(words[1]), int(words[2]), Path(words[3]), Gate())
