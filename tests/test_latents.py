import torch

from mbgan.latents import Draws, fixed_latents, seed_of


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
