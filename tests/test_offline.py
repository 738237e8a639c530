"""Nothing asks the network by itself: neither an import nor a verb, unless it was told to."""

import os
import pkgutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import put

import mbgan
from mbgan.metrics import features

MODULES = sorted(
    found.name for found in pkgutil.walk_packages(mbgan.__path__, "mbgan.") if found.name
)
# Before anything else is imported; ranks of one machine may meet on it.
BLOCKED = """
import socket, sys, traceback
asked = []
def refuse(name):
    def call(*words, **more):
        asked.append((name, words[:2], traceback.format_stack(limit=6)))
        raise OSError("no network in this test")
    return call
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
    setattr(socket, name, refuse(name))
class Socket(socket.socket):
    def _check(self, name, address):
        internet = self.family in (socket.AF_INET, socket.AF_INET6)
        if internet and address[0] not in ("127.0.0.1", "::1"):
            refuse(name)(address)
    def connect(self, address):
        self._check("connect", address)
        return super().connect(address)
    def connect_ex(self, address):
        self._check("connect_ex", address)
        return super().connect_ex(address)
    def sendto(self, data, *words):
        self._check("sendto", words[-1])
        return super().sendto(data, *words)
socket.socket = Socket
"""
RUN = """
import importlib
def verb(name, *words):
    sys.argv = [name, *words]
    try:
        importlib.import_module(f"mbgan.{name}").main()
    except SystemExit as end:
        assert not end.code, (name, end.code)
"""
END = """
for name, words, stack in asked:
    print(name, words, *stack, file=sys.stderr)
sys.exit(bool(asked))
"""


def blocked(script, tmp_path, **environment):
    """Run a script that may not reach any machine; return its exit code and what it said."""
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_ALBUMENTATIONS_UPDATE",)}
    environment = clean | {"TORCH_HOME": str(tmp_path / "torch"), **environment}
    command = [sys.executable, "-c", BLOCKED + RUN + script + END]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    return found.returncode, found.stdout + found.stderr


def test_the_block_sees_what_asks(tmp_path):
    for ask in (
        "socket.create_connection(('192.0.2.1', 80))",
        "socket.socket().connect(('192.0.2.1', 80))",
        "__import__('urllib.request').request.urlopen('http://example.org')",
    ):
        code, said = blocked(f"try: {ask}\nexcept OSError: pass", tmp_path)
        assert (code, "no network" in said or "getaddrinfo" in said or "connect" in said) == (
            1,
            True,
        )
    assert blocked("", tmp_path)[0] == 0


def test_no_import_asks_the_network(tmp_path):
    """albumentations and others look for updates when they are imported, unless told not to."""
    names = [name for name in MODULES if not name.endswith("__main__")]
    code, said = blocked(f"for name in {names}: importlib.import_module(name)", tmp_path)
    assert code == 0, said


@pytest.mark.slow
def test_no_verb_asks_the_network(tmp_path):
    """With extractor=auto and an empty cache of weights: Inception is not fetched unasked."""
    rng = np.random.default_rng(0)
    for i in range(24):
        name = f"images/40x/{'tumor' if i % 2 else 'normal'}/patient{i % 8}_{i}.png"
        put(tmp_path, name, rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = "'data.root=images', 'cache_dir=cache'"
    small = (
        "'magnification=40x', 'image_size=32', 'batch_size=4', 'total_images=8', 'eval_every=8', "
        "'metrics.max_images=3', 'full_metrics.floor_splits=2', 'model=dcgan', 'trainer=cpu', "
        "'model.generator.width=4', 'model.critic.width=4', 'transforms=crop', 'logger=tensorboard'"
    )
    script = f"""
verb("prepare", {data}, "out=prepared", "image_size=32", "workers=1", "forecast=false")
verb("train", {data}, "data=folder", {small}, "hydra.run.dir=run")
verb("evaluate", "run=run")
verb("generate", "run=run", "n=2", "out=made")
verb("detect", "images=made")
verb("compare", "runs=run", "out=compared")
"""
    code, said = blocked(script, tmp_path)
    assert code == 0, said


def test_auto_takes_inception_only_where_it_is_at_hand(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("asked the network"))
    assert features.auto().name == "efficientnet_lite0"
    with pytest.raises(FileNotFoundError, match="download them with extractor=inception"):
        features.InceptionV3()


def test_what_is_asked_for_is_fetched_into_the_cache_and_read_as_tensors(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    fetched = []

    def fetch(url, path, progress):
        fetched.append(url)
        Path(path).write_bytes(b"\x80\x04.")

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    with pytest.raises(ValueError, match="must hold tensors only"):
        features.InceptionV3(download=True)
    assert fetched == [features.URL_INCEPTION_V3]
