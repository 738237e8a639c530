"""Statistics of drawn pictures are the drawn ones, and of the phantom its truth."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from mbgan.data.phantom import draw_image
from mbgan.metrics.histology import STATISTICS, compare, measure
from mbgan.metrics.nuclei import find_nuclei, typical_nucleus
from mbgan.stains import EOSIN, HEMATOXYLIN


def stained(hematoxylin, eosin, light=240.0):
    """A picture [H, W, 3] of amounts [H, W] by the law of Beer and Lambert."""
    vectors = np.array([HEMATOXYLIN, EOSIN])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    amounts = np.stack([hematoxylin, eosin], -1)
    return np.rint(light * np.exp(-amounts @ vectors)).astype(np.uint8)


def ellipses(places, a, b, side=128):
    """Nuclei of amount 1 in pink tissue, and a strip of glass on top."""
    y, x = np.mgrid[:side, :side]
    inside = np.zeros((side, side), bool)
    for row, column in places:
        inside |= ((y - row) / a) ** 2 + ((x - column) / b) ** 2 <= 1
    tissue = y >= 8
    return stained(tissue * (0.1 + 0.9 * inside), tissue * 0.5), inside


def tensor(*pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def noise(side=128, sigma=4, seed=0):
    picture = np.random.default_rng(seed).standard_normal((side, side, 1))
    picture = ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="wrap")
    return np.rint(128 + 40 * picture / picture.std()).clip(0, 255).astype(np.uint8).repeat(3, 2)


GRID = [(row, column) for row in range(24, 120, 24) for column in range(16, 120, 24)]


def test_drawn_nuclei_are_found_with_count_area_and_ratio():
    picture, inside = ellipses(GRID, 8, 8)
    found = measure(tensor(picture), nucleus_px=16)
    assert found["nuclei"][0] == len(GRID)
    # Smoothing moves the border out by up to 1 px.
    assert (found["nuclear_area"][0] / np.pi) ** 0.5 == pytest.approx(8, abs=1)
    assert found["nc_ratio"][0] == pytest.approx(inside.sum() / (120 * 128), abs=0.05)
    assert found["nuclear_density"][0] == pytest.approx(len(GRID) / (120 * 128) * 1e4, rel=0.01)
    assert found["eccentricity"][0] < 0.2


def test_eccentricity_is_that_of_the_ellipse_and_turns_with_it():
    upright = measure(tensor(ellipses(GRID, 10, 6)[0]), nucleus_px=15)["eccentricity"]
    lying = measure(tensor(ellipses(GRID, 6, 10)[0]), nucleus_px=15)["eccentricity"]
    assert upright == pytest.approx((1 - 0.6**2) ** 0.5, abs=0.05)
    assert lying == pytest.approx(upright, abs=0.01)


def test_touching_nuclei_are_two_and_cut_ones_have_no_area():
    picture, _ = ellipses([(60, 56), (60, 71)], 8, 8)
    assert measure(tensor(picture), 16)["nuclei"][0] == 2
    cut = measure(tensor(ellipses([(60, 0)], 8, 8)[0]), 16)
    assert cut["nuclei"][0] == 1
    assert np.isnan(cut["nuclear_area"][0])


def test_nuclei_are_told_from_cytoplasm_that_grows_as_blue_as_those_elsewhere():
    """Any one threshold takes the lower half for one nucleus, or misses those of the upper."""
    _, inside = ellipses(GRID, 8, 8)
    row = np.mgrid[:128, :128][0]
    picture = stained((row >= 8) * (0.1 + row / 128 + 0.7 * inside), (row >= 8) * 0.5)
    found = measure(tensor(picture), nucleus_px=16)
    assert found["nuclei"][0] == len(GRID)
    assert found["nc_ratio"][0] == pytest.approx(inside.sum() / (120 * 128), abs=0.05)


@pytest.mark.parametrize("radius", [3, 6, 10])
def test_typical_nucleus_is_as_large_as_drawn(radius):
    step = 4 * radius
    places = [(r, c) for r in range(8 + step, 250, step) for c in range(step, 250, step)]
    picture, _ = ellipses(places, radius, radius, side=256)
    assert typical_nucleus(tensor(picture)) == pytest.approx(2 * radius, rel=0.25)


@pytest.mark.parametrize("light", [240.0, 190.0])
def test_amounts_of_stain_are_those_that_were_mixed_under_any_light(light):
    tissue = np.mgrid[:64, :64][0] >= 8
    found = measure(tensor(stained(tissue * 0.4, tissue * 0.7, light)), 8)
    assert found["hematoxylin"][0] == pytest.approx(0.4, abs=0.02)
    assert found["eosin"][0] == pytest.approx(0.7, abs=0.02)
    assert found["light"][0] == pytest.approx(light, abs=1)


def test_hue_goes_from_blue_to_red_as_eosin_replaces_hematoxylin():
    tissue = np.mgrid[:64, :64][0] >= 8
    mixes = [(0.8, 0.0), (0.4, 0.4), (0.0, 0.8)]
    hue = measure(tensor(*(stained(tissue * h, tissue * e) for h, e in mixes)), 8)["hue"]
    assert 220 < hue[0] < hue[1] < hue[2] < 370


def test_background_and_gaps_are_the_share_of_white():
    picture = ellipses(GRID, 8, 8)[0]
    holed = picture.copy()
    holed[60:80, 50:70] = 240
    before, after = (
        values
        for values in zip(
            *(measure(tensor(picture, holed), 16)[key] for key in ("background", "gaps")),
            strict=True,
        )
    )
    assert before == pytest.approx((8 / 128, 0), abs=1e-6)
    assert after == pytest.approx((8 / 128 + 400 / 128**2, 400 / 128**2), abs=1e-6)


def test_a_checkerboard_raises_high_frequency_and_a_blur_lowers_it():
    picture = noise()
    fine = picture + np.random.default_rng(1).integers(-4, 5, picture.shape[:2])[..., None]
    checkers = fine + 6 * ((np.indices(fine.shape[:2]).sum(0) % 2)[..., None] * 2 - 1)
    blurred = ndimage.gaussian_filter(fine.astype(float), (1, 1, 0))
    images = tensor(
        *(np.clip(np.rint(p), 0, 255).astype(np.uint8) for p in (blurred, fine, checkers))
    )
    found = measure(images, 8)
    assert found["high_frequency"][0] < found["high_frequency"][1] - 0.5
    assert found["high_frequency"][2] > found["high_frequency"][1] + 0.5
    assert found["spectrum_slope"][0] < found["spectrum_slope"][1]


def test_white_noise_has_no_slope_and_spreads_over_all_frequencies():
    white = np.random.default_rng(0).integers(0, 256, (128, 128, 1), np.uint8).repeat(3, 2)
    found = measure(tensor(white), 8)
    assert found["spectrum_slope"][0] == pytest.approx(0, abs=0.15)
    share = 1 - np.pi * 0.75**2 / 4  # of the plane of frequencies
    assert 10 ** found["high_frequency"][0] == pytest.approx(share, abs=0.02)


def test_images_without_nuclei_get_none():
    """Otsu's threshold splits anything: nothing is invented on glass, noise or one stain."""
    rng = np.random.default_rng(0)
    glass = rng.normal(240, 3, (128, 128, 3)).clip(0, 255).astype(np.uint8)
    tissue = np.mgrid[:128, :128][0] >= 8
    pink = stained(tissue * 0.1, tissue * (0.6 + 0.05 * rng.standard_normal((128, 128))))
    found = measure(tensor(glass, pink), 8)
    assert found["nuclei"].tolist() == [0, 0]
    assert found["background"][0] == 1
    assert np.isnan(found["hematoxylin"][0])
    assert found["nc_ratio"][1] == 0


@pytest.mark.parametrize("level", [0, 128, 255])
def test_constant_images_have_no_statistics(level):
    found = measure(torch.full((2, 3, 64, 64), level, dtype=torch.uint8), 8)
    assert set(found) == set(STATISTICS)
    assert all(np.isnan(values).all() for values in found.values())
    assert not find_nuclei(np.full((64, 64, 3), level, np.uint8), 8).any()


def test_distance_of_a_shift_is_the_shift_in_standard_deviations():
    x = np.random.default_rng(0).normal(5, 2, 80)
    score = compare({"hue": x}, {"hue": x + 3}, resamples=200)["hue"]
    assert score["value"] == pytest.approx(3 / x.std())
    low, high = score["interval"]
    assert low < score["value"] < high
    assert score["floor"]["n_each"] == 40
    assert score["floor"]["range"][1] < score["value"]


def test_order_of_images_does_not_matter():
    rng = np.random.default_rng(0)
    x, y, patients = rng.normal(size=30), rng.normal(1, 1, 20), np.arange(30) // 5
    for groups in (None, patients):
        turned = rng.permutation(30)
        one = compare({"hue": x}, {"hue": y}, groups, resamples=50)
        regrouped = None if groups is None else groups[turned]
        assert compare({"hue": x[turned]}, {"hue": y[::-1]}, regrouped, resamples=50) == one


def test_patients_who_differ_widen_interval_and_floor():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(8), 10)
    x = rng.normal(size=8)[patients] + 0.1 * rng.normal(size=80)
    y = rng.normal(2, 1, 80)
    alone, grouped = (compare({"hue": x}, {"hue": y}, g)["hue"] for g in (None, patients))
    assert np.ptp(grouped["interval"]) > 1.5 * np.ptp(alone["interval"])
    assert grouped["floor"]["mean"] > 2 * alone["floor"]["mean"]
    assert (alone["interval_over"], grouped["interval_over"]) == ("images", "patients")


def test_what_cannot_be_compared_is_left_out_with_the_reason():
    nan = np.full(3, np.nan)
    found = compare({"hue": nan, "gaps": np.zeros(3)}, {"hue": np.ones(4), "gaps": np.ones(4)})
    assert found["hue"]["n_real"] == 0
    assert "under 2 images" in found["hue"]["reason"]
    assert "no spread" in found["gaps"]["reason"]


def test_bad_input_is_refused_with_the_way_out():
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"uint8, got \[2, 3, 64, 64\] torch.float32; .*to_uint8"):
        measure(images.float(), 8)
    with pytest.raises(ValueError, match="at least 64 px a side, got"):
        measure(images[..., :32], 8)
    with pytest.raises(ValueError, match="nucleus_px must be at least 2 px, got nan"):
        measure(images, float("nan"))
    with pytest.raises(ValueError, match="found none in 2 images; set nucleus_px"):
        typical_nucleus(images)
    with pytest.raises(ValueError, match="got n_real=1, n_fake=4"):
        compare({"hue": np.ones(1)}, {"hue": np.ones(4)})
    with pytest.raises(ValueError, match="each of 3 real images, got 2 names"):
        compare({"hue": np.ones(3)}, {"hue": np.ones(4)}, groups=["a", "b"])


CLASSES = {1: "classic", 2: "desmoplastic", 3: "nodular", 4: "large_cell", 5: "normal"}


@pytest.mark.parametrize("magnification", ["10x", "100x"])
@pytest.mark.parametrize("each", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_nuclei_of_the_phantom_are_those_that_were_drawn(magnification, each):
    """On average over images, count within 10 % of the truth, N/C ratio within 0.05 of it."""
    drawn = [
        draw_image(magnification, label, patient, index, seed=7)
        for patient, label in CLASSES.items()
        for index in range(each)
    ]
    images = tensor(*(picture for picture, _ in drawn))
    found = measure(images, typical_nucleus(images))
    count = np.array([len(nuclei) for _, nuclei in drawn])
    area = np.array([sum(nucleus.area for nucleus in nuclei) for _, nuclei in drawn])
    tissue = (1 - found["background"]) * images[0, 0].numel()
    assert np.mean(found["nuclei"] / count) == pytest.approx(1, abs=0.10)
    assert np.mean(np.abs(found["nc_ratio"] - area / tissue)) < 0.05
