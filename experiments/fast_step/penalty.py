"""What the penalty costs, and how far bfloat16 moves its gradient: python penalty.py > penalty.csv.

Of the paper's untrained critic without dropout on noise, by one thread. Ways: PyTorch's own double
backward in float32, ours in float32, ours in bfloat16.
"""

import statistics
import time

import torch
from plain import input_gradient as pytorchs
from torch import Tensor, nn

from mbgan.networks.wgan import WGANCritic
from mbgan.slopes import input_gradient

WAYS = {
    "plain": (pytorchs, True),
    "float32": (input_gradient, True),
    "bf16": (input_gradient, False),
}


def gradient(critic: nn.Module, x: Tensor, way: str) -> Tensor:
    """Return the penalty's gradient by the weights, flat."""
    slope, full = WAYS[way]
    critic.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=not full):
        penalty = (slope(critic, x, full).norm(dim=1) - 1).square().mean()
    penalty.backward()
    return torch.cat([w.grad.flatten() for w in critic.parameters() if w.dim() > 1]).double()


def main() -> None:
    """Print a row a way and a size: medians of five."""
    torch.set_num_threads(1)
    print("image_size,n,way,ms_per_image,relative_error,cosine")
    for image_size, n in ((64, 32), (256, 4)):
        torch.manual_seed(0)
        critic = WGANCritic(image_size, dropout=0).to(memory_format=torch.channels_last)
        x = torch.rand(n, 3, image_size, image_size) * 2 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        exact = gradient(critic, x, "plain")
        for way in WAYS:
            spent = []
            for _ in range(5):
                began = time.perf_counter()
                found = gradient(critic, x, way)
                spent.append((time.perf_counter() - began) / n * 1000)
            error = float((found - exact).norm() / exact.norm())
            cosine = float(torch.cosine_similarity(found, exact, 0))
            row = f"{image_size},{n},{way},{statistics.median(spent):.3g},{error:.2g},{cosine:.6f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
