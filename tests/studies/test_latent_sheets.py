import pytest
import torch
from conftest import TinyGenerator
from torch import nn

from mbgan.images import grid
from mbgan.networks import Generator
from mbgan.networks.stylegan_lite import StyleGANGenerator
from mbgan.studies import latent_sheets as sheets

S = 16  # pixels of an image


class Painter(Generator):
    """An image of one color, z / 4 in [-1, 1]: what a sheet shows can be read off it."""

    def __init__(self):
        super().__init__(z_dim=3, image_size=S)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, z, draws=None):
        return (self.weight * z / 4)[:, :, None, None].expand(-1, -1, S, S)


def styled():
    torch.manual_seed(0)
    return StyleGANGenerator(z_dim=8, image_size=S, width=4, w_dim=6).eval()


def cells(sheet, gap=2):
    """The images [rows, columns, 3, S, S] of a sheet."""
    tiles = sheet.unfold(1, S, S + gap).unfold(2, S, S + gap)  # [3, rows, columns, S, S]
    return tiles.permute(1, 2, 0, 3, 4)


def colors(images):
    """What a Painter was given, [..., 3], within half a level."""
    return (images[..., 0, 0].float() / 127.5 - 1) * 4


def close(ours, theirs, atol=0.02):
    torch.testing.assert_close(ours, theirs.expand_as(ours), atol=atol, rtol=0)


def test_a_row_goes_from_one_latent_of_a_pair_to_the_other_along_the_arc():
    z = 3 * torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    shown = colors(cells(sheets.interpolation(Painter(), z, steps=3)))  # [2, 3, 3]
    close(shown[:, 0], z[::2])
    close(shown[:, 2], z[1::2])
    close(shown[:, 1], (z[::2] + z[1::2]) / 2**0.5)


def test_between_styles_a_row_goes_along_the_line():
    generator, z = styled(), torch.randn(2, 8)
    ws = generator.points(z)
    middle = sheets.draw(generator, ws.mean(0, keepdim=True))
    shown = cells(sheets.interpolation(generator, z, steps=3))
    close(shown[0, [0, 2]].float(), sheets.draw(generator, ws).float(), atol=1)
    close(shown[0, 1].float(), middle[0].float(), atol=1)


def test_a_walk_passes_every_latent_and_closes():
    """Frame i * steps is latent i, and the step back to the first frame is like any other."""
    z = 3 * torch.eye(3)
    frames = colors(sheets.walk(Painter(), z, steps=6))
    assert frames.shape == (18, 3)
    close(frames[::6], z)
    strides = (frames - frames.roll(-1, 0)).norm(dim=1)
    close(strides, strides.mean(), atol=0.03)


def test_truncation_reaches_strips_and_walks():
    z = 3 * torch.eye(3)[:2]
    close(colors(sheets.walk(Painter(), z, 1, psi=0.5)), z / 2)
    close(colors(cells(sheets.interpolation(Painter(), z, 2, psi=0.5)))[0], z / 2)


def test_a_truncation_sheet_has_a_row_a_psi_and_a_column_a_latent():
    z = 3 * torch.eye(3)[:2]
    shown = colors(cells(sheets.truncation(Painter(), z, [0.2, 1.0])))
    close(shown, torch.stack([0.2 * z, z]))


def test_mixing_takes_each_third_of_the_layers_from_the_column():
    """At 16 pixels there are 5 layers: 2 coarse, 2 middle, 1 fine."""
    generator = styled()
    rows, columns = torch.randn(2, 8), torch.randn(3, 8)
    sheet = sheets.mixing(generator, rows, columns)
    tables = sheet.split([70, 12, 70, 12, 70], dim=2)[::2]  # 4 x 16 + 3 x 2 pixels each
    for table, layers in zip(tables, ([0, 1], [2, 3], [4]), strict=True):
        shown = cells(table)  # [1 + 2, 1 + 3, ...]
        assert (shown[0, 0] == 255).all()
        heads, sides = (sheets.draw(generator, generator.points(z)) for z in (columns, rows))
        close(shown[0, 1:].float(), heads.float(), atol=1)
        close(shown[1:, 0].float(), sides.float(), atol=1)
        ws = generator.points(rows[1:]).clone()
        ws[:, layers] = generator.points(columns[2:])[:, layers]
        close(shown[2, 3].float(), sheets.draw(generator, ws)[0].float(), atol=1)


def test_mixing_is_refused_without_styles():
    message = "mixing needs a generator with styles, .* model=stylegan_lite has, got a Tiny"
    with pytest.raises(ValueError, match=message):
        sheets.mixing(TinyGenerator(), torch.randn(1, 4), torch.randn(1, 4))


def test_reconstructions_stand_below_their_targets_also_in_a_short_block():
    def images(n, first):
        levels = torch.arange(first, first + n, dtype=torch.uint8)
        return levels[:, None, None, None].expand(-1, 3, S, S)

    pairs = [(images(5, 0), images(5, 100)), (images(2, 50), images(2, 150))]
    sheet = sheets.projections(pairs, columns=3)
    left, _, right = sheet.split([3 * S + 4, sheets.BLOCK_GAP, 3 * S + 4], dim=2)
    expected = [[0, 1, 2], [100, 101, 102], [3, 4, 255], [103, 104, 255]]
    assert cells(left)[:, :, 0, 0, 0].tolist() == expected
    assert (
        cells(right)[:, :, 0, 0, 0].tolist() == [[50, 51, 255], [150, 151, 255]] + [[255] * 3] * 2
    )


def test_images_do_not_depend_on_how_many_are_drawn_at_a_time():
    generator, z = Painter(), torch.randn(7, 3)
    assert torch.equal(sheets.draw(generator, z, batch_size=2), sheets.draw(generator, z))
    assert torch.equal(grid(sheets.draw(generator, z), 7), sheets.truncation(generator, z, [1.0]))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda g, z: sheets.interpolation(g, z, steps=1), "steps must be at least 2, both .* 1"),
        (lambda g, z: sheets.interpolation(g, z[:3], steps=2), "must hold pairs of latents, got 3"),
        (lambda g, z: sheets.walk(g, z[:1], steps=2), "a walk needs at least 2 latents, got n=1"),
        (lambda g, z: sheets.walk(g, z, steps=0), "steps must be at least 1 frame, got 0"),
        (lambda g, z: sheets.truncation(g, z, [2]), r"truncation must be in \(0, 1\], got 2"),
    ],
)
def test_settings_out_of_range_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(Painter(), torch.randn(4, 3))
