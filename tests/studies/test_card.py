"""The card tells the truth about a manifest, in one page that is safe to open anywhere."""

import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mbgan.studies.card import IN_CLUSTER, SAMPLES, SHOWN, write_card
from mbgan.studies.card_figures import MAX_DOTS, data_uri, stain_figures
from mbgan.studies.card_summary import natural, spread

HOSTILE = """</td><script>alert("1")</script>&amp; 'x' "y" {{ 7 * 7 }}.png"""
STAINS = [f"{s}_{c}_{when}" for when in ("before", "after") for s in "he" for c in "rgb"]
CHECKS = {
    "unreadable": {"rule": "no image can be decoded", "verdict": "drop"},
    "blurred": {"rule": "sharpness under 0.25 of the median", "verdict": "warn"},
    "duplicate": {"rule": "the same pixels as an image that is kept", "verdict": "drop"},
}
FORECAST = {
    "n_train": 613,
    "n_held_out": 307,
    "extractor": "efficientnet_lite0",
    "extractor_sha256": "0123456789abcdef",
    "n_each": 151,
    "comparisons": 101,
    "unit": "patient",
    "kid_floor": 0.00031,
    "kid_floor_range": (-0.0021, 0.0034),
    "smallest_difference": 0.0041,
    "total_images": 1_800_000,
    "speeds": [
        {"device": "one GPU", "images_per_s": 250.0, "steps_timed": 50, "batch_size": 128},
    ],
}
BLACK = Image.new("RGB", (8, 8))


def facts(**changes):
    return {
        "root": "/data/my images",
        "settings": {"image_size": 256, "splits": {"val": 0.25}, "target": None},
        "data_sha256": "feed" * 16,
        "versions": {"mbgan": "0.1.0"},
        "license": None,
        "checks": CHECKS,
        "ignored": {".txt": 13, "": 2},
        "unreadable_folders": [],
        "forecast": {},
    } | changes


def manifest(n=12, **columns):
    """n kept images at 10x, each of its own cluster; columns override."""
    rows = pd.DataFrame(
        {
            "name": [f"10x/a/{i}.png" for i in range(n)],
            "tile": "",
            "pixels_sha256": [str(i) for i in range(n)],
            "width": 224,
            "height": 224,
            "um_per_pixel": np.nan,
            "magnification": "10x",
            "class": "a",
            "patient": None,
            "cluster": range(n),
            "conflict": False,
            "split": "train",
            "verdict": "keep",
            "reasons": "",
        }
    )
    return rows.assign(**dict.fromkeys(STAINS, np.nan)).assign(**columns)


class Page(HTMLParser):
    """A page as a browser reads it: its text, its elements, and the attributes of each."""

    def __init__(self, html):
        super().__init__()
        self.html, self.words, self.elements = html, [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "td":
            self.words.append(" ")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] != "style":
            self.words.append(data)

    def pictures(self):
        return [attrs["src"] for tag, attrs in self.elements if tag == "img"]


@pytest.fixture
def card(tmp_path):
    """Write a card; return its page and its data."""

    def write(table, thumbnail=lambda name, tile: BLACK, **changes):
        write_card(tmp_path, table, facts(**changes), thumbnail)
        page = (tmp_path / "card.html").read_text(encoding="utf-8")
        return Page(page), json.loads((tmp_path / "card.json").read_text())

    return write


def test_every_count_is_on_the_page_and_in_the_data(card):
    """Twelve hundred images in all; the numbers differ so that none stands in for another."""
    verdict = np.repeat(["keep", "warn", "drop"], [1100, 73, 61])
    table = manifest(
        1234,
        verdict=verdict,
        reasons=np.repeat(["", "blurred (0.1 < 0.2)", "unreadable (truncated)"], [1100, 73, 61]),
        split=np.repeat(["train", "val", "test", ""], [610, 302, 261, 61]),
        magnification=np.repeat(["10x", "100x"], [812, 422]),
        patient=[str(i % 17) for i in range(1234)],
        **{"class": np.where(np.arange(1234) % 2, "b", "a")},
    )
    page, data = card(table)
    counted = {"found": 1234, "kept": 1173, "warned": 73, "dropped": 61}
    assert data["images"] == counted | {
        "train": 610, "val": 302, "test": 261, "files": 1234, "tiles": 0,
    }  # fmt: skip
    for claim in (
        "1,234 images at 10x and 100x, of 2 classes (a, b), from 17 patients.",
        "1,234 found 1,173 kept 73 of them with a warning 61 dropped",
        "610 train", "302 val", "261 test", "10x a 406 406", "100x b 211 ",
        "blurred: 73 images, 24 shown", "unreadable: 61 images, 24 shown",
    ):  # fmt: skip
        assert claim in page.text
    assert [(c["name"], c["images"], c["dropped"]) for c in data["checks"]] == [
        ("unreadable", 61, 61),
        ("blurred", 73, 0),
        ("duplicate", 0, 0),
    ]
    assert [(row["magnification"], row["class"], row["found"]) for row in data["counts"]] == [
        ("10x", "a", 406),
        ("10x", "b", 406),
        ("100x", "a", 211),
        ("100x", "b", 211),
    ]
    assert sum(row["val"] for row in data["by_patient"]) == 302


def test_an_unknown_patient_is_told_first(card):
    page, _ = card(manifest())
    claim = "Patient unknown: scores and splits are by image / duplicate cluster, and say nothing"
    assert claim in page.text
    assert page.text.index(claim) < page.text.index("Split of what was kept")
    page, _ = card(manifest(patient=["1", "2", None] * 4))
    assert claim not in page.text
    assert "Patient unknown for 4 images of 12" in page.text
    page, _ = card(manifest(patient=["1", "2", "3"] * 4))
    assert "Patient unknown" not in page.text


def test_names_stay_text(card):
    """Nothing that a file, folder, class or patient is called becomes a part of the page."""
    table = manifest(
        name=[f"{i}/{HOSTILE}" for i in range(12)],
        reasons=[f"blurred (like {HOSTILE})"] * 6 + [""] * 6,
        verdict=["warn"] * 6 + ["keep"] * 6,
        patient=HOSTILE,
        cluster=[0, 0, *range(2, 12)],
        magnification=["", *[HOSTILE] * 11],
        **{"class": HOSTILE},
    )
    page, _ = card(table, root=f"/data/{HOSTILE}", settings={HOSTILE: HOSTILE}, license=HOSTILE)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe", "object", "link"})
    harmless, _ = card(manifest(
        name=[f"{i}/plain" for i in range(12)],
        reasons=["blurred (like plain)"] * 6 + [""] * 6,
        verdict=["warn"] * 6 + ["keep"] * 6,
        patient="p",
        cluster=[0, 0, *range(2, 12)],
        magnification=["", *["m"] * 11],
        **{"class": "c"},
    ), root="/data/plain", settings={"plain": 1}, license="plain")  # fmt: skip
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    titles = [attrs["title"] for tag, attrs in page.elements if "title" in attrs]
    assert f"0/{HOSTILE}" in titles
    assert HOSTILE.split("/")[-1] in page.text


def test_a_folder_whose_name_is_no_utf8_is_written_out(card):
    """Python gives such bytes as lone surrogates, which UTF-8 cannot hold."""
    page, data = card(manifest(), root="/data/a\udcff")
    assert "Data card a\\udcff 12 images" in page.text
    assert data["root"] == "/data/a\udcff"


def test_the_page_needs_nothing_from_elsewhere(card):
    """Everything it names is inside it, and its own policy forbids the rest."""
    vectors = np.tile(np.array([0.65, 0.70, 0.29, 0.07, 0.99, 0.11] * 2), (12, 1))
    page, _ = card(manifest(**dict(zip(STAINS, vectors.T, strict=True)), width=[224, 225] * 6))
    for tag, attrs in page.elements:
        for key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert attrs.get(key, "#").startswith(("#", "data:image/")), (tag, attrs)
    targets = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    for _, attrs in page.elements:
        if attrs.get("href", "#").startswith("#"):
            assert attrs.get("href", "#")[1:] in targets | {""}
    assert not re.search(r"@import|url\((?!#)", page.html)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy in [attrs.get("content") for _, attrs in page.elements]
    identifiers = Counter(attrs["id"] for _, attrs in page.elements if "id" in attrs)
    assert max(identifiers.values()) == 1


def test_the_data_are_json_that_any_reader_takes(card):
    """NaN, infinity and numpy's types are none of it."""
    settings = {"nan": np.nan, "inf": [float("inf")], "int": np.int64(3), "path": pd.NaT}
    _, data = card(manifest(), settings=settings)
    assert data["schema"] == "mbgan-card/1"
    assert data["settings"] == {"nan": None, "inf": [None], "int": 3, "path": "NaT"}
    assert data["stain"]["eosin"]["before"] == {"images": 0, "mean": None, "degrees": None}


def test_the_card_does_not_depend_on_the_order_of_rows(card, tmp_path):
    table = manifest(
        100,
        cluster=[i // 3 for i in range(100)],
        verdict=["warn", "keep"] * 50,
        reasons=["blurred (x)", ""] * 50,
    )
    card(table)
    first = [(tmp_path / name).read_bytes() for name in ("card.html", "card.json")]
    card(table.sample(frac=1, random_state=1))
    assert [(tmp_path / name).read_bytes() for name in ("card.html", "card.json")] == first


def test_duplicates_are_shown_side_by_side_with_their_kind_and_fate(card):
    table = manifest(
        9,
        cluster=[0, 0, 0, 1, 1, 2, 2, 3, -1],
        pixels_sha256=["p", "p", "p", "q", "r", "s", "s", "t", ""],
        conflict=[False] * 5 + [True] * 2 + [False] * 2,
        verdict=["keep", "drop", "drop", "keep", "warn", "warn", "warn", "keep", "drop"],
        split=["train", "", "", "val", "val", "test", "test", "train", ""],
        **{"class": ["a"] * 6 + ["b"] * 3},
    )
    page, data = card(table)
    twins = data["duplicates"]
    counts = {k: v for k, v in twins.items() if k != "list"}
    assert counts == {
        "clusters": 3, "images": 7, "exact": 2, "near": 1, "conflicts": 1, "conflict_images": 2,
    }  # fmt: skip
    assert [(g["cluster"], g["kind"], g["conflict"]) for g in twins["list"]] == [
        (2, "exact", True),
        (0, "exact", False),
        (1, "near", False),
    ]
    text = page.text[page.text.index("7 images are in 3 groups") :]
    conflict, rest = text.split("Staining and size")[0].split("Without a conflict")
    assert conflict.count("Same pixels") == rest.count("Same pixels") == 1
    assert "1 conflict of labels: 2 images" in conflict
    fate = re.sub(r"\W+", " ", conflict)
    assert "a 10x 5 png kept with a warning test b 10x 6 png kept with a warning test" in fate
    fate = re.sub(r"\W+", " ", rest)
    assert "Same pixels 3 images a 10x 0 png kept train a 10x 1 png dropped" in fate
    assert "Nearly the same 2 images a 10x 3 png kept val a 10x 4 png kept with a w" in fate


def test_two_rows_without_a_cluster_are_no_duplicates(card):
    page, data = card(manifest(3, cluster=-1))
    assert data["duplicates"]["clusters"] == 0
    assert "No image was found twice." in page.text


def test_what_cannot_be_shown_has_a_place_and_its_reason(card):
    """The picture of an unreadable file is missing; its name and the reason are not."""
    broken = "10x/a/3.png"
    table = manifest(
        verdict=["drop" if i == 3 else "keep" for i in range(12)],
        reasons=["unreadable (truncated file)" if i == 3 else "" for i in range(12)],
    )
    page, _ = card(table, lambda name, tile: None if name == broken else BLACK)
    assert page.text.count("cannot be shown") == 1
    assert re.search(r"cannot be shown a · 10x truncated file 3\.png", page.text)


def test_an_image_that_fails_two_checks_is_in_both_sheets(card):
    """A name inside a reason may hold what separates reasons."""
    text = "blurred (0.1 < 0.2); duplicate (of odd; name (1).png); duplicate (of b.png)"
    page, data = card(manifest(1, verdict="drop", reasons=text))
    assert [(c["name"], c["dropped"]) for c in data["checks"]] == [
        ("unreadable", 0),
        ("blurred", 1),
        ("duplicate", 1),
    ]
    assert "of odd; name (1).png); of b.png" not in page.text
    assert "of odd; name (1).png; of b.png" in page.text


def test_a_sheet_shows_what_was_dropped_before_what_was_warned(card):
    """Of 24 pictures for 400 images, the few that matter most must not be left to chance."""
    verdict = ["warn"] * 390 + ["drop"] * 10
    page, _ = card(manifest(400, verdict=verdict, reasons="blurred (x)", magnification=""))
    sheet = page.text[page.text.index("400 images, 24 shown") :].split("Duplicates")[0]
    assert {int(i) for i in re.findall(r"(\d+)\.png", sheet)} > set(range(390, 400))


def test_a_reason_without_a_check_is_refused(card):
    with pytest.raises(ValueError, match=r"begin with a check \(unreadable, .*got 'foggy \(1\)'"):
        card(manifest(1, reasons="foggy (1)"))


def test_samples_are_kept_images_of_every_class_and_magnification(card):
    """Counted by what is loaded: nothing else on this card has pictures."""
    asked = []
    table = manifest(
        80,
        verdict=["keep", "keep", "drop", "drop"] * 20,
        magnification=np.repeat(["10x", "100x"], 40),
        **{"class": ["a", "b"] * 40},
    )
    page, _ = card(table, lambda name, tile: asked.append(name) or BLACK)
    assert len(asked) == len(set(asked)) == 4 * SAMPLES == len(page.pictures())
    chosen = table.set_index("name").loc[asked]
    assert "drop" not in set(chosen["verdict"])
    assert set(chosen.groupby(["magnification", "class"]).size()) == {SAMPLES}


def test_hours_are_images_over_speed(card):
    """1,800,000 images at 250 images/s take 7,200 s."""
    page, data = card(manifest(), forecast={"10x": FORECAST})
    assert data["forecast"]["10x"]["speeds"][0]["hours"] == 2
    for claim in (
        "613 images to train on, 307 held out",
        "0.0041 is the smallest difference in KID that 307 held-out images can tell apart",
        "\u22120.0021 to 0.0034 is where KID lies 95 % of the time",
        "151 in each (mean 0.00031)",
        "2.0 hours on one GPU is what the configured run takes, at 250 images/s (measured over "
        "50 steps of 128 images)",
        "1,800,000 images",
        "101 random comparisons of real images with real images; no patient is on both sides",
        "efficientnet_lite0 (weights 0123456789ab)",
    ):
        assert claim in page.text


def test_a_missing_forecast_says_why(card):
    page, data = card(
        manifest(magnification=["10x", "100x"] * 6), forecast={"10x": "only 1 image is held out"}
    )
    assert "10x No forecast: only 1 image is held out." in page.text
    assert "100x No forecast: it was not asked for." in page.text
    assert data["forecast"] == {"10x": "only 1 image is held out"}


def test_what_is_unknown_and_left_aside_is_listed(card):
    table = manifest(
        magnification=["", "", *["10x"] * 10],
        um_per_pixel=[0.25, 0.5, 0.26, *[np.nan] * 9],
        **{"class": ["unknown", *["a"] * 11]},
    )
    page, data = card(table, unreadable_folders=["locked/away"])
    assert data["unplaced"] == {"magnification": 2, "class": 1}
    for claim in (
        "2 images of unknown magnification, 1 of unknown class",
        "10x/a/0.png 10x/a/1.png",
        "13 .txt, 2 without extension.",
        "1 folder could not be read; what is in there is not counted: locked/away",
        "The patient of 12 of 12 images",
        "in \u00b5m of 9 of 12 images",
        "The class of 1 of 12 images",
        "The license of the images",
        "10x: the files state 0.26 \u00b5m per pixel, n = 1.",
        "Unknown magnification: the files state 0.375 \u00b5m per pixel (from 0.25 to 0.5), n = 2.",
    ):
        assert claim in page.text
    page, _ = card(manifest(patient="1", um_per_pixel=0.25), ignored={}, license="CC BY 4.0")
    section = page.text[page.text.index("What is not known") : page.text.index("How it was made")]
    assert section == "What is not known Whether the labels are right. Only conflicts between " + (
        "duplicates are found here. "
    )
    assert "license CC BY 4.0" in page.text
    assert "Nothing: every file is an image" in page.text


def test_settings_hash_and_versions_are_on_the_page(card):
    page, _ = card(manifest())
    for claim in ("feed" * 16, "/data/my images", "image_size 256", "splits.val 0.25",
                  "target not set", "mbgan 0.1.0"):  # fmt: skip
        assert claim in page.text


def test_tiles_are_called_tiles(card):
    table = manifest(4, name=["a.png"] * 3 + ["b.png"], tile=["0,0,9,9", "9,0,9,9", "0,9,9,9", ""])
    asked = []
    page, data = card(table, lambda name, tile: asked.append((name, tile)) or BLACK)
    assert "4 tiles cut from 2 files" in page.text
    assert (data["images"]["files"], data["images"]["tiles"]) == (2, 3)
    assert sorted(asked)[0] == ("a.png", "0,0,9,9")
    assert data["sizes"] == [{"width": 224, "height": 224, "files": 2}]


def test_many_patients_are_folded(card):
    for n, is_open in ((30, True), (31, False)):
        page, _ = card(manifest(n, patient=[str(i) for i in range(n)]))
        (folded,) = [attrs for tag, attrs in page.elements if tag == "details"]
        assert ("open" in folded) == is_open


def test_spread_is_the_median_angle_to_the_mean():
    """Vectors in pairs 1, 5 and 20 degrees to either side of one direction."""
    angles = np.radians([1, -1, 5, -5, 20, -20])
    found = spread(np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], axis=1))
    assert found["images"] == 6
    np.testing.assert_allclose(found["mean"], [1, 0, 0], atol=1e-12)
    assert found["degrees"] == pytest.approx(5)


def test_a_dot_is_an_image():
    """For each image one of hematoxylin and one of eosin; dots alone are transparent."""
    vectors = np.tile([0.65, 0.70, 0.29, 0.07, 0.99, 0.11], (300, 1))
    vectors += np.random.default_rng(0).normal(0, 0.02, vectors.shape)
    for n, dots in ((7, 7), (300, MAX_DOTS)):
        columns = dict(zip(STAINS, vectors[:n].T, strict=False))
        (figure,) = stain_figures(manifest(n, **columns)).values()
        assert figure.count("fill-opacity: 0.75") == 2 * dots
        assert "currentColor" in figure
        assert "http" not in figure.split(">", 1)[1]
    assert stain_figures(manifest()) == {}


@pytest.mark.parametrize(
    ("size", "shown"), [((1000, 500), (128, 64)), ((20_000, 1), (128, 1)), ((3, 2), (3, 2))]
)
def test_thumbnails_keep_the_ratio_of_the_sides(size, shown):
    encoded = data_uri(Image.new("RGBA", size)).removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == shown


def test_numbers_in_names_sort_by_value():
    assert sorted(["", "100x", "2.5x", "10x", "high"], key=natural) == [
        "2.5x", "10x", "100x", "high", "",
    ]  # fmt: skip


@pytest.mark.parametrize("n", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_page_of_many_images_is_no_larger_than_one_of_some(tmp_path, n):
    """Pure noise makes the largest thumbnails, and each check, cluster and class has too many."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    noise, asked, row = Image.fromarray(noise), [], np.arange(n)
    checks = {f"check {i}": {"rule": "r" * 60, "verdict": "warn"} for i in range(15)}
    table = manifest(
        n,
        name=[f"{'x' * 60}/{i}.png" for i in row],
        cluster=row // 5,
        conflict=row // 5 % 2 == 0,
        magnification=[f"{1 + i % 3}0x" for i in row],
        patient=[str(i % 900) for i in row],
        verdict="warn",
        reasons=[f"check {i % 15} (x)" for i in row],
        width=100 + row,
        **{"class": [f"class {i % 30}" for i in row]},
        **dict(zip(STAINS, np.random.default_rng(0).random((12, n)), strict=True)),
    )
    thumbnail = lambda name, tile: asked.append(name) or noise  # noqa: E731
    write_card(tmp_path, table, facts(checks=checks), thumbnail)
    page = (tmp_path / "card.html").read_text()
    most = SHOWN * (len(checks) + 2 * IN_CLUSTER + SAMPLES)
    assert page.count("<img") == most
    assert len(asked) == len(set(asked)) <= most
    assert len(page) < 10e6
    assert f"Showing {SHOWN} of {n // 10:,} conflicts; all are in manifest.parquet." in page
