import logging
import pickle

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from mbgan.metrics import features
from mbgan.metrics.features import EfficientNetLite0, EfficientNetLite2, InceptionV3, auto

INCEPTION = "torch_fidelity.feature_extractor_inceptionv3"


@pytest.fixture(scope="module")
def lite0():
    return EfficientNetLite0()


@pytest.fixture
def images():
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A file of random weights that fit the real network."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:  # build it without weights, to learn their shapes
        patch.setattr(f"{INCEPTION}.load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No Inception weights in the cache, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(f"{INCEPTION}.load_state_dict_from_url", refuse)


def test_lite0_is_trained(lite0):
    """The file's hash is the one that its name states."""
    assert lite0.sha256.startswith("57934424")


def test_lite2_is_another_network_and_trained():
    lite2 = EfficientNetLite2()
    assert lite2.sha256.startswith("9656183e")
    assert lite2.name == "efficientnet_lite2"
    assert sum(p.numel() for p in lite2.parameters()) == 6_092_072


def test_features_do_not_depend_on_the_batch(lite0, images):
    whole, parts = lite0.extract(images), lite0.extract(images, batch_size=1)
    assert whole.features.shape == (4, 1280)
    assert whole.logits.shape == (4, 1000)
    torch.testing.assert_close(whole.features, parts.features, rtol=1e-3, atol=1e-4)


def test_extractor_is_frozen_and_stays_in_eval_mode(lite0, images):
    """In train mode its batch norm would move with every image it is shown."""
    before = lite0.extract(images).features
    lite0.train()
    lite0.extract(images + 50)
    assert torch.equal(lite0.extract(images).features, before)
    assert not any(p.requires_grad for p in lite0.parameters())


def test_autocast_does_not_reach_the_extractor(lite0, images):
    with torch.autocast("cpu", torch.bfloat16):
        inside = lite0.extract(images).features
    assert torch.equal(inside, lite0.extract(images).features)


def test_auto_says_that_it_falls_back_and_names_the_extractor(nowhere, caplog):
    with caplog.at_level(logging.WARNING):
        assert auto().name == "efficientnet_lite0"
    assert "not comparable with published" in caplog.text


def test_auto_takes_inception_where_its_weights_are(monkeypatch, tmp_path, images, inception):
    """The real network with random weights, under the name of torch's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = features.inception_cache()
    path.parent.mkdir(parents=True)
    path.symlink_to(inception)
    extractor = auto()
    seen = extractor.extract(images[:2])
    assert extractor.name == "inception"
    assert (seen.features.shape, seen.logits.shape) == ((2, 2048), (2, 1008))


@pytest.mark.parametrize("tap", [64, 192, 768])
def test_an_earlier_tap_is_that_layer_under_a_name_of_its_own(tap, images, inception):
    """Scores of two taps are no more comparable than those of two networks."""
    extractor = InceptionV3(inception, tap=tap)
    seen = extractor.extract(images[:2])
    network = FeatureExtractorInceptionV3("inception-v3-compat", [str(tap)], str(inception))
    theirs = network(images[:2])[0].double()
    assert (seen.features - theirs).norm() < 1e-5 * theirs.norm()
    assert (seen.features.shape, seen.logits.shape) == ((2, tap), (2, 0))
    assert extractor.name == f"inception_{tap}"


def test_a_tap_that_inception_has_not_is_refused(inception):
    with pytest.raises(ValueError, match=r"extractor.tap must be 64, 192, 768 or 2048, got 128"):
        InceptionV3(inception, tap=128)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"layer": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"extractor.weights must be those of Inception, weights-"):
        InceptionV3(tmp_path / "weights.pth")


def test_equal_fingerprints_are_of_equal_features(inception):
    """Features are kept under it: neither the weights alone nor the name alone would do."""
    whole, tap = InceptionV3(inception), InceptionV3(inception, tap=64)
    assert whole.sha256 == tap.sha256
    assert whole.fingerprint != tap.fingerprint
    assert whole.fingerprint == InceptionV3(inception).fingerprint


def test_explicit_inception_without_weights_names_the_ways_out(nowhere):
    with pytest.raises(FileNotFoundError, match=r"extractor.weights=FILE or use extractor=eff"):
        InceptionV3()


def test_missing_weights_file_is_refused_also_by_auto(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"extractor.weights must be a file, got"):
        auto(tmp_path / "none.pth")


def test_weights_that_would_run_code_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="must hold tensors only"):
        InceptionV3(tmp_path / "weights.pth")
    assert not (tmp_path / "exploded").exists()
