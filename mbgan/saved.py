"""Configs that lie in run folders: they may come from anybody, so they are data, never a program.

A config names the classes that a run is made of, and whoever instantiates it runs what they do.
So of a saved one only these are built: classes of this package, optimizers of torch, Lightning's
trainer and loggers, transforms of albumentations, pruners of Optuna. What the user types is the
user's own word and is not held to that; nor is what MBGAN_TRUST names.
"""

import os
import re
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbgan.documents import plain_yaml

T = TypeVar("T")
Place = tuple[Any, ...]  # the keys that lead to a value

TRUST = "MBGAN_TRUST"  # environment variable: further targets, or packages, with commas between
KINDS = {  # module -> the kind of class that is taken from it
    "torch.optim": ("torch.optim", "Optimizer"),
    "lightning": ("lightning", "Trainer"),
    "lightning.pytorch.loggers": ("lightning.pytorch.loggers", "Logger"),
    "albumentations": ("albumentations", "BasicTransform"),
    "optuna.pruners": ("optuna.pruners", "BasePruner"),
}
FUNCTIONS = (  # of ours that conf/ names; others write files or start programs
    "mbgan.metrics.features.auto",
    "mbgan.data.phantom.phantom_dir",
)
MAX_SIZE = 1_000_000  # characters; ours have 10,000
PLACES = ("run_dir", "save_dir")  # where parts write: into the run folder
VARIABLES = ("MBGAN_CACHE", "MLFLOW_TRACKING_URI")  # of the environment: those in conf/
_RESOLVER = r"oc\.env:(?:{})(?:,[^{{}}$]*)?".format("|".join(VARIABLES))
_REFERENCE = re.compile(rf"\$\{{(?:(\.?\w[\w.\[\]]*)|{_RESOLVER})\}}")
_TARGET = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")


def portable(cfg: DictConfig) -> DictConfig:
    """Return a config as it is saved: it refers to its own settings, and to VARIABLES alone.

    What else was to be computed, such as ${oc.env:HOME} or ${now:%Y}, is replaced by its value.
    """
    cfg = cfg.copy()
    for path, value in list(_leaves(OmegaConf.to_container(cfg, resolve=False))):
        if _computes(value):
            parent = _at(cfg, path[:-1])
            parent[path[-1]] = parent[path[-1]]
    return cfg


def read_settings(path: Path) -> DictConfig:
    """Return a saved config to be looked at: its interpolations stay as they stand.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is none.
    """
    try:
        cfg = OmegaConf.load(StringIO(plain_yaml(path)))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no config ({' '.join(str(error).split())})") from None
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"{path} must hold settings, got a list")
    for place, value in _leaves(OmegaConf.to_container(cfg, resolve=False)):
        if not isinstance(value, str | int | float | None):  # such as bytes
            raise ValueError(f"{path} must hold text and numbers, got {value!r:.60} at {place[-1]}")
    return cfg


def read_config(path: Path) -> DictConfig:
    """Return a saved config that may be built: all that it names are parts that we know.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is none, computes more than references to its own settings, names
            something else to be built, or has a part that writes elsewhere.
    """
    cfg = read_settings(path)
    content: Any = OmegaConf.to_container(cfg, resolve=False)
    for part in ("model", "data", "extractor"):
        if not isinstance(content.get(part), dict):
            raise ValueError(f"{path} must have settings of {part}, got {content.get(part)!r}")
    for place, value in _leaves(content):
        name, last = ".".join(map(str, place)), place[-1] if place else None
        if _computes(value):
            raise ValueError(
                f"{path} must refer to its own settings only, or to the environment's "
                f"{' or '.join(VARIABLES)}, got {name}={value}"
            )
        if last == "_target_":
            if problem := _problem(value, _at(content, place[:-1])):
                raise ValueError(f"{path} has {name}={value}: {problem}")
        elif len(place) > 1 and last in PLACES and value != "${run_dir}":
            raise ValueError(f"{path} must have {name}=${{run_dir}}, got {value}")
    try:
        size = _size(content)
    except RecursionError:
        raise ValueError(f"{path} refers to its own settings in circles") from None
    if size > MAX_SIZE:
        raise ValueError(f"{path} must have at most {MAX_SIZE} characters, references resolved")
    return cfg


def build(node: Any, kind: type[T], **settings: Any) -> T:
    """Return the part that a saved config's node describes.

    Raises:
        ValueError: if it is of another kind.
    """
    part = instantiate(node, **settings)
    if not isinstance(part, kind):
        raise ValueError(
            f"a saved config must name a {kind.__name__} here, got {type(part).__name__}"
        )
    return part


def targets(cfg: DictConfig) -> list[str]:
    """Return all that a config names to be built."""
    leaves = _leaves(OmegaConf.to_container(cfg, resolve=False))
    return sorted({str(value) for place, value in leaves if place[-1] == "_target_"})


def trusting(cfg: DictConfig) -> dict[str, str]:
    """Return the environment in which what a config names is trusted, too: one of the user's."""
    return {TRUST: ",".join(filter(None, [os.environ.get(TRUST), *targets(cfg)]))}


def _problem(name: Any, node: dict[str, Any]) -> str | None:
    """Return why what a config names must not be built; None if it may."""
    trusted = [word.strip() for word in os.environ.get(TRUST, "").split(",") if word.strip()]
    if any(name == word or str(name).startswith(f"{word}.") for word in trusted):
        return None
    if not isinstance(name, str) or not _TARGET.fullmatch(name) or not _known(name):
        return (
            "a saved config may name classes of mbgan, optimizers of torch, and what conf/ takes "
            f"from lightning and albumentations; for one of yours set {TRUST}=NAME"
        )
    architecture = node.get("architecture")
    named = isinstance(architecture, str) and "${" not in architecture
    if name == "mbgan.metrics.encoders.Local" and not named:
        return (
            "a TorchScript file is a program; give the encoder yourself (extractor=local "
            f"extractor.weights=FILE), or set {TRUST}={name} if you trust that one"
        )
    return None


def _known(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if module not in KINDS and name.split(".")[0] != "mbgan":
        return False
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError):
        return False
    if module in KINDS:
        package, kind = KINDS[module]
        return isinstance(found, type) and issubclass(found, getattr(import_module(package), kind))
    # Defined there: mbgan.verbs.os.system leads out of the package, and mbgan.verbs.Run may.
    return found.__module__ == module if isinstance(found, type) else name in FUNCTIONS


def _computes(value: Any) -> bool:
    return isinstance(value, str) and "${" in _REFERENCE.sub("", value)


def _size(content: Any) -> int:
    """Return how large a config becomes, without resolving it: forty lines may double each other.

    Raises:
        RecursionError: if a setting refers to itself.
    """
    known: dict[tuple[int, str], int] = {}

    def find(name: str, beside: Any) -> Any:
        node = beside if name.startswith(".") else content
        for key in re.split(r"[.\[\]]+", name.strip(".]")):
            while isinstance(node, str) and (same := _REFERENCE.fullmatch(node)) and same[1]:
                node = find(same[1], beside)
            if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                node = node.get(key) if isinstance(node, dict) else None
        return node

    def size(node: Any, beside: Any) -> int:
        if isinstance(node, dict | list):
            inside = node.values() if isinstance(node, dict) else node
            return 1 + sum(size(part, node) for part in inside)
        if not isinstance(node, str):
            return 1
        total = len(node)
        for name in (found[1] for found in _REFERENCE.finditer(node) if found[1]):
            key = (id(beside) if name.startswith(".") else 0), name
            if key not in known:
                known[key] = size(find(name, beside), beside)
            total += known[key]
        return total

    return size(content, content)


def _leaves(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            yield from _leaves(value, (*place, key))
    else:
        yield place, node


def _at(node: Any, place: Place) -> Any:
    for key in place:
        node = node[key]
    return node
