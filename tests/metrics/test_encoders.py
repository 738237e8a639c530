import builtins
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mbgan.metrics.distances import inception_score
from mbgan.metrics.encoders import DINOv2, Local

timm = pytest.importorskip("timm", reason="the extra timm is not installed")
TINY = "test_vit"  # timm's own for tests: 64 features, 160 pixels


class Pooled(nn.Module):
    """Mean levels of standardized images: features that can be worked out by hand."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * x.mean((2, 3))


class Maps(Pooled):
    """Returns maps [N, 3, H, W], no features."""

    def forward(self, x):
        return self.scale * x


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8, generator=generator)


@pytest.fixture
def script(tmp_path):
    """Save a network as TorchScript and return the file."""

    def save(network, name="encoder.pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated
            torch.jit.script(network).save(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def tensors(tmp_path):
    """A file of random weights of a small network of timm's, with its classifier."""
    torch.manual_seed(0)
    torch.save(timm.create_model(TINY, pretrained=False).state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def published(variant, path):
    """Save random weights as the authors of DINOv2 do: for 37 x 37 patches, with a mask token."""
    torch.manual_seed(0)
    name = f"vit_{variant}_patch14_dinov2"
    weights = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
    weights = {k: v if v.std() > 0 else torch.rand_like(v) for k, v in weights.items()}
    torch.save(weights | {"mask_token": torch.zeros(1, weights["cls_token"].shape[-1])}, path)
    return weights


def test_torchscript_sees_standardized_images(script, images):
    """The encoder was trained with (level / 255 - mean) / std."""
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.4, 0.2]
    extractor = Local(script(Pooled()), side=20, mean=mean, std=std)
    levels = images.double().mean((2, 3)) / 255
    expected = 2 * (levels - torch.tensor(mean).double()) / torch.tensor(std).double()
    seen = extractor.extract(images)
    torch.testing.assert_close(seen.features, expected, rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in extractor.parameters())


def test_images_reach_the_encoder_at_its_side(script, images):
    """Bicubic overshoots are clipped: an image has no levels beyond 0 and 255."""
    edges = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    edges[..., 10:] = 255

    class Sides(nn.Module):
        def forward(self, x):
            side = torch.full([x.shape[0]], float(x.shape[3]))
            return torch.stack((x.amax(dim=(1, 2, 3)), x.amin(dim=(1, 2, 3)), side), dim=1)

    one = Local(script(Sides()), side=50, mean=[0.0] * 3, std=[1.0] * 3)
    assert one.extract(edges).features.tolist() == [[1.0, 0.0, 50.0]]


def test_network_of_timm_is_loaded_without_its_classifier(tensors, images):
    extractor = Local(tensors, TINY, side=160)
    network = timm.create_model(TINY, pretrained=False, num_classes=0).eval()
    weights = torch.load(tensors)
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("head.")})
    x = F.interpolate(images.float(), size=160, mode="bicubic", antialias=True).clamp(0, 255) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        theirs = network((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)).double()
    torch.testing.assert_close(extractor.extract(images).features, theirs, rtol=1e-4, atol=1e-4)


def test_safetensors_and_nested_tensors_are_read_like_plain_ones(tensors, tmp_path, images):
    from safetensors.torch import save_file

    weights = torch.load(tensors)
    save_file(weights, tmp_path / "vit.safetensors")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "training.pth")
    plain = Local(tensors, TINY, side=160).extract(images).features
    for name in ("vit.safetensors", "training.pth"):
        assert torch.equal(Local(tmp_path / name, TINY, side=160).extract(images).features, plain)


def test_options_reach_the_network(tensors, images):
    """Published pathology encoders differ from timm's network of that name."""
    plain = Local(tensors, TINY, side=160)
    other = Local(tensors, TINY, side=160, options={"act_layer": "relu"})
    assert not torch.allclose(other.extract(images).features, plain.extract(images).features)
    assert other.fingerprint != plain.fingerprint


def test_features_without_classes_have_no_inception_score(script, images):
    seen = Local(script(Pooled()), side=20).extract(images)
    assert seen.logits.shape == (3, 0)
    with pytest.raises(ValueError, match="needs an extractor with a classifier"):
        inception_score(seen.logits)


def test_a_local_name_tells_files_and_settings_apart(script, tmp_path):
    """Downloaded encoders are all called pytorch_model or model."""
    first = script(Pooled(), "model.pt")
    names = {Local(first, side=20).name, Local(first, side=20, std=[0.2] * 3).name}
    names |= {Local(first, side=24).name}
    network = Pooled()
    network.scale.data.fill_(3)
    (tmp_path / "other").mkdir()
    names |= {Local(script(network, "other/model.pt"), side=20).name}
    assert len(names) == 4
    assert all(name.startswith("local_model_") for name in names)
    assert Local(first, side=20).name in names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 0}, "extractor.side must be at least 1, got 0"),
        ({"mean": [0.5]}, r"must be 3 numbers each, .* got \[0.5\] and"),
        ({"std": [0.5, 0.5, 0]}, r"std above 0, got .* and \[0.5, 0.5, 0\]"),
        ({"options": {"depth": 1}}, "extractor.options need an extractor.architecture"),
        ({}, r"must be a TorchScript file, .*; for a file of tensors set extractor.architecture"),
        ({"architecture": "no_such"}, "extractor.architecture must be one of timm's"),
        ({"architecture": "test_resnet"}, r"those of extractor.architecture=test_resnet, got"),
        ({"architecture": TINY, "side": 50}, r"\[N, 3, 50, 50\], got .*; set extractor.side"),
        ({"architecture": TINY, "options": {"no": 1}}, "extractor.options its, got"),
    ],
)
def test_settings_that_do_not_fit_the_file_say_what_to_change(tensors, settings, message):
    with pytest.raises(ValueError, match=message):
        Local(tensors, **settings)


def test_maps_are_no_features(script):
    with pytest.raises(ValueError, match=r"returns \[2, 3, 20, 20\] for 2 images; pool them"):
        Local(script(Maps()), side=20)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"extractor.weights must be a file, got .*none.pt"):
        Local(tmp_path / "none.pt")


def test_tensors_that_would_run_code_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="must hold tensors only"):
        Local(tmp_path / "weights.pth", TINY)
    assert not (tmp_path / "exploded").exists()


def test_torchscript_given_as_tensors_is_refused_with_a_way_out(script):
    with pytest.raises(ValueError, match=r"only, got .*; give TorchScript as extractor=local with"):
        Local(script(Pooled()), TINY)


def test_dinov2_is_that_of_its_authors(tmp_path):
    """At 224 pixels they resize the table of places with an offset and without antialiasing."""
    weights = published("small", tmp_path / "weights.pth")
    extractor = DINOv2("vits14", tmp_path / "weights.pth")
    grid = weights["pos_embed"][:, 1:].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    scale = (16.1 / 37, 16.1 / 37)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic").permute(0, 2, 3, 1)
    places = torch.cat([weights["pos_embed"][:, :1], grid.reshape(1, 256, 384)], dim=1)
    own = extractor.network.state_dict()
    torch.testing.assert_close(own.pop("pos_embed"), places)
    assert all(torch.equal(own[name], weights[name]) for name in own)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    seen = extractor.extract(images)
    assert (seen.features.shape, seen.logits.shape) == ((2, 384), (2, 0))
    assert extractor.name == "dinov2_vits14"


def test_dinov2_is_downloaded_once_into_the_cache_of_torch(tmp_path, monkeypatch):
    asked = []

    def download(url, path, **settings):
        asked.append(url)
        published("small", path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert DINOv2("vits14").sha256 == DINOv2("vits14").sha256
    file = "dinov2_vits14/dinov2_vits14_pretrain.pth"
    assert asked == [f"https://dl.fbaipublicfiles.com/dinov2/{file}"]
    assert (tmp_path / "checkpoints/dinov2_vits14_pretrain.pth").is_file()


def test_dinov2_offline_names_the_ways_out(tmp_path, monkeypatch):
    def refuse(*args, **settings):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(FileNotFoundError, match=r"weights.* and no download \(no network\).*=FILE"):
        DINOv2("vits14")


def test_weights_of_another_variant_are_refused(tmp_path):
    published("small", tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"must be those of extractor.variant=vitb14, got"):
        DINOv2("vitb14", tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"extractor.variant must be one of .*, got vith14"):
        DINOv2("vith14")


def test_missing_timm_is_named_with_a_way_out(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "timm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs the package timm; pip install 'mbgan.timm.'"):
        DINOv2()
