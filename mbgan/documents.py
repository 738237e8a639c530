"""JSON, YAML and tensors that anybody may have written: read as data, or refused in one line."""

import json
import stat
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_DEPTH = 60  # objects in objects; ours have 6, and what walks a file may recurse
TOO_DEEP = f"must be nested at most {MAX_DEPTH} deep, got more"
MAX_DIGITS = 20
MAX_JSON = 2**28  # bytes: a list of half a million images
MAX_YAML = 300_000  # bytes: a saved config has 6,000


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: if it is not there, or cannot be read.
        ValueError: if it is none, too large, or nested too deeply.
    """
    return parse_json(_text(path, MAX_JSON), str(path))


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """Return a JSON file's object, which has these keys; "data.sha256" is one in another.

    Raises:
        OSError: if it is not there, or cannot be read.
        ValueError: if it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}")
    for key in keys:
        found: Any = content
        for part in key.split("."):
            if not isinstance(found, dict) or part not in found:
                raise ValueError(f"{path} must have {key}, got none; it is damaged")
            found = found[part]
    return content


def check_kinds(content: Any, kinds: Mapping[str, Any], where: object) -> None:
    """Refuse a file whose parts are of another kind than what reads them takes; any may be missing.

    Args:
        content: of the file.
        kinds: of the parts by name; "data.sha256" is one in another, "runs.*" is each in another.
        where: the file, for the error.

    Raises:
        ValueError: if one is.
    """
    for name, kind in kinds.items():
        parts = [content]
        for key in name.split("."):
            inside = [part for part in parts if isinstance(part, dict | list)]
            if key == "*":
                parts = [x for part in inside for x in _inside(part)]
            else:
                parts = [x[key] for x in inside if isinstance(x, dict) and key in x]
        for part in parts:
            if not isinstance(part, kind):
                wanted = getattr(kind, "__name__", kind)
                raise ValueError(f"{where} must have {wanted} as {name}, got {part!r:.60}")


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: if it is none, or nested too deeply; with `where` it stood.
    """
    try:
        content = json.loads(text, parse_int=_whole_number)
    except ValueError as error:  # also what is no UTF-8
        raise ValueError(f"{where} is not JSON ({error})") from None
    except RecursionError:
        raise ValueError(f"{where} {TOO_DEEP}") from None
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [x for part in level if isinstance(part, dict | list) for x in _inside(part)]
    if level:
        raise ValueError(f"{where} {TOO_DEEP}")
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # no float holds 400 digits
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _inside(part: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


def plain_yaml(path: Path) -> str:
    """Return the text of a YAML file that grows no larger when it is read: it has no aliases.

    Ten lines of aliases of aliases stand for a billion values.

    Raises:
        OSError: if it is not there, or cannot be read.
        ValueError: if it is none, too large, nested too deeply, or has aliases.
    """
    import yaml  # not there where a bundle is all that runs

    text, depth = _text(path, MAX_YAML), 0
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{path} must have no YAML aliases, got *{event.anchor}")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"{path} {TOO_DEEP}")
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())})") from None
    return text


def read_torch(path: Path, rule: str) -> Any:
    """Return what a file of torch.save holds, which may be tensors and plain values only.

    Raises:
        OSError: if it is not there, or cannot be read.
        ValueError: if it holds anything else, beginning with the `rule`.
    """
    import torch  # seconds; not all that reads JSON needs it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the error says it of TorchScript
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damage raises whatever it makes torch meet, some ten kinds
        raise ValueError(f"{rule}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """Return the first sentence of an error: what follows in torch's is no advice for users."""
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def _text(path: Path, most: int) -> str:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe, or a device: they may never end
        raise ValueError(f"{path} must be a file")
    if (size := status.st_size) > most:
        raise ValueError(f"{path} must have at most {most} bytes, got {size}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
