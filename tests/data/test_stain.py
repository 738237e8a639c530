import numpy as np
import pytest
import torchstain
from scipy import ndimage

from mbgan.data.phantom import MACENKO, RUIFROK
from mbgan.data.stain import (
    Identity,
    Macenko,
    NoStain,
    Reinhard,
    medoid,
    stain_colors,
    stain_vectors,
)

SIDE = 64
GLASS = np.s_[:, :8]  # columns of clear glass in `section`


def section(vectors, light=239.0, strength=(1.0, 1.0), seed=0, rest=0.2):
    """Patches of hematoxylin and of eosin [64, 64, 3], mixed by Beer and Lambert's law.

    Amounts run up to 1.5 of one stain with `rest` at most of the other; 1/8 is clear glass.
    """
    rng = np.random.default_rng(seed)
    which = ndimage.zoom(rng.random((16, 16)), SIDE // 16, order=0) < 0.4
    amounts = rng.uniform(0.5, 1.5, (SIDE, SIDE, 2))
    amounts[..., 0][~which] *= rest * rng.random((~which).sum()) / 1.5
    amounts[..., 1][which] *= rest * rng.random(which.sum()) / 1.5
    amounts *= strength
    amounts[GLASS] = 0
    transmitted = np.exp(-amounts @ np.asarray(vectors))
    levels = (np.asarray(light) + 1) * transmitted - 1
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


TARGET = section(MACENKO)
OTHER = section(RUIFROK, light=(209, 240, 233), strength=(1.3, 1.1), seed=1)
NORMALIZERS = [Macenko, Reinhard]


def fitted(kind, target=TARGET):
    normalize = kind()
    normalize.fit(target)
    return normalize


@pytest.mark.parametrize("vectors", [MACENKO, RUIFROK], ids=["macenko", "ruifrok"])
@pytest.mark.parametrize("light", [239, 150, (209, 240, 233), (190, 185, 100)], ids=str)
def test_stain_vectors_come_back_whatever_the_light(vectors, light):
    """Closed form: the image is mixed of known vectors, so they must be found in it."""
    found = stain_vectors(section(vectors, light))
    assert found.shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert (degrees(found, np.asarray(vectors)) < 3).all()


def test_stain_colors_are_the_vectors_times_the_strongest_amounts():
    """Amounts are even from 0.5 to 1.5 in 40 % or 60 % of the tissue, so percentile 99 is 1.48."""
    colors = stain_colors(section(MACENKO, strength=(1.2, 0.8)))
    np.testing.assert_allclose(np.linalg.norm(colors, axis=1), [1.48 * 1.2, 1.48 * 0.8], rtol=0.03)


def test_hematoxylin_comes_first_whichever_is_stronger():
    for strength in [(2.0, 0.7), (0.7, 2.0)]:
        assert (degrees(stain_vectors(section(MACENKO, strength=strength)), MACENKO) < 4).all()


def test_a_large_image_is_measured_by_every_kth_pixel():
    """Each pixel repeated 10 x 10 holds the same colors, also with glass above."""
    large = np.pad(
        TARGET.repeat(10, 0).repeat(10, 1), ((300, 0), (0, 0), (0, 0)), constant_values=239
    )
    np.testing.assert_allclose(stain_colors(large), stain_colors(TARGET), rtol=0.02)


def tissue(rgb):
    return rgb[:, 8:]


def test_macenko_agrees_with_torchstain_on_tissue():
    """Under white light the two differ only in glass, which torchstain counts and recolors.

    Its beta, 0.15 in each channel, would also leave out pale tissue: both are shown all of it.
    """
    source = section(RUIFROK, strength=(1.3, 1.1), seed=1)
    reference = torchstain.normalizers.MacenkoNormalizer(backend="numpy")
    reference.fit(tissue(TARGET), beta=-np.inf)
    expected, _, _ = reference.normalize(tissue(source), beta=-np.inf)
    found = tissue(fitted(Macenko)(source))
    # It drops fractions and keeps the 1 that it adds before the logarithm: 0 to 1 above ours.
    difference = expected.astype(int) - found
    assert difference.min() >= 0
    assert difference.max() <= 1


def test_reinhard_agrees_with_torchstain_on_tissue():
    source = section(RUIFROK, strength=(1.3, 1.1), seed=1)
    reference = torchstain.normalizers.ReinhardNormalizer(backend="numpy")
    reference.fit(tissue(TARGET))
    expected = reference.normalize(tissue(source))
    difference = expected.astype(int) - tissue(fitted(Reinhard)(source))
    assert np.abs(difference).max() <= 1


def test_macenko_gives_the_stains_of_the_target():
    """Closed form: vectors and amounts are known, and must be the target's afterwards."""
    before, after = stain_colors(OTHER), stain_colors(fitted(Macenko)(OTHER))
    assert (degrees(before, stain_colors(TARGET)) > 5).all()
    assert (degrees(after, stain_colors(TARGET)) < 1).all()
    np.testing.assert_allclose(after, stain_colors(TARGET), atol=0.03)


def test_reinhard_gives_tissue_the_colors_of_the_target():
    """Mean and spread of each channel of CIELAB; here seen by torchstain's own conversion."""
    lab = [
        torchstain.numpy.utils.rgb2lab(tissue(rgb) / 255).reshape(-1, 3)
        for rgb in (OTHER, fitted(Reinhard)(OTHER), TARGET)
    ]
    before, after, target = (np.array([x.mean(0), x.std(0)]) for x in lab)
    assert np.abs(before - target).max() > 10
    np.testing.assert_allclose(after, target, atol=1.5)


@pytest.mark.parametrize(("kind", "share"), [(Macenko, 0.2), (Reinhard, 0.6)])
def test_tissue_comes_out_as_if_stained_and_lit_like_the_target(kind, share):
    """The same amounts of stain, mixed by the target's vectors under its light, are the truth.

    Macenko undoes what was done; Reinhard, which knows no stains, takes half of it away.
    """
    truth, found = section(MACENKO, seed=1).astype(float), fitted(kind)(OTHER)
    before, after = np.abs(OTHER - truth).mean(), np.abs(found - truth).mean()
    assert after < share * before


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_the_target_itself_hardly_changes(kind):
    difference = fitted(kind)(TARGET).astype(int) - TARGET
    assert np.abs(difference).max() <= 2
    assert abs(difference.mean()) < 0.1  # torchstain's truncation would take 0.5


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_normalizing_twice_changes_no_more(kind):
    normalize = fitted(kind)
    once = normalize(OTHER)
    assert np.abs(normalize(once).astype(int) - once).mean() < 1.5


@pytest.mark.parametrize("kind", NORMALIZERS)
@pytest.mark.parametrize("light", [239, 255, 150, (209, 240, 233), (190, 185, 100)], ids=str)
def test_glass_becomes_white_whatever_the_light(kind, light):
    glass = fitted(kind)(section(RUIFROK, light, seed=1))[GLASS]
    np.testing.assert_array_equal(glass, np.full_like(glass, 239))


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_white_around_an_image_changes_nothing_in_it(kind):
    """torchstain's percentiles and moments count the glass, so its result depends on its share."""
    source = section(RUIFROK, seed=1)
    padded = np.pad(source, ((0, 2 * SIDE), (0, 0), (0, 0)), constant_values=239)
    normalize = fitted(kind)
    found = normalize(padded)[:SIDE].astype(int)
    assert np.abs(found - normalize(source)).max() <= 2


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_there_is_no_seam_between_glass_and_tissue(kind):
    """Pale stain at many depths: neighbors in depth stay neighbors in color."""
    source = section(RUIFROK, strength=(1.3, 1.1), seed=1)
    depth = np.linspace(0, 0.8, SIDE)
    source[0] = np.rint(240 * np.exp(-depth[:, None] * RUIFROK[1]) - 1)
    steps = np.abs(np.diff(fitted(kind)(source)[0].astype(int), axis=0))
    assert steps.max() <= 15


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_no_level_wraps_around(kind):
    """A target four times as strong takes dark pixels beyond black: the darkest stay darkest."""
    normalize = fitted(kind, section(MACENKO, strength=(4, 4)))
    source = section(RUIFROK, seed=1)
    source[0, 8:16] = 0
    found = normalize(source)
    assert (found.dtype, found.shape) == (np.uint8, source.shape)
    assert found[0, 8:16].max() <= 5
    green = source[..., 1].astype(int)  # which both stains absorb
    assert np.corrcoef(green.ravel(), found[..., 1].ravel())[0, 1] > 0.8


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_the_same_image_gives_the_same_pixels_and_stays_untouched(kind):
    source = OTHER.copy()
    first = fitted(kind)(source)
    np.testing.assert_array_equal(first, fitted(kind)(source))
    np.testing.assert_array_equal(source, OTHER)


def test_identity_returns_the_image():
    assert fitted(Identity)(OTHER) is OTHER


def noise(low, high):
    return np.random.default_rng(0).integers(low, high, (SIDE, SIDE, 3), dtype=np.uint8)


def one_stain(vector):
    amounts = np.random.default_rng(0).uniform(0.0, 1.5, (SIDE, SIDE, 1))
    return np.rint(240 * np.exp(-amounts * np.asarray(vector)) - 1).astype(np.uint8)


STAINLESS = {
    "white": (np.full((SIDE, SIDE, 3), 255, np.uint8), "blank: tissue on 0 of 4096 pixels"),
    "black": (np.zeros((SIDE, SIDE, 3), np.uint8), "blank: tissue on 0 of 4096 pixels"),
    "dust": (noise(225, 245), "blank"),
    "one pixel": (TARGET[:1, 20:21], "blank: tissue on 0 of 1 pixels"),
    "a row": (TARGET[:1], "blank: tissue on 56 of 64 pixels"),
    "gray": (TARGET[..., :1].repeat(3, -1), "one stain: colors 0.0 degrees apart, under 5"),
    "hematoxylin": (one_stain(MACENKO[0]), r"one stain: colors \d\.\d degrees apart, under 5"),
    "eosin": (one_stain(MACENKO[1]), r"one stain: colors \d\.\d degrees apart, under 5"),
}


@pytest.mark.parametrize("name", STAINLESS)
def test_an_image_without_two_stains_is_refused_with_a_reason(name):
    rgb, reason = STAINLESS[name]
    for kind in NORMALIZERS:
        with pytest.raises(NoStain, match=reason):
            fitted(kind)(rgb)
        with pytest.raises(NoStain, match=reason):
            kind().fit(rgb)
    with pytest.raises(NoStain, match=reason):
        stain_vectors(rgb)


def test_a_speck_of_tissue_on_a_large_blank_is_no_stain():
    """100 pixels suffice for a small image, and must be 1 % of a large one."""
    speck = np.full((256, 256, 3), 239, np.uint8)
    speck[:16, :16] = TARGET[:16, 8:24]
    with pytest.raises(NoStain, match="blank: tissue on 256 of 65536 pixels"):
        stain_colors(speck)
    assert stain_colors(speck[:128, :128]).shape == (2, 3)


COLORS = np.random.default_rng(0).normal(1, 0.1, (9, 2, 3))


def test_the_medoid_has_the_least_sum_of_distances():
    """Closed form on a line: the median of 0, 1, 2, 3 and 100 is 2, their mean is 21."""
    colors = np.ones((5, 2, 3)) * np.array([100, 3, 2, 0, 1.0])[:, None, None]
    assert medoid(colors) == 2


def test_the_medoid_does_not_depend_on_the_order():
    tied = np.concatenate([COLORS[:2], COLORS[2:4], COLORS[2:4]])
    for colors in (COLORS, tied, COLORS[:2]):
        chosen = colors[medoid(colors)]
        for seed in range(20):
            shuffled = np.random.default_rng(seed).permutation(colors)
            np.testing.assert_array_equal(shuffled[medoid(shuffled)], chosen)


@pytest.mark.parametrize("outlier", range(9))
def test_an_outlier_is_never_the_medoid(outlier):
    colors = COLORS.copy()
    colors[outlier] += 5
    assert medoid(colors) != outlier


def test_the_medoid_leaves_out_images_without_stain():
    colors = COLORS.copy()
    colors[medoid(COLORS)] = np.nan
    assert medoid(colors) != medoid(COLORS)
    assert np.isfinite(colors[medoid(colors)]).all()
    with pytest.raises(NoStain, match="none of 2 images has two stains; set stain=none"):
        medoid(np.full((2, 2, 3), np.nan))


def test_the_medoid_of_very_many_is_still_central():
    """100,000 images would take 80 GB of distances; an even choice of them is compared."""
    colors = np.random.default_rng(0).normal(1, 0.1, (100_000, 2, 3))
    distance = np.linalg.norm(colors - 1, axis=(1, 2))
    assert distance[medoid(colors)] < np.percentile(distance, 2)
