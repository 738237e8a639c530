import torch
from torch import nn

from mbgan.ema import ema_decay, update_ema


def test_a_weight_counts_half_after_the_half_life():
    assert ema_decay(1000, images=1000, images_seen=10**9) == 0.5
    assert ema_decay(1000, images=500, images_seen=10**9) ** 2 == 0.5000000000000001


def test_a_young_run_averages_over_its_own_length_only():
    """At 2,000 images the half-life is 5 % of them, 100, not 1000."""
    assert ema_decay(1000, images=100, images_seen=2000) == 0.5


def test_no_half_life_means_a_copy():
    assert ema_decay(0, images=10, images_seen=100) == 0.0


def test_update_moves_weights_by_the_rest_and_copies_buffers():
    average, current = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    nn.init.constant_(average.weight, 0.0)
    current.running_mean.fill_(7.0)
    update_ema(average, current, decay=0.75)
    torch.testing.assert_close(average.weight.data, torch.tensor([0.25]))
    assert average.running_mean.item() == 7.0
