"""The key of a reader study and the answers of its readers, read back and checked.

The page names the SHA-256 of its key, salted so that it tells nothing, and each answer file ends
with a SHA-256 over the study and all that it holds. So a key or an answer that was changed
afterwards is noticed. Not noticed is who makes a new hash as well: all that the page could do it
by stands in the page.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbgan.documents import read_json

VERSION = 1  # of key and answers
REAL, SYNTHETIC = "real", "synthetic"
LEVELS = (1, 2, 3, 4)  # of confidence, as the page numbers them


def canonical(content: Any) -> str:
    """Return JSON as JavaScript's JSON.stringify writes it.

    >>> canonical({"note": "ü", "ms": [1, None]})
    '{"note":"ü","ms":[1,null]}'
    """
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def sha256(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def study_of(key: dict[str, Any]) -> str:
    """Return the name of a study: the SHA-256 of its key, secret included."""
    return sha256(canonical({name: value for name, value in key.items() if name != "study"}))


def seal_of(answers: dict[str, Any]) -> str:
    """Return the SHA-256 that an answer file ends with."""
    body = {name: value for name, value in answers.items() if name != "seal"}
    return sha256(f"{answers['study']}\n{canonical(body)}")


def read_key(path: Path) -> dict[str, Any]:
    """Return the key of a study.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is none, or was changed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"key must be the key.json of a study, got {path}; set key=FILE")
    key = _json(path, "key")
    if not {"study", "trials", "images", "version", "secret"} <= set(key):
        raise ValueError(f"key must be the key.json of a study, got {path}, which is none")
    if key["version"] != VERSION:
        raise ValueError(f"{path}: its version must be {VERSION}, got {key['version']}")
    if study_of(key) != key["study"]:
        raise ValueError(f"{path} was changed after the study was built; bring back the first one")
    return key


def read_answers(paths: Sequence[Path], key: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers of each reader to a study, in the order of their names.

    Args:
        paths: answer files as the page wrote them, or folders of them.
        key: of the study.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if a file is no answer file, is of another study, was changed, or if two are
            of one reader.
    """
    found = list[tuple[Path, dict[str, Any]]]()
    for path in (file for given in paths for file in _files(given)):
        answers = read_one(path, key)
        for other, before in found:
            _check_apart(other, before, path, answers)
        found.append((path, answers))
    return sorted((answers for _, answers in found), key=lambda a: a["reader"].casefold())


def read_one(path: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Return the answers in a file, checked against the key of their study.

    Raises:
        ValueError: if they are not what the page writes.
    """
    answers = _json(path, "score")
    if missing := {"study", "version", "reader", "session", "answers", "seal"} - set(answers):
        raise ValueError(
            f"score must be answer files of a study's page, got {path} without "
            f"{', '.join(sorted(missing))}"
        )
    if answers["study"] != key["study"]:
        raise ValueError(f"{path} answers another study than key is of; set key=FILE to its own")
    if seal_of(answers) != answers["seal"]:
        raise ValueError(
            f"{path} was changed after the page wrote it (its seal does not fit); ask the reader "
            "for the file as downloaded"
        )
    try:
        shown = [key["trials"][i] for i in range(len(answers["answers"]))]
        right = isinstance(answers["reader"], str) and bool(answers["reader"].strip())
        for trial, answer in enumerate(answers["answers"]):
            right = right and _is_answer(answer, trial, shown[trial], key["classes"])
    except (LookupError, TypeError, AttributeError):
        right = False
    if not right:
        raise ValueError(f"{path} is not what the page of this study writes; it was made by hand")
    if not answers["answers"]:
        raise ValueError(f"{path} must hold at least 1 answer, got none")
    return answers


def _is_answer(answer: dict[str, Any], trial: int, image: str, classes: Sequence[str]) -> bool:
    return (
        (answer["trial"], answer["image"]) == (trial, image)
        and answer["answer"] in (REAL, SYNTHETIC)
        and type(answer["confidence"]) is int
        and answer["confidence"] in LEVELS
        and (answer["class"] in classes if classes else answer["class"] is None)
        and isinstance(answer["note"], str)
        and type(answer["ms"]) is int
        and answer["ms"] >= 0
    )


def _check_apart(path: Path, a: dict[str, Any], other: Path, b: dict[str, Any]) -> None:
    if a["session"] == b["session"]:
        raise ValueError(
            f"{path} and {other} are of one sitting of reader {a['reader']!r}; keep the later one"
        )
    if a["reader"].strip().casefold() == b["reader"].strip().casefold():
        raise ValueError(
            f"{path} and {other} are both of reader {a['reader']!r}; who answers twice counts "
            "once: keep one, or let one of two readers answer anew under another code"
        )


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(path.glob("*.json"))
        if not inside:
            raise FileNotFoundError(f"score must be answer files (*.json), got {path} without any")
        return inside
    if not path.is_file():
        raise FileNotFoundError(f"score must be answer files of a study's page, got {path}")
    return [path]


def _json(path: Path, argument: str) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError:
        hint = "; the CSV is for spreadsheets only" if path.suffix.lower() == ".csv" else ""
        raise ValueError(
            f"{argument} must be a JSON file, got {path}, which is none{hint}"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{argument} must be a file of this study, got {path}")
    return content
