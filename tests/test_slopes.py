import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mbgan.networks.r3gan_lite import R3GANCritic
from mbgan.networks.stylegan_lite import StyleGANCritic
from mbgan.networks.wgan import WGANCritic
from mbgan.slopes import input_gradient


class Convolutions(TorchDispatchMode):
    """Counts gradients of convolutions: by input, by weight, and both by one call."""

    def __init__(self):
        super().__init__()
        self.of = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.of.append(tuple(args[-1][:2]))
        return func(*args, **(kwargs or {}))


def layers(*kinds, **settings):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, **settings), *kinds, nn.Conv2d(4, 8, 3, groups=2), *kinds, nn.Flatten()
    ).double()


CRITICS = [
    layers(nn.LeakyReLU(0.2), kernel_size=4, stride=2, padding=1),
    layers(nn.LeakyReLU(0.2, inplace=True), kernel_size=3, dilation=(2, 1), bias=False),
    layers(nn.Softplus(), kernel_size=3, padding="same"),  # a second derivative that is not 0
    layers(nn.SiLU(), kernel_size=(3, 5), stride=(1, 2), padding=(0, 1)),
    *(kind(32, width=4).double() for kind in (WGANCritic, StyleGANCritic, R3GANCritic)),
]


def slopes(critic, x, slope):
    """The penalty's gradient by each weight."""
    torch.manual_seed(1)  # dropout
    critic.zero_grad()
    (slope(critic, x).norm(dim=1) - 1).square().mean().backward()
    grads = ((w, w.grad) for w in critic.parameters())
    return [torch.zeros_like(w) if grad is None else grad.clone() for w, grad in grads]


def pytorchs(critic, x):
    """The same by PyTorch's own double backward."""
    x = x.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return grad.flatten(1)


@pytest.mark.parametrize("critic", CRITICS)
def test_slopes_and_their_gradients_are_pytorchs(critic):
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(
        slopes(critic, x, input_gradient), slopes(critic, x, pytorchs), rtol=1e-9, atol=1e-12
    )


def test_a_penalty_runs_back_through_the_layers_once():
    """Of 4 convolutions: gradients by input for the slope, by weight for its gradient, no more.

    PyTorch goes back once more through the three upper ones, with zeros.
    """
    critic, x = WGANCritic(32, width=4), torch.randn(2, 3, 32, 32)
    with Convolutions() as counted:
        slopes(critic, x, input_gradient)
    assert counted.of == [(True, False)] * 4 + [(False, True)] * 4
    with Convolutions() as counted:
        slopes(critic, x, pytorchs)
    assert (True, True) in counted.of
