"""What holds of any input: splits, scores, pixels, command lines, and files with damage."""

import numpy as np
import pytest
import torch
from fuzzing import fuzz, readers
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mbgan import train
from mbgan.data.folder import ImageFile
from mbgan.data.splits import split
from mbgan.images import from_uint8, to_uint8
from mbgan.metrics.distances import fid
from mbgan.metrics.kernel import kid
from mbgan.metrics.neighbors import density_coverage, precision_recall
from mbgan.verbs import USER_ERRORS, conf_dir, known_settings, one_line, register_resolvers

ANY = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEW = settings(ANY, max_examples=6)
MANY = settings(ANY, max_examples=200)
NAMES = (
    *("run.json", "metrics.jsonl", "scores.json", "config.yaml", "asked.yaml", "checkpoint"),
    *("manifest.parquet", "bundle: config.json", "bundle: safetensors", "bundle: SHA256SUMS"),
    *("reader answers", "reader key", "listing", "generated images", "shard"),
)


def check_fuzzed(name, n, tmp_path):
    counts, found = fuzz(readers(tmp_path)[name], n, seed=1)
    assert not found, found[0]
    assert counts["read"] + counts["refused"] == n
    assert counts["refused"]  # the damage is seen


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    check_fuzzed(name, 25, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_damaged_files_give_no_traceback(name, tmp_path):
    check_fuzzed(name, 10_000 // len(NAMES) + 1, tmp_path)


def test_every_reader_is_tried(tmp_path):
    assert set(readers(tmp_path)) == set(NAMES)


def one(error):
    """Hold an error to the line that a verb makes of it."""
    assert "\n" not in one_line(error)


images = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 5).map(str)), max_size=40
).map(
    lambda pairs: [
        ImageFile(None, f"{i}.png", "10x", label, patient)
        for i, (label, patient) in enumerate(pairs)
    ]
)


@ANY
@given(images, st.floats(), st.integers(-1, 2**32), st.none() | st.integers(-1, 50))
def test_a_split_is_one_or_says_why_not(files, held_out, seed, n_train):
    try:
        train_side, held = split(files, held_out, seed, n_train)
    except ValueError as error:
        one(error)
        return
    assert len(train_side) >= 1
    assert len(held) >= 2
    assert not set(train_side) & set(held)
    assert set(train_side) | set(held) <= set(range(len(files)))
    assert n_train in (None, len(train_side))
    patients = [{files[i].patient for i in side} - {None} for side in (train_side, held)]
    alone = len({file.patient for file in files}) == 1
    assert alone or not patients[0] & patients[1]


features = arrays(
    np.float64,
    st.tuples(st.integers(0, 12), st.just(3)),
    elements=st.floats(-10, 10, allow_subnormal=False),
).map(torch.tensor)


@ANY
@given(features, features)
def test_scores_of_any_features_are_finite_or_refused(real, fake):
    try:
        there, back = kid(real, fake), kid(fake, real)
        assert np.isfinite(there)
        assert there == pytest.approx(back, rel=1e-6, abs=1e-6 * (1 + abs(there)))
        assert fid(real, fake) >= -1e-3
        for share in (*precision_recall(real, fake), density_coverage(real, fake)[1]):
            assert 0 <= share <= 1
    except ValueError as error:
        one(error)
        assert min(len(real), len(fake)) <= 5  # of enough images there are all


@ANY
@given(arrays(np.uint8, array_shapes(min_dims=4, max_dims=4, max_side=5)))
def test_levels_survive_and_any_number_becomes_the_nearest_level(levels):
    levels = torch.tensor(levels)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


@ANY
@given(st.floats(allow_nan=False, width=32))
def test_any_number_becomes_the_nearest_level(x):
    level = int(to_uint8(torch.tensor([x])))
    nearest = min(max((x + 1) * 127.5, 0), 255)
    assert abs(level - nearest) <= 0.501


def offered(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


legal = st.fixed_dictionaries(
    {
        "model": st.sampled_from([name for name in offered("model") if name != "projected"]),
        "model.condition": st.sampled_from(("none", "class", "magnification", "both")),
        "seed": st.integers(0, 2**31),
        "model.n_critic": st.integers(1, 7),
        "image_size": st.sampled_from((32, 64)),
    },
    optional={
        "regularizer": st.sampled_from(offered("regularizer")),
        "augment": st.sampled_from(offered("augment")),
        "transforms": st.sampled_from(offered("transforms")),
        "logger": st.sampled_from(offered("logger")),
        "metrics": st.sampled_from(offered("metrics")),
        "model.make_opt_g.lr": st.floats(1e-6, 1e-2),
    },
)


def builds(overrides):
    """Compose a legal config and build its networks; what theory forbids is refused in a line."""
    words = [f"{key}={value}" for key, value in overrides.items()]
    words += ["run_dir=x", "model.generator.width=4", "model.critic.width=4"]
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", words)
    try:
        gan = instantiate(cfg.model, _convert_="all")
        assert gan.n_critic == overrides["model.n_critic"]
    except USER_ERRORS as error:
        one(error)
        assert {"regularizer", "augment"} & set(overrides)  # a preset is sound


@FEW
@given(legal)
def test_legal_overrides_compose_and_build(overrides):
    builds(overrides)


@pytest.mark.slow
@MANY
@given(legal)
def test_two_hundred_legal_overrides_compose_and_build(overrides):
    builds(overrides)


names = st.sampled_from(known_settings()) | st.text("abz._/@~+", min_size=1, max_size=9)
values = st.sampled_from(
    ("[", "{", "${", "${x}", "'", "=", "\\", "a b", "(1,", "choice(", "null", "nan", "-1", "1e99")
) | st.text(max_size=6)
illegal = st.one_of(
    st.tuples(names, values).map("=".join),
    st.text("abz=[]{}$(),'\"~+ \n\\@:/.", min_size=1, max_size=12),
    st.sampled_from(("model", "=", "~model", "+model=x", "model=no", "model@x=dcgan", "seed=")),
).filter(lambda word: not word.startswith("-") and "hydra" not in word)


def refused(call, folder, word):
    """A wrong word is told in one line; image_size=0 ends what would be a legal command."""
    code, err = call(train.main, f"hydra.run.dir={folder}/run", "image_size=0", word)
    assert (code, err.count("\n"), err[:6]) == (1, 1, "error:"), (word, err)


@settings(ANY, max_examples=8)
@given(illegal)
def test_illegal_overrides_are_told_in_one_line(call, tmp_path, word):
    refused(call, tmp_path, word)


@pytest.mark.slow
@MANY
@given(illegal)
def test_two_hundred_illegal_overrides_are_told_in_one_line(call, tmp_path, word):
    refused(call, tmp_path, word)
