"""Measures of one image against closed forms, and checks against faults planted in drawn ones."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from mbgan.data.phantom import PATIENTS, draw_image
from mbgan.data.quality import MEASURES, MIN_FOR_MEDIAN, Check, judge, measure

CONF = Path(__file__).parents[2] / "conf"
SHARED = Path(__file__).parents[3] / "shared/data"  # beside the checkout
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
WHITE, PINK = (250, 250, 250), (220, 120, 180)
pytestmark = pytest.mark.filterwarnings("error")  # also of numpy, about means of nothing
OF_TISSUE = {"sharpness", "bright", "colorfulness", "swapped"}
RNG = np.random.default_rng(0)


def halves(left, right, shape=(64, 64)):
    image = np.empty((*shape, 3), np.uint8)
    image[:, : shape[1] // 2], image[:, shape[1] // 2 :] = left, right
    return image


def jpeg(image, quality):
    code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])


def smear(image, angle, length=9):
    """Move the camera by so many pixels during the exposure."""
    kernel = np.zeros((31, 31), np.float32)
    kernel[15, 15 - length // 2 : 16 + length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((15, 15), angle, 1)
    kernel = cv2.warpAffine(kernel, turn, (31, 31))
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def empty_slide(_):
    """Noise of sigma 3, and dust that dims up to 40 % of the light."""
    dust = np.zeros((256, 256), np.float32)
    for x, y in RNG.integers(0, 256, (8, 2)).tolist():
        cv2.circle(dust, (x, y), 3, 0.4, -1)
    light = np.array([246, 240, 250]) * (1 - cv2.GaussianBlur(dust, (0, 0), 1))[..., None]
    return np.clip(light + RNG.normal(0, 3, (256, 256, 3)), 0, 255).astype(np.uint8)


def black_frame(_):
    return np.clip(RNG.normal(3, 2, (256, 256, 3)), 0, 255).astype(np.uint8)


def exposed(image, factor):
    return np.clip(image * factor, 0, 255).astype(np.uint8)


def oversaturated(image):
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    return cv2.cvtColor(cv2.merge([hue, cv2.multiply(saturation, 4), value]), cv2.COLOR_HSV2RGB)


FAULTS = {
    "empty slide": (empty_slide, {"blank", "near_empty", "uniform"}),
    "black frame": (black_frame, {"uniform", "too_dark", "grayscale"}),
    "blur": (lambda x: cv2.GaussianBlur(x, (0, 0), 2), {"blurred"}),
    "blur, then JPEG": (lambda x: jpeg(cv2.GaussianBlur(x, (0, 0), 2), 75), {"blurred"}),
    "motion along x": (lambda x: smear(x, 0), {"blurred"}),
    "motion across": (lambda x: smear(x, 45), {"blurred"}),
    "motion along y": (lambda x: smear(x, 90), {"blurred"}),
    "underexposed": (lambda x: exposed(x, 0.3), {"too_dark"}),
    "overexposed": (lambda x: exposed(x, 2.2), {"too_bright"}),
    "oversaturated": (oversaturated, {"saturated"}),
    "gray": (lambda x: np.stack([cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)] * 3, 2), {"grayscale"}),
    "BGR": (lambda x: np.ascontiguousarray(x[..., ::-1]), {"red_blue_swapped"}),
    "JPEG 30": (lambda x: jpeg(x, 30), set()),
    "noise": (lambda x: np.clip(x + RNG.normal(0, 3, x.shape), 0, 255).astype(np.uint8), set()),
    "a fifth darker": (lambda x: exposed(x, 0.8), set()),
    "turned": (lambda x: np.ascontiguousarray(np.rot90(x)), set()),
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    """Six drawn pictures of each magnification."""
    chosen = [1, 2, 3, 4, 5, 7]
    return {m: [draw_image(m, PATIENTS[p], p, 0, 0)[0] for p in chosen] for m in ("10x", "100x")}


@pytest.fixture(scope="module")
def default():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("checks/default").checks, _convert_="all")


def table_of(images, magnification="40x"):
    rows = [{**measure(i), "width": i.shape[1], "height": i.shape[0]} for i in images]
    return pd.DataFrame(rows).assign(magnification=magnification)


def names(findings):
    return {finding.reason.split(" (")[0] for finding in findings}


@pytest.mark.parametrize("magnification", ["10x", "100x"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_found_and_what_is_none_is_not(
    pictures, default, magnification, fault
):
    """Whatever the tissue: the faulty ones are measured against the median of the good ones."""
    plant, expected = FAULTS[fault]
    good = pd.concat([table_of(pictures[magnification])] * 4)
    bad = table_of([plant(image) for image in pictures[magnification]])
    findings = judge(pd.concat([good, bad]), default)
    assert not any(findings[: len(good)])
    for found in findings[len(good) :]:
        assert names(found) == expected


@real
def test_of_the_real_images_none_is_dropped_and_few_are_suspect(default):
    """Looked at one by one: they hold tissue, a few out of focus, dim or blown out."""
    for magnification, most in (("100x", 2), ("400x", 4)):
        paths = sorted((SHARED / "oral-histology" / magnification).rglob("*.jpg"))[::10]
        findings = judge(table_of([np.asarray(Image.open(p)) for p in paths]), default)
        assert {f.verdict for found in findings for f in found} <= {"warn"}
        assert sum(map(bool, findings)) <= most


def test_background_is_the_share_that_is_nearly_as_light_as_the_light():
    assert measure(halves(WHITE, PINK))["background"] == 0.5
    assert measure(halves((250, 220, 240), PINK))["background"] == 0.5  # of a pink light


def test_pale_purple_all_over_is_tissue_not_background():
    """The lightest of an image is its light only if it is light."""
    assert measure(np.full((32, 32, 3), (180, 160, 210), np.uint8))["background"] == 0


def test_what_needs_tissue_is_nan_on_a_clean_slide():
    measures = measure(np.full((32, 32, 3), 255, np.uint8))
    assert measures["background"] == 1
    assert {name for name in MEASURES if np.isnan(measures[name])} == OF_TISSUE


def test_contrast_is_the_step_in_optical_density():
    """Gray 92 beside 192, 8 added to each: log(200 / 100), be it in a tenth of the image."""
    image = halves((192, 192, 192), (192, 192, 192), (100, 400))
    image[:, :40] = 92
    assert measure(image)["contrast"] == pytest.approx(np.log(2), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "color", "other"),
    [
        ("dark", (79, 40, 60), (80, 40, 60)),
        ("saturated", (3, 60, 101), (4, 60, 101)),
        ("saturated", (3, 60, 101), (3, 60, 100)),
    ],
)
def test_dark_and_saturated_are_shares_of_pixels(name, color, other):
    assert measure(halves(color, PINK))[name] == 0.5
    assert measure(halves(other, PINK))[name] == 0


def test_bright_is_a_share_of_stained_tissue_and_white_is_no_part_of_it():
    image = np.vstack([halves((252, 150, 200), PINK), halves((255, 255, 255), (255, 255, 255))])
    assert measure(image)["bright"] == 0.5
    assert measure(halves((251, 150, 200), PINK))["bright"] == 0
    # Light of a tint, clipped in red, and falling off by 17 % to a side: no tissue is lost there.
    image = np.vstack([halves((255, 230, 240), PINK), halves((255, 191, 200), PINK)])
    assert measure(image)["bright"] == 0


def test_colorfulness_is_that_of_the_paper():
    image = halves((200, 100, 180), (140, 100, 100))  # red-green 100, 40; yellow-blue -30, 20
    assert measure(image)["colorfulness"] == pytest.approx(np.hypot(30, 25) + 0.3 * np.hypot(70, 5))


def dyed(stain):
    """An image [64, 64, 3] of 0 to 1 units of a stain, densities of R, G and B."""
    amount = np.linspace(0, 1, 64 * 64).reshape(64, 64, 1)
    return np.rint(255 * np.exp(-amount * stain)).astype(np.uint8)


HEMATOXYLIN = np.array([0.650, 0.704, 0.286])
GROWTH = pytest.approx(-0.364 / 1.64, abs=0.005)  # of blue minus red density with the total


def test_swapped_of_pure_hematoxylin_is_that_of_its_stain_vector():
    assert measure(dyed(HEMATOXYLIN))["swapped"] == GROWTH


@pytest.mark.parametrize("deep", [(0.4, 2.4, 1.5), (1.0, 2.8, 1.5)], ids=["muscle", "keratin"])
def test_deep_eosin_does_not_pass_for_swapped_channels(deep):
    """It is darker than nuclei and absorbs blue, which swapped hematoxylin does too."""
    image = np.vstack([dyed(HEMATOXYLIN), dyed(np.array(deep))])
    assert measure(image)["swapped"] == GROWTH


def test_swapped_is_positive_once_the_channels_are(pictures):
    for image in pictures["10x"] + pictures["100x"]:
        assert measure(image)["swapped"] < -0.05
        assert measure(np.ascontiguousarray(image[..., ::-1]))["swapped"] > 0.05


def waves(density):
    """Paint a density [W] over 100 rows, in gray."""
    gray = np.rint(263 * np.exp(-1 - density) - 8).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(gray[None, :, None], (100, len(density), 3)))


def steepening(period):
    """A blur of sigma shrinks exp(i w x) by exp(-sigma^2 w^2 / 2), here of 0.7 and of 2 px."""
    return np.exp((2**2 - 0.7**2) / 2 * (2 * np.pi / period) ** 2) - 1


@pytest.mark.parametrize("period", [10, 16])
def test_sharpness_of_a_wave_is_that_of_the_two_blurs(period):
    image = waves(0.5 * np.cos(2 * np.pi / period * np.arange(640 + 1)))  # whole periods
    expected = pytest.approx(steepening(period), rel=0.03)
    assert measure(image)["sharpness"] == expected
    assert measure(np.ascontiguousarray(np.rot90(image)))["sharpness"] == expected


RIPPLES = 0.5 * np.cos(2 * np.pi / 10 * np.arange(640 + 1))
SWELL = 0.5 * np.cos(2 * np.pi / 24 * np.arange(640 + 1))


def test_sharpness_is_that_of_the_steepest_places():
    """A tenth of ripples in a swell, which the blur hardly changes and which does not count."""
    image = waves(np.where(np.arange(641) < 60, RIPPLES, SWELL))
    assert measure(image)["sharpness"] == pytest.approx(steepening(10), rel=0.1)


def test_sharpness_of_a_little_tissue_is_not_that_of_the_glass_beside_it():
    """The steepest twentieth is of the tissue, a tenth of the image: of all, it would be half."""
    columns = np.arange(641)
    shore = -0.25 + 0.75 * np.cos(np.pi * np.clip((columns - 48) / 40, 0, 1))  # 0.5 to -1
    density = np.where(columns < 15, RIPPLES, np.where(columns < 48, SWELL, shore))
    assert measure(waves(density))["sharpness"] == pytest.approx(steepening(10), rel=0.15)


def test_sharpness_depends_neither_on_exposure_nor_on_staining(pictures):
    for image in pictures["10x"]:
        sharp = measure(image)["sharpness"]
        assert measure(exposed(image, 0.6))["sharpness"] == pytest.approx(sharp, rel=0.05)
        paler = np.rint(255 * (image / 255) ** 0.6).astype(np.uint8)
        assert measure(paler)["sharpness"] == pytest.approx(sharp, rel=0.1)


def test_sharpness_falls_with_every_step_of_blur(pictures):
    for image in pictures["100x"]:
        blurred = [image, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1, 2, 3, 4))]
        assert (np.diff([measure(x)["sharpness"] for x in blurred]) < 0).all()


def test_a_larger_image_is_averaged_by_area_first(pictures):
    """A checkerboard finer than the working size leaves no trace."""
    image = pictures["10x"][0].clip(20, 235)
    board = np.tile(np.array([[20, -20], [-20, 20]]), (256, 256))[..., None]
    large = (image.repeat(2, 0).repeat(2, 1) + board).astype(np.uint8)
    assert measure(large) == pytest.approx(measure(image))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 1), (3, 5), (10**6, 1), (1, 10**6)])
@pytest.mark.parametrize("color", [WHITE, PINK, (0, 0, 0)])
def test_images_of_any_shape_are_measured(shape, color):
    measures = measure(np.full((*shape, 3), color, np.uint8))
    assert tuple(measures) == MEASURES
    assert measures["contrast"] == pytest.approx(0, abs=1e-5)
    assert measures["background"] == (color == WHITE)
    assert np.isnan(measures["sharpness"])


@pytest.mark.parametrize("place", [(0, 0), (1, 1)])
def test_a_single_pixel_of_tissue_is_measured_without_a_warning(place):
    image = np.full((2, 2, 3), WHITE, np.uint8)
    image[place] = PINK
    assert measure(image)["background"] == 0.75


SHARP = Check("sharpness", "warn", below=0.5, relative=True)


def sharpness_table(**values):
    rows = [(m, v) for m, vs in values.items() for v in vs]
    return pd.DataFrame(rows, columns=["magnification", "sharpness"])


def test_a_reason_tells_the_check_the_measure_and_the_limit():
    table = sharpness_table(x10=[2.0] * 19 + [0.22])
    assert judge(table, {"blurred": SHARP})[19] == [
        ("blurred (sharpness 0.11 of the median, under 0.5)", "warn")
    ]
    empty, small = Check("background", "drop", above=0.98), Check("min_side", "warn", below=32)
    table = pd.DataFrame({"background": [0.991, 0.98], "width": [31, 32], "height": [400, 32]})
    assert judge(table, {"empty": empty, "small": small}) == [
        [
            ("empty (background 0.991, over 0.98)", "drop"),
            ("small (min_side 31, under 32)", "warn"),
        ],
        [],
    ]


def test_the_rule_of_a_check_is_in_words():
    assert SHARP.rule == "sharpness under 0.5 of the median"
    assert Check("dark", "warn", above=0.1).rule == "dark over 0.1"


def test_the_median_is_that_of_the_own_magnification():
    """The same 1.0 is soft at 10x, where the median is 4, and sharp at 100x."""
    table = sharpness_table(x10=[4.0] * 20 + [1.0], x100=[1.0] * 21)
    assert [bool(found) for found in judge(table, {"blurred": SHARP})] == [False] * 20 + [True] + [
        False
    ] * 21


def test_a_relative_check_is_silent_and_says_so_where_too_few_make_a_median(caplog):
    values = [4.0] * (MIN_FOR_MEDIAN - 2) + [np.nan, 0.1]
    with caplog.at_level(logging.WARNING):
        assert not any(judge(sharpness_table(x10=values), {"blurred": SHARP}))
    assert caplog.messages == [
        "the check blurred is left out at x10: its median needs 20 images, got 19"
    ]
    assert judge(sharpness_table(x10=[*values, 4.0]), {"blurred": SHARP})[MIN_FOR_MEDIAN - 1]


def test_an_unreadable_image_has_no_findings(default):
    nothing = dict.fromkeys(MEASURES, np.nan) | {"width": 0, "height": 0, "magnification": ""}
    good = [table_of([halves(WHITE, PINK)])] * 30
    assert judge(pd.concat([*good, pd.DataFrame([nothing])]), default)[30] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure": "blur", "below": 1}, "one of background, .*, min_side, got 'blur'"),
        ({"verdict": "delete", "below": 1}, "must be warn or drop, got 'delete'"),
        ({}, "one limit, above or below, got above=None and below=None for dark"),
        ({"above": 1, "below": 0}, "got above=1 and below=0 for dark"),
    ],
)
def test_a_check_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Check(**{"measure": "dark", "verdict": "warn"} | settings)
