import pytest
import torch
from conftest import ArrayData, tiny_gan
from torch import nn

from benchmarks import bare, plain
from benchmarks.ceiling import Arithmetic
from benchmarks.compare import compared
from benchmarks.measure import ratios, record
from benchmarks.scaling import INFINIBAND, NVLINK, Link, all_reduce_s
from benchmarks.workers import Worker, alternate, python
from mbgan.data.stream import BatchStream
from mbgan.networks.wgan import WGANCritic, WGANGenerator


def shapes(network):
    return sorted(tuple(weight.shape) for weight in network.parameters())


@pytest.mark.parametrize("image_size", [32, 64])
def test_the_plain_loop_has_the_paper_s_layers(image_size):
    """Else its speed is that of another network."""
    ours = [WGANGenerator(image_size=image_size), WGANCritic(image_size=image_size)]
    theirs = [plain.generator(image_size), plain.critic(image_size)]
    assert [*map(shapes, ours)] == [*map(shapes, theirs)]
    shares = [[m.p for m in n.modules() if isinstance(m, nn.Dropout)] for n in (ours[1], theirs[1])]
    assert shares[1] == [0.3] * 4


def test_the_plain_penalty_is_that_of_each_image():
    """D(x) = <w, x> has gradient w everywhere: (||w|| - 1)^2."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    x = torch.randn(5, 3, 4, 4)
    norm = linear[1].weight.norm()
    penalty = plain.gradient_penalty(linear, x, torch.randn_like(x))
    torch.testing.assert_close(penalty, (norm - 1) ** 2)


def test_flops_are_those_of_forward_and_both_gradients():
    """A convolution costs 2 * N * c_out * H * W * c_in * k^2, and each gradient as much again."""
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    with Arithmetic() as counted:
        conv(x).sum().backward()
    assert counted.flops == 3 * (2 * 2 * 8 * 16 * 16 * 3 * 9)
    assert sum(counted.layers.values()) == 1


def test_flops_of_a_penalty_by_the_images_are_counted():
    """PyTorch's own counter raises here."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    with Arithmetic() as counted:
        x = torch.randn(5, 3, 4, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(linear(x).sum(), x, create_graph=True)
        grad.square().sum().backward()
    assert counted.flops > 2 * 2 * 5 * 48


def test_a_ratio_is_of_the_same_round():
    """A machine that slows down in between slows both."""
    assert ratios([3.0, 30.0], [1.0, 10.0])["values"] == [3.0, 3.0]


def test_compare_marks_only_what_is_more_than_noise():
    machine = {"cpu": "one"}
    measures = {"steady": [10, 11, 12], "faster": [10, 11, 12]}
    later = {"steady": [11, 10, 12.5], "faster": [20, 21, 22]}
    before, after = (
        {"machine": machine, "measures": {k: record("s", v) for k, v in of.items()}}
        for of in (measures, later)
    )
    rows = {line.split(" | ")[0]: line for line in compared(before, after).splitlines()}
    assert "↑" in rows["| faster"]
    assert "↑" not in rows["| steady"]
    assert "↓" not in rows["| steady"]


def test_a_sum_over_gpus_is_bound_by_what_a_ring_sends():
    """Without latency, 2 (g - 1) / g of the bytes leave each GPU; one GPU sends nothing."""
    fast = Link("", gb_per_s=1, latency_us=0)
    assert all_reduce_s(8e9, 1, fast, fast) == 0
    assert all_reduce_s(8e9, 8, fast, fast) == pytest.approx(14)
    assert all_reduce_s(8e9, 64, NVLINK, INFINIBAND) > all_reduce_s(8e9, 8, NVLINK, INFINIBAND)


def test_a_worker_that_dies_says_why():
    worker = Worker(python("benchmarks.plain", "train"))  # and no image size
    with pytest.raises(RuntimeError, match="IndexError"):
        alternate({"broken": worker}, rounds=1)


def test_the_bare_loop_trains_the_weights_of_the_gan(fit):
    """What is measured against it is overhead only if the mathematics is the same."""
    ours, theirs = tiny_gan(), tiny_gan()
    fit(ours, batches=2 * ours.n_critic)
    training = bare.turns(theirs, iter(BatchStream(ArrayData().train, 4, seed=0)), bf16=False)
    for _ in range(2):
        next(training)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
