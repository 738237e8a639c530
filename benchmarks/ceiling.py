"""What the machine can do: products, and a network's own convolutions by themselves."""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mbgan.gan import GAN

# Shape of the input, shape of the weight, and what else aten.convolution is told, but the bias.
Layer = tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]


class Arithmetic(TorchDispatchMode):
    """Counts FLOPs and convolutions while it is on, by PyTorch's own formulas.

    Not its FlopCounterMode, which also tracks modules, and fails where a penalty takes gradients by
    the images themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.layers = Counter[Layer]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an operation and compute it."""
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # what is made of others is counted by its parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        elif func is torch.ops.aten.convolution.default:
            x, weight, _, *rest = args
            told = tuple(tuple(part) if isinstance(part, list) else part for part in rest)
            self.layers[(tuple(x.shape), tuple(weight.shape), told)] += 1
        out = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


@torch.no_grad()
def convolutions(gan: GAN, n: int) -> Counter[Layer]:
    """Return the convolutions of a turn: n_critic passes of the critic, one of the generator."""
    generator, critic = gan.generator.eval(), gan.critic.eval()
    z, condition = torch.randn(n, generator.z_dim), torch.zeros(n, dtype=torch.long)
    with Arithmetic() as of_generator:
        x = generator(generator.conditioned(z, condition))
    with Arithmetic() as of_critic:
        critic(x, condition)
    layers = Counter(of_generator.layers)
    layers.update({layer: gan.n_critic * k for layer, k in of_critic.layers.items()})
    return layers


def gflops_per_s(layers: Counter[Layer], dtype: torch.dtype, repeats: int) -> float:
    """Return the speed of these convolutions, forward and backward, each by itself."""
    flops = seconds = 0.0
    for layer, k in layers.items():
        work = one(layer, dtype)
        with Arithmetic() as counted:
            work()
        flops += k * counted.flops
        seconds += k * timed(work, repeats)
    return flops / seconds / 1e9


def one(layer: Layer, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that computes a convolution and both its gradients."""
    shape, weight_shape, told = layer
    x, weight = (
        torch.randn(size, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        for size in (shape, weight_shape)
    )

    def work() -> object:
        y = torch.ops.aten.convolution(x, weight, None, *told)
        return torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    return work


def product(dtype: torch.dtype, repeats: int, n: int = 2048) -> float:
    """Return GFLOP/s of a product of two n x n matrices."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    a @ b
    return 2 * n**3 / timed(lambda: a @ b, repeats) / 1e9


def timed(work: Callable[[], object], repeats: int) -> float:
    """Return the median of seconds, after a first time that is not counted."""
    work()
    spent = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)
