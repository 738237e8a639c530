"""mbgan.train as a plain loop would do it: python plain.py ARGUMENTS OF mbgan.train.

PyTorch's own dropout masks and double backward, Adam one tensor after the other; ask for
trainer.precision=32-true beside it. The same mathematics, other random masks.
"""

import torch
from torch import Tensor, nn

from mbgan import regularizers
from mbgan.networks import blocks
from mbgan.train import main


def input_gradient(critic: regularizers.Score, x: Tensor, full_precision: bool = True) -> Tensor:
    """Return the gradient [N, 3 H W] of each image's score by the image, with its graph."""
    x = x.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return grad.flatten(1)


if __name__ == "__main__":
    blocks.Dropout.forward = nn.Dropout.forward  # type: ignore[method-assign]
    regularizers.input_gradient = input_gradient
    main()
