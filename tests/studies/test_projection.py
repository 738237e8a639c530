import pytest
import torch
from conftest import TinyGenerator
from torch import nn

from mbgan.gan import generate
from mbgan.images import from_uint8, to_uint8
from mbgan.latents import fixed_latents, generator_of
from mbgan.networks import Generator
from mbgan.networks.stylegan_lite import StyleGANGenerator
from mbgan.studies.projection import copying, project, pyramid


def pictures(n, seed):
    """Smooth images [n, 3, 16, 16], uint8."""
    x = torch.rand(n, 3, 4, 4, generator=generator_of(seed, "pictures"))
    return to_uint8(nn.functional.interpolate(2 * x - 1, size=16, mode="bilinear"))


class Copier(Generator):
    """A generator that has memorized: the image of the largest number in z, nearly alone."""

    def __init__(self, images):
        super().__init__(z_dim=len(images), image_size=16)
        self.images = nn.Parameter(from_uint8(images))

    def forward(self, z, draws=None):
        return torch.einsum("ni,ichw->nchw", (8 * z).softmax(1), self.images)


def distances(x, y):
    return (pyramid(x) - pyramid(y)).norm(dim=1)


def test_distance_of_two_plain_images_is_their_difference():
    """Averages keep it at every scale: 64, 32, 16 and 8 pixels."""
    x = torch.full((2, 3, 64, 64), 0.5)
    y = torch.tensor([0.25, -0.5])[:, None, None, None].expand_as(x)
    torch.testing.assert_close(distances(x, y), torch.tensor([0.25, 1.0]))
    assert distances(x, x).tolist() == [0, 0]


def test_distance_sees_fine_detail_at_the_finest_scale_alone():
    """A checkerboard of +-0.6 vanishes in averages: 0.6^2 at one scale of three."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    board = 0.6 * (1 - 2.0 * ((rows + columns) % 2)).expand(1, 3, 32, 32)
    torch.testing.assert_close(distances(board, 0 * board), torch.tensor([0.6 / 3**0.5]))


@pytest.mark.parametrize("make", [TinyGenerator, lambda: StyleGANGenerator(8, 16, 4, w_dim=6)])
def test_a_generators_own_images_are_found_again(make):
    """What the generator draws lies at a latent: the search must come far nearer than its start."""
    torch.manual_seed(0)
    generator = make().eval()
    z = fixed_latents(range(500, 504), generator.z_dim, seed=1)
    z = nn.functional.normalize(z) * generator.z_dim**0.5
    targets = generate(generator, z)
    first = project(generator, targets, steps=1, seed=0, candidates=4)
    last = project(generator, targets, steps=150, seed=0, candidates=4)
    assert (last.distances < 0.15 * first.distances).all()
    shown = distances(from_uint8(last.images), from_uint8(targets))
    torch.testing.assert_close(last.distances, shown, atol=0.01, rtol=0)


def test_a_copying_generator_is_caught_and_an_ignorant_one_is_not():
    train, held_out, other = (pictures(12, seed) for seed in (0, 1, 2))
    verdicts = []
    for memorized in (train, other):
        generator = Copier(memorized)
        sides = [project(generator, x, 40, seed=0).distances for x in (train, held_out)]
        verdicts.append(copying(*sides))
    assert (verdicts[0]["probability"], verdicts[0]["p"]) == (1, pytest.approx(0, abs=1e-4))
    assert 0.25 < verdicts[1]["probability"] < 0.75
    assert verdicts[1]["p"] > 0.05


def test_probability_counts_pairs():
    """The 1 is under all three, the 3 is under one and level with one, of six pairs."""
    train, held_out = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0, 4.0])
    assert copying(train, held_out)["probability"] == (3 + 1 + 0.5) / 6
    assert copying(train, train) == {"probability": 0.5, "p": pytest.approx(0.65, abs=0.1)}


def test_a_projection_depends_on_its_target_and_the_seed_alone():
    generator, targets = TinyGenerator().eval(), pictures(5, 0)
    together = project(generator, targets, 5, seed=0)
    torch.manual_seed(1)
    assert torch.equal(project(generator, targets, 5, seed=0).images, together.images)
    alone = project(generator, targets, 5, seed=0, batch_size=1)
    torch.testing.assert_close(alone.distances, together.distances, atol=1e-4, rtol=0)
    assert not torch.equal(project(generator, targets, 5, seed=1).images, together.images)


def test_a_search_starts_from_the_best_candidate_and_stays_on_the_sphere():
    """A generator that shows z itself: candidate 7 is the target, at the length sqrt(3)."""

    class Shower(Generator):
        def __init__(self):
            super().__init__(z_dim=3, image_size=16)
            self.weight = nn.Parameter(torch.ones(()))
            self.seen = []

        def forward(self, z, draws=None):
            self.seen.append(z.detach())
            return (self.weight * z / 2)[:, :, None, None].expand(-1, -1, 16, 16)

    generator = Shower()
    z = nn.functional.normalize(fixed_latents([7], 3, seed=0)) * 3**0.5
    target = generate(generator, z)
    generator.seen.clear()
    found = project(generator, target, steps=3, seed=0, candidates=20)
    assert [len(seen) for seen in generator.seen] == [20, 1, 1, 1, 1]
    torch.testing.assert_close(generator.seen[1], z)
    for seen in generator.seen:
        torch.testing.assert_close(seen.norm(dim=1), torch.full((len(seen),), 3**0.5))
    assert generator.weight.grad is None
    assert found.images.shape == target.shape


@pytest.mark.parametrize(
    ("steps", "side", "message"),
    [
        (0, 16, "steps must be at least 1, got 0"),
        (1, 8, r"targets must be \[N, 3, 16, 16\], got \[2, 3, 8, 8\]"),
    ],
)
def test_settings_out_of_range_are_refused(steps, side, message):
    with pytest.raises(ValueError, match=message):
        project(TinyGenerator(), torch.zeros(2, 3, side, side, dtype=torch.uint8), steps, seed=0)
