import math

import pytest
import torch

from mbgan.latents import Draws, fixed_latents, seed_of, slerp


def test_ranks_together_draw_what_one_process_draws():
    whole = Draws(seed=3, step=7).normal("z", 6, 5)
    parts = [Draws(3, 7, rank, world_size=3).normal("z", 2, 5) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_every_name_step_and_seed_draws_other_numbers():
    first = Draws(0, 0).uniform("z", 4)
    for other in (Draws(1, 0).uniform("z", 4), Draws(0, 1).uniform("z", 4)):
        assert not torch.equal(first, other)
    assert not torch.equal(first, Draws(0, 0).uniform("penalty", 4))


def test_a_latent_depends_on_its_index_alone():
    """Image 5 is the same whatever was asked for beside it."""
    assert torch.equal(fixed_latents([5], 8, seed=0)[0], fixed_latents(range(9), 8, seed=0)[5])


def test_latents_are_standard_normal():
    z = fixed_latents(range(400), 128, seed=1)  # 51,200 numbers: standard errors 0.0044, 0.0031
    assert abs(z.mean()) < 0.02
    assert abs(z.std() - 1) < 0.02


def test_seeds_do_not_confuse_neighboring_names():
    assert seed_of(1, "ab") != seed_of(1, "a", "b")
    assert seed_of(12, 3) != seed_of(1, 23)


def test_slerp_begins_at_a_and_ends_at_b():
    a, b = fixed_latents(range(6), 16, seed=0).chunk(2)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)


def test_the_middle_of_orthogonal_latents_is_their_scaled_sum():
    """Of lengths 2 and 2 it has length 2; the middle of the line would have sqrt(2)."""
    a, b = 2 * torch.eye(5)[:1], 2 * torch.eye(5)[1:2]
    torch.testing.assert_close(slerp(a, b, 0.5), (a + b) / math.sqrt(2))


def test_slerp_turns_evenly_and_its_norm_goes_straight():
    """At a share t of the way a turn of t times the angle, and a norm of 1 + 2 t."""
    angle, t = 2.5, torch.tensor([[0.0], [0.3], [0.8], [1.0]])
    a, b = torch.tensor([1.0, 0.0]), 3 * torch.tensor([math.cos(angle), math.sin(angle)])
    expected = (1 + 2 * t) * torch.cat([torch.cos(t * angle), torch.sin(t * angle)], 1)
    torch.testing.assert_close(slerp(a, b, t), expected)


def test_slerp_of_a_latent_with_itself_stays_there():
    z = fixed_latents([0], 64, seed=0)
    torch.testing.assert_close(slerp(z, z, 0.3), z)


def test_slerp_refuses_opposite_latents():
    z = fixed_latents([0], 8, seed=0)
    with pytest.raises(ValueError, match="a and b must not point in opposite directions"):
        slerp(z, -2 * z, 0.5)
