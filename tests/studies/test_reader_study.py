"""The reader study: blind to its readers, fair in its scores, and strict with what is handed in."""

import base64
import io
import json
import random
import re
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, chromium
from conftest import field, put
from PIL import Image
from scipy.stats import binom, binomtest, norm
from scipy.stats import t as t_distribution
from sklearn.metrics import roc_auc_score

from mbgan import reader_study as verb
from mbgan.data.folder import ImageFile
from mbgan.studies import reader_page
from mbgan.studies.page import csp_hash
from mbgan.studies.reader_answers import read_answers, read_key, seal_of
from mbgan.studies.reader_page import Design, Side, build, order
from mbgan.studies.reader_scores import score_readers
from mbgan.studies.reader_statistics import (
    auroc,
    cohen_kappa,
    d_prime,
    effective,
    fleiss_kappa,
    images_needed,
    power_of,
    rate,
)

TRUTHS = ("real", "synthetic")


def design(**changes):
    settings = {"n": 12, "repeats": 4, "classes": [], "encoding": "png", "quality": 92}
    return Design(**settings | {"seed": "s3cret-seed"} | changes)


def sides(n):
    """Real images full of detail and flat generated ones, whose files differ much in length."""
    real = np.stack([field(i, 32) for i in range(n)]).transpose(0, 3, 1, 2)
    fake = np.zeros_like(real) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    rows = [
        [{"source": f"{t}-{i}", "class": "tumor", "patient": None} for i in range(n)]
        for t in ("hospital", "z")
    ]
    return Side(real, rows[0]), Side(fake, rows[1])


def of_patients(key, n):
    """The key of a study whose real images are of n patients."""
    real = [row for row in key["images"].values() if row["truth"] == "real"]
    for i, row in enumerate(real):
        row["patient"] = f"patient {i % n}"
    return key


def study(**changes):
    asked = design(**changes)
    return build(*sides(asked.n // 2), asked)


def content_of(page):
    return json.loads(re.search(r'id="study">(.*?)</script>', page, re.S)[1])


def answers_of(key, reader, judge, **changes):
    """An answer file as the page writes it; judge returns answer and confidence of an image."""
    rows = []
    for trial, image in enumerate(key["trials"]):
        answer, confidence = judge(key["images"][image]["truth"], trial)
        row = {"trial": trial, "image": image, "answer": answer, "confidence": confidence}
        at = "2026-01-01T00:00:00.000Z"
        rows.append(row | {"class": None, "note": "", "ms": 1000 + trial, "at": at})
    content = {"version": 1, "study": key["study"], "reader": reader, "session": f"of {reader}"}
    content |= {"answers": rows} | changes
    return content | {"seal": seal_of(content)}


def perfect(truth, trial):
    return truth, 4


def inverted(truth, trial):
    return TRUTHS[truth == "real"], 4


def guesser(seed):
    rng = random.Random(seed)
    return lambda truth, trial: (rng.choice(TRUTHS), rng.randint(1, 4))


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_files_of_real_and_generated_images_have_one_length_and_nothing_but_pixels(encoding):
    page, _ = study(encoding=encoding)
    uris = content_of(page)["images"]
    assert len(set(map(len, uris.values()))) == 1
    assert len({uri.split(",")[0] for uri in uris.values()}) == 1
    for uri in uris.values():
        image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        image.load()
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    # All up to the pixels is the same: tables of quantization and code words, filters, sizes.
    pixels = {"png": b"IDAT", "jpeg": b"\xff\xda"}[encoding]
    files = [base64.b64decode(uri.split(",")[1]) for uri in uris.values()]
    assert len({file[: file.index(pixels) - 4] for file in files}) == 1


def test_what_stands_after_the_pixels_is_not_to_be_told_from_what_stands_after_others():
    """Flat images are short files and get much to fill them up; no two of these begin alike."""
    page, _ = study()
    ends = []
    for uri in content_of(page)["images"].values():
        file = base64.b64decode(uri.split(",")[1])
        ends.append(file[file.index(b"IEND") + 8 :])
    assert len({end[:8] for end in ends if end}) == sum(map(bool, ends)) >= 11
    filling = np.frombuffer(b"".join(ends), np.uint8)
    assert np.bincount(filling, minlength=256).std() < 2 * np.sqrt(len(filling) / 256)


def test_numbers_that_readers_see_are_none_of_pythons(monkeypatch):
    """From 2.5 kB of those all others can be computed; of them only the order is made."""

    class Sampler:
        def __init__(self, seed):
            self.sample = random.Random(seed).sample

    monkeypatch.setattr(reader_page, "random", SimpleNamespace(Random=Sampler))
    assert len(study()[1]["trials"]) == 16


def test_images_are_of_as_many_patients_as_there_are(tmp_path):
    """9 of 12 images are of one patient; of 6 chosen from 4 patients 3 are."""
    files = [ImageFile(tmp_path, str(i), None, "x", str(max(0, i - 8))) for i in range(12)]
    for seed in "abcd":
        chosen = reader_page._choose(files, "images", design(seed=seed), "real")
        patients = [files[i].patient for i in chosen]
        assert len(set(chosen)) == 6
        assert sorted(patients) == ["0", "0", "0", "1", "2", "3"]
    alone = [ImageFile(tmp_path / str(i), str(i), None, "x", None) for i in range(12)]
    chosen = {i for s in "abcdefgh" for i in reader_page._choose(alone, "", design(seed=s), "")}
    assert chosen == set(range(12))  # all have a chance


def test_png_shows_the_pixels_that_were_given():
    page, key = study()
    real, fake = sides(6)
    pixels = {
        row["source"]: x
        for side in (real, fake)
        for row, x in zip(side.rows, side.images, strict=True)
    }
    for name, uri in content_of(page)["images"].items():
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
        assert np.array_equal(shown.transpose(2, 0, 1), pixels[key["images"][name]["source"]])


def test_nothing_in_the_page_tells_the_key():
    page, key = study()
    shown = content_of(page)
    assert set(shown) == {"study", "version", "classes", "trials", "images"}
    for word in (key["secret"], key["seed"], "hospital", "z-0"):
        assert word not in page
    # Neither the list of images nor their names have the real ones first.
    assert list(shown["images"]) == sorted(shown["images"])
    many = study(n=80)[1]
    by_name = [row["truth"] == "real" for row in many["images"].values()]
    by_trial = [many["images"][name]["truth"] == "real" for name in many["trials"][:40]]
    for half in (by_name[:40], by_trial):
        assert 8 <= sum(half) <= 32  # of 40; outside with p < 1e-4


def test_the_page_is_one_file_without_network():
    page, _ = study()
    assert "default-src 'none'" in page
    assert "http:" not in page
    assert "https:" not in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert csp_hash(script) in page


def test_one_seed_makes_one_study_and_another_seed_another():
    assert study() == study()
    assert study(seed="other")[1]["trials"] != study()[1]["trials"]


def test_repeats_come_with_at_least_a_sixth_of_the_images_between():
    names = [f"{i:02d}" for i in range(30)]
    for seed in range(50):
        trials = order(names, 10, random.Random(seed))
        assert sorted(set(trials)) == names
        assert len(trials) == 40
        last = {name: place for place, name in enumerate(trials)}
        gaps = [last[name] - trials.index(name) for name in names if trials.count(name) == 2]
        assert len(gaps) == 10
        assert trials[:15] != names[:15]
        assert trials[-10:] != [name for name in trials[-10:] if trials.count(name) == 2]
        assert min(gaps) > 5


def test_a_perfect_reader_scores_as_perfect_and_a_stubborn_one_as_below_chance():
    _, key = study(n=40)
    readers = [answers_of(key, "good", perfect), answers_of(key, "bad", inverted)]
    good, bad = score_readers(key, readers)["readers"]
    for name in ("accuracy", "sensitivity", "specificity", "auroc", "consistency"):
        assert good[name]["value"] == 1
    assert good["d_prime"] == pytest.approx(2 * 1.98, abs=0.02)  # z(20.5 / 21) twice
    assert good["verdict"].startswith("tells them apart")
    assert bad["accuracy"]["value"] == bad["auroc"]["value"] == 0
    assert bad["verdict"].startswith("takes one for the other")


def test_guessers_score_as_chance_and_are_called_different_from_it_no_oftener_than_claimed():
    _, key = study(n=60)
    readers = [answers_of(key, f"r{i}", guesser(i)) for i in range(200)]
    found = [score_readers(key, [reader])["readers"][0] for reader in readers]
    for name in ("accuracy", "sensitivity", "specificity", "auroc", "consistency"):
        assert np.mean([row[name]["value"] for row in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([row["d_prime"] for row in found]) == pytest.approx(0, abs=0.05)
    for name in ("accuracy", "sensitivity", "specificity", "auroc"):
        low, high = np.array([row[name]["interval"] for row in found]).T
        # 0.95 less three standard errors; exact ones hold it or more
        assert np.mean((low <= 0.5) & (high >= 0.5)) >= 0.9
    told = [not row["verdict"].startswith("not told from guessing") for row in found]
    assert np.mean(told) <= 0.09


def test_confidence_raises_the_auroc_above_what_the_answers_alone_say():
    """Right when certain and wrong when guessing: ranking by signed confidence sees it."""
    _, key = study(n=40)

    def knows_when(truth, trial):
        return (truth, 4) if trial % 3 else (inverted(truth, trial)[0], 1)

    (row,) = score_readers(key, [answers_of(key, "a", knows_when)])["readers"]
    assert row["auroc"]["value"] > row["accuracy"]["value"] + 0.05


def test_only_the_first_answer_to_an_image_counts():
    _, key = study()
    seen = set()

    def changes_his_mind(truth, trial):
        again = key["trials"][trial] in seen
        seen.add(key["trials"][trial])
        return inverted(truth, trial) if again else perfect(truth, trial)

    (row,) = score_readers(key, [answers_of(key, "a", changes_his_mind)])["readers"]
    assert (row["accuracy"]["k"], row["accuracy"]["n"]) == (12, 12)
    assert (row["consistency"]["k"], row["consistency"]["n"]) == (0, 4)


def test_a_reader_who_learns_is_seen_to():
    _, key = study(n=60, repeats=0)
    (row,) = score_readers(
        key,
        [
            answers_of(
                key, "a", lambda truth, i: perfect(truth, i) if i >= 30 else inverted(truth, i)
            )
        ],
    )["readers"]
    assert [part["value"] for part in row["halves"]["accuracy"]] == [0, 1]
    assert row["halves"]["p"] < 1e-6


def test_agreement_is_one_between_equal_readers_and_minus_one_between_opposite_ones():
    _, key = study(n=40)
    found = score_readers(
        key, [answers_of(key, n, j) for n, j in (("a", perfect), ("b", perfect), ("c", inverted))]
    )
    kappas = {tuple(pair["readers"]): pair["kappa"] for pair in found["agreement"]["pairs"]}
    assert kappas == {("a", "b"): 1, ("a", "c"): -1, ("b", "c"): -1}
    assert found["mean_accuracy"]["value"] == pytest.approx(2 / 3)
    assert found["images"][0]["n_right"] == 2


def test_fleiss_kappa_is_that_of_the_paper():
    """Fleiss 1971, table 1, as often worked through: 10 subjects, 14 raters, 5 categories."""
    counts = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    assert fleiss_kappa(np.array(counts)) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.array([[3, 0], [3, 0]])) is None


def test_cohens_kappa_is_that_of_a_worked_example():
    """Cohen 1960: of 50 grants two readers agree on 35, by chance on half of them."""
    counts = {("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}
    a, b = zip(*[pair for pair, n in counts.items() for _ in range(n)], strict=True)
    assert cohen_kappa(a, b) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert cohen_kappa(["yes"] * 3, ["yes"] * 3) is None


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (30, 60), (59, 60), (60, 60)])
def test_exact_intervals_are_those_of_scipy(k, n):
    found = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert rate(k, n)["interval"] == pytest.approx([found.low, found.high])


def test_auroc_is_that_of_scikit_learn_and_its_interval_solves_newcombes_equation():
    rng = np.random.default_rng(0)
    signal, noise = rng.integers(-2, 5, 30), rng.integers(-4, 3, 20)
    names = [str(i) for i in range(20)]
    found = auroc(signal, noise, names)
    truth = np.repeat([1, 0], [30, 20])
    assert found["value"] == pytest.approx(roc_auc_score(truth, np.concatenate([signal, noise])))
    assert found["patient_interval"] is None
    whole = auroc(np.ones(30), -np.ones(20), names)
    assert whole["interval"][1] == 1
    ends = [(found, 0, 1), (found, 1, -1), (whole, 0, 1)]
    for row, side, sign in ends:
        end = row["interval"][side]
        spread = 1 + (25 - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        error = np.sqrt(end * (1 - end) * spread / (30 * 20))
        assert end + sign * 1.959964 * error == pytest.approx(row["value"])
    assert auroc(-np.ones(3), np.ones(3), list("abc"))["interval"][0] == 0


def test_copies_of_a_patients_answer_tell_no_more_than_one():
    one = np.array([1.0, 0, 1, 1, 0, 1, 0, 0])
    names = [str(i) for i in range(8)]
    assert effective(one, names) == 8
    thrice = effective(np.repeat(one, 3), np.repeat(names, 3).tolist())
    # A variance over 24 counts 23, over three times 8 it counts 21; and 8 patients are few.
    few = (t_distribution.isf(0.025, 23) / t_distribution.isf(0.025, 7)) ** 2
    assert thrice == pytest.approx(8 * 21 / 23 * few)
    assert effective(np.ones(24), np.repeat(names, 3).tolist()) == 8
    assert effective(one, ["a"] * 8) == 1


def test_a_reader_who_knows_patients_only_is_not_taken_for_one_who_tells_images():
    """All images of a patient get one answer: the exact interval believes it, that of patients not.

    60 images of 4 patients; a coin for each patient, all generated ones by coins of their own.
    """
    key = of_patients(study(n=60, repeats=0)[1], 4)
    wrong = {"interval": 0, "patient_interval": 0}
    for seed in range(60):
        rng = random.Random(seed)
        coins = {f"patient {i}": rng.choice(TRUTHS) for i in range(4)}

        def judge(truth, trial, rng=rng, coins=coins):
            return coins.get(key["images"][key["trials"][trial]]["patient"], rng.choice(TRUTHS)), 1

        (row,) = score_readers(key, [answers_of(key, "a", judge)])["readers"]
        for name in wrong:
            low, high = row["specificity"][name]
            wrong[name] += not low <= 0.5 <= high
        a = row["accuracy"]
        assert a["patient_interval"][0] <= a["interval"][0]
        assert a["patient_interval"][1] >= a["interval"][1]
    assert wrong["interval"] > 25
    assert wrong["patient_interval"] <= 8  # 5 % of 60, or all alike once in 8


def test_a_verdict_counts_patients():
    """19 of 30 real images right, all by 2 of 5 patients: images say more than guessing, patients
    do not."""
    key = of_patients(study(n=60, repeats=0)[1], 5)
    known = {f"patient {i}" for i in range(4)}

    def judge(truth, trial):
        patient = key["images"][key["trials"][trial]]["patient"]
        right = patient in known if patient else trial % 2
        return (truth if right else inverted(truth, trial)[0]), 2

    (row,) = score_readers(key, [answers_of(key, "a", judge)])["readers"]
    assert row["specificity"]["interval"][0] > 0.5
    assert row["verdict"].startswith("not told from guessing")
    assert score_readers(key, [answers_of(key, "a", judge)])["n_patients"] == 5


def test_the_mean_of_readers_who_answer_alike_is_no_surer_than_one_of_them():
    _, key = study(n=60, repeats=0)
    alike = [answers_of(key, name, guesser(1)) for name in "abc"]
    different = [answers_of(key, name, guesser(i)) for i, name in enumerate("abc")]
    one = score_readers(key, alike)["readers"][0]["accuracy"]
    assert score_readers(key, alike)["mean_accuracy"]["interval"] == pytest.approx(one["interval"])
    low, high = score_readers(key, different)["mean_accuracy"]["interval"]
    assert high - low < 0.7 * (one["interval"][1] - one["interval"][0])


def test_intervals_are_exact_and_d_prime_is_finite_and_zero_for_a_guesser():
    low, high = rate(8, 10)["interval"]  # each end leaves 2.5 % beyond what was seen
    assert binom.sf(7, 10, low) == pytest.approx(0.025)
    assert binom.cdf(8, 10, high) == pytest.approx(0.025)
    assert rate(10, 10)["interval"][1] == 1
    assert rate(0, 0) is None
    assert d_prime(10, 20, 10, 20) == pytest.approx((0, 0))
    # Hautus 1995: half an image is added to each count, one to each number of images.
    assert d_prime(20, 20, 0, 30) == pytest.approx(
        (norm.ppf(20.5 / 21) - norm.ppf(0.5 / 31), -(norm.ppf(20.5 / 21) + norm.ppf(0.5 / 31)) / 2)
    )
    assert d_prime(5, 20, 2, 30)[1] > 0  # leans to real


@pytest.mark.parametrize(("n", "accuracy"), [(20, 0.8), (61, 0.65)])
def test_power_is_the_chance_that_the_exact_test_tells_a_reader_from_guessing(n, accuracy):
    told = [binomtest(k, n).pvalue <= 0.05 for k in range(n + 1)]
    assert power_of(n, accuracy) == pytest.approx(binom.pmf(np.arange(n + 1), n, accuracy) @ told)


def test_the_number_of_images_needed_is_the_first_from_which_power_holds():
    n = images_needed(0.65, 0.8)
    assert power_of(n - 2, 0.65) < 0.8
    assert (power_of(np.arange(n, n + 400, 2), 0.65) >= 0.8).all()
    with pytest.raises(
        ValueError, match=r"accuracy must be between 0.5 \(guessing\) and 1, got 0.5"
    ):
        images_needed(0.5, 0.8)


@pytest.fixture
def handed_in(tmp_path):
    """A study's key and a way to write answer files."""
    key = study()[1]
    (tmp_path / "key.json").write_text(json.dumps(key))

    def write(name, content):
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return key, write


def test_an_answer_file_edited_by_hand_is_refused(handed_in):
    key, write = handed_in
    for place, name, value in ((0, "answer", "real"), (3, "confidence", 1), (5, "note", "x")):
        content = answers_of(key, "a", inverted)
        content["answers"][place][name] = value if content["answers"][place][name] != value else "y"
        with pytest.raises(ValueError, match="was changed after the page wrote it"):
            read_answers([write("a.json", content)], key)
    content = answers_of(key, "a", perfect) | {"reader": "b"}
    with pytest.raises(ValueError, match="was changed after the page wrote it"):
        read_answers([write("a.json", content)], key)
    content = answers_of(key, "a", perfect)
    del content["answers"][-1]
    with pytest.raises(ValueError, match="was changed after the page wrote it"):
        read_answers([write("a.json", content)], key)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (0, "image", "of another"),
        (0, "confidence", 9),
        (0, "confidence", True),
        (1, "ms", -5),
        (2, "answer", "maybe"),
        (3, "class", "tumor"),
        (4, "trial", 5),
    ],
)
def test_what_the_page_cannot_write_is_refused_under_a_new_seal_too(handed_in, place, name, value):
    key, write = handed_in
    content = answers_of(key, "a", perfect)
    content["answers"][place][name] = value
    content["seal"] = seal_of(content)
    with pytest.raises(ValueError, match="is not what the page of this study writes"):
        read_answers([write("a.json", content)], key)


def test_a_reader_counts_once(handed_in):
    key, write = handed_in
    one = write("one.json", answers_of(key, "Dr. A", perfect))
    with pytest.raises(ValueError, match="are of one sitting of reader"):
        read_answers([one, one], key)
    other = write("two.json", answers_of(key, " dr. a", guesser(0), session="another"))
    with pytest.raises(ValueError, match="are both of reader"):
        read_answers([one, other], key)
    renamed = write("two.json", answers_of(key, "B", perfect, session="of Dr. A"))
    with pytest.raises(ValueError, match="are of one sitting"):
        read_answers([one, renamed], key)


def test_a_key_changed_after_the_page_was_sent_is_refused(handed_in, tmp_path):
    key, _ = handed_in
    assert read_key(tmp_path / "key.json") == key
    first = next(iter(key["images"].values()))
    first["truth"] = "synthetic" if first["truth"] == "real" else "real"
    (tmp_path / "key.json").write_text(json.dumps(key))
    with pytest.raises(ValueError, match="was changed after the study was built"):
        read_key(tmp_path / "key.json")


def test_answers_to_another_study_and_other_files_are_refused(handed_in, tmp_path):
    key, write = handed_in
    other = study(seed="other")[1]
    with pytest.raises(ValueError, match="answers another study"):
        read_answers([write("a.json", answers_of(other, "a", perfect))], key)
    (tmp_path / "a.csv").write_text("reader,trial\n")
    with pytest.raises(ValueError, match="the CSV is for spreadsheets only"):
        read_answers([tmp_path / "a.csv"], key)
    with pytest.raises(ValueError, match="must be answer files of a study's page"):
        read_answers([write("b.json", {"study": 1})], key)
    with pytest.raises(ValueError, match="must hold at least 1 answer, got none"):
        read_answers([write("c.json", answers_of(key, "a", perfect, answers=[]))], key)


def test_half_a_sitting_is_scored_and_what_is_left_is_counted(handed_in):
    key, write = handed_in
    content = answers_of(key, "a", perfect)
    content |= {"answers": content["answers"][:5]}
    content["seal"] = seal_of(content)
    (row,) = score_readers(key, read_answers([write("a.json", content)], key))["readers"]
    assert (row["accuracy"]["n"], row["n_left"]) == (5, 11)


@pytest.fixture
def folders(tmp_path):
    for i in range(8):
        put(tmp_path / "photos", f"{i}.jpg", field(i, 64), quality=80)
        put(tmp_path / "made", f"{i}.png", field(100 + i, 32))
    return [f"real={tmp_path}/photos", f"fake={tmp_path}/made", f"cache_dir={tmp_path}/cache"]


def test_the_verb_builds_from_folders_and_scores_without_telling_the_reader(
    call, folders, tmp_path
):
    out = tmp_path / "out"
    code, err = call(verb.main, *folders, f"out={out}", "n=12", "repeats=2")
    assert code == 0, err
    key = json.loads((out / "key.json").read_text())
    for name, judge in (("good", perfect), ("guess", guesser(1))):
        (tmp_path / f"{name}.json").write_text(json.dumps(answers_of(key, name, judge)))
    files = f"score=[{tmp_path}/good.json,{tmp_path}/guess.json]"
    code, err = call(verb.main, files, f"out={out}")
    assert code == 0, err
    table = pd.read_csv(out / "readers.csv").set_index("reader")
    assert table.loc["good", "accuracy_value"] == 1
    assert len(pd.read_csv(out / "images.csv")) == 12
    report = (out / "report.html").read_text()
    assert "tells them apart" in report
    assert "data:image/jpeg" in report


def test_the_verb_builds_from_a_run_with_held_out_images_only(call, untrained, tmp_path):
    run, out = untrained("dcgan"), tmp_path / "out"
    code, err = call(verb.main, f"run={run}", f"out={out}", "n=4", "repeats=1", "image_size=24")
    assert code == 0, err
    for uri in content_of((out / "study.html").read_text())["images"].values():
        assert Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size == (24, 24)
    from mbgan.assembly import load_data
    from mbgan.runs import Run

    held_out = {file.name for file in load_data(Run(run)).test_files}
    rows = json.loads((out / "key.json").read_text())["images"].values()
    assert {row["source"] for row in rows if row["truth"] == "real"} <= held_out
    assert sum(row["truth"] == "synthetic" for row in rows) == 2


@pytest.mark.parametrize(("image_size", "warned"), [(64, True), (57, False)])
def test_real_images_that_keep_the_grid_of_their_jpegs_are_told_of(
    call, folders, tmp_path, monkeypatch, image_size, warned
):
    said = []
    monkeypatch.setattr(reader_page.log, "warning", lambda text, *args: said.append(text % args))
    given = [f"out={tmp_path}/out", "n=4", "repeats=0", f"image_size={image_size}"]
    assert call(verb.main, *folders, *given)[0] == 0
    assert len(said) == warned
    assert all("scale all images: image_size=57" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "reader_study needs run=RUN, or real=DIR fake=DIR, or score=[ANSWERS] key=FILE"),
        (("real=a", "score=b"), "got real, score"),
        (("score=[]",), "score must name at least one answer file, got an empty list"),
        (("score=a.json",), "key must be the key.json of a study, got reader_study/key.json"),
        (
            ("FOLDERS", "n=18", "repeats=0"),
            "n must be at most 16, twice the images in real, got 18",
        ),
        (("FOLDERS", "n=7"), "n must be even and at least 4, got 7"),
        (("FOLDERS", "n=12", "repeats=5"), "repeats must be from 0 to a third of n (4), got 5"),
        (("FOLDERS", "encoding=gif"), "encoding must be jpeg or png, got gif"),
        (("FOLDERS", "n=12", "repeats=0", "classes=[a]"), "classes must be at least 2"),
        (("FOLDERS", "n=12", "repeats=0", "out=old"), "out must be a folder without a study"),
        (("FOLDERS", "n=12", "repeats=0", "accuracy=1.2"), "accuracy must be between 0.5"),
        (("plan=true", "n=null"), "n must be even and at least 4, got None"),
    ],
)
def test_what_a_user_can_mend_is_said_in_one_line(
    call, folders, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "old/x.png", field(0))
    (tmp_path / "old/key.json").touch()
    given = [a for b in arguments for a in (folders if b == "FOLDERS" else [b])]
    code, err = call(verb.main, *given)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1 + err.count("decoding")
    assert not (tmp_path / "reader_study").exists()


def read_in_browser(tab, url, key, reader, judge):
    """Go through a study with mouse and keyboard by turns, with a reload half-way."""
    tab.open(url)
    tab.wait("!document.getElementById('start').hidden")
    tab.click("#reader")
    tab.type(reader)
    tab.press("Enter")
    for trial, name in enumerate(key["trials"]):
        tab.wait(f"document.getElementById('place').textContent.startsWith('{trial + 1} of')")
        if trial == len(key["trials"]) // 2:
            tab.reload()
            tab.wait(f"document.getElementById('place').textContent.startsWith('{trial + 1} of')")
        answer, confidence = judge(key["images"][name]["truth"], trial)
        if trial % 2:
            tab.click(f"input[value={answer}]")
            tab.click(f"input[name=confidence][value='{confidence}']")
            tab.click("input[name=class][value=tumor]")
            tab.click("#next")
        else:
            tab.press(answer[0])
            tab.press(str(confidence))
            tab.press("c")
            tab.press("n")
            tab.type('r s 1 "=é\u2028😀')  # a remark is no command
            tab.press("Enter")
    tab.wait("!document.getElementById('done').hidden")
    for button, ending in (("#json", "json"), ("#csv", "csv")):
        tab.click(button)
        until = time.monotonic() + 30
        while not (found := list(tab.downloads.glob(f"*{reader}*.{ending}"))):
            assert time.monotonic() < until, "nothing was downloaded"
            time.sleep(0.05)
    tab.click("#another")  # and yes, delete
    tab.wait("!document.getElementById('start').hidden")
    return found[0]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_scripted_readers_go_through_the_page_and_score_as_perfect_and_as_chance(call, tmp_path):
    page, key = study(n=24, repeats=4, classes=["normal", "tumor"])
    (tmp_path / "study.html").write_text(page)
    (tmp_path / "key.json").write_text(json.dumps(key))
    with chromium(tmp_path / "browser") as tab:
        url = (tmp_path / "study.html").as_uri()
        read_in_browser(tab, url, key, "perfect", perfect)
        table = read_in_browser(tab, url, key, "guesser", guesser(5))
        assert tab.errors == []
    out, rows = tmp_path / "out", pd.read_csv(table)
    assert rows["trial"].tolist() == list(range(28))
    score = f"score={tmp_path}/browser/downloads"
    code, err = call(verb.main, score, f"key={tmp_path}/key.json", f"out={out}")
    assert code == 0, err
    by_name = {
        row["reader"]: row for row in json.loads((out / "scores.json").read_text())["readers"]
    }
    good, chance = by_name["perfect"], by_name["guesser"]
    for name in ("accuracy", "auroc", "consistency"):
        assert good[name]["value"] == 1
    low, high = chance["accuracy"]["interval"]
    assert low < 0.5 < high
    assert chance["verdict"].startswith("not told from guessing")
    assert good["n_left"] == chance["n_left"] == 0
    assert good["median_s"] < 30
