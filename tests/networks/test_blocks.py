import torch

from mbgan.networks.blocks import Dropout


def ones(**settings):
    return torch.ones(8, 16, 32, 32, **settings)


def test_dropout_keeps_the_mean_and_drops_its_share():
    """77 of 256 bytes drop: 0.30078, and what stays is scaled by 256 / 179."""
    torch.manual_seed(0)
    y = Dropout(0.3)(ones())
    assert y.unique().tolist() == [0, torch.tensor(256 / 179).item()]
    n = y.numel()
    dropped = (y == 0).sum().item()
    assert abs(dropped - n * 77 / 256) < 4 * (n * 0.21) ** 0.5  # four standard deviations


def test_every_bit_of_a_draw_decides():
    """Eight masks come from one number of 64 bits; an int64 drawn as usual is never negative."""
    torch.manual_seed(0)
    kept = Dropout(0.3)(torch.ones(8 * 20_000)).view(-1, 8) != 0
    share = kept.double().mean(0)  # [8]
    assert (share - 179 / 256).abs().max() < 5 * (0.21 / 20_000) ** 0.5
    joint = torch.cov(kept.double().T) - 0.21 * torch.eye(8)
    assert joint.abs().max() < 0.01


def test_dropout_differs_by_call_and_follows_the_seed():
    torch.manual_seed(0)
    first, second = Dropout(0.5)(ones()), Dropout(0.5)(ones())
    torch.manual_seed(0)
    assert torch.equal(first, Dropout(0.5)(ones()))
    assert not torch.equal(first, second)


def test_dropout_passes_the_gradient_of_what_it_keeps():
    x = ones().requires_grad_(True)
    y = Dropout(0.3)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, y)


def test_dropout_keeps_channels_last_and_takes_tensors_with_gaps():
    x = ones().contiguous(memory_format=torch.channels_last)
    assert Dropout(0.3)(x).is_contiguous(memory_format=torch.channels_last)
    assert Dropout(0.3)(ones()[:, ::2, :, ::3]).shape == (8, 8, 32, 11)


def test_dropout_does_nothing_in_eval_mode():
    x = ones()
    assert Dropout(0.3).eval()(x) is x
