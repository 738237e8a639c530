"""What self-contained pages share: their template engine, and how they write numbers."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment() -> Environment:
    """Return the engine of the templates in this folder, which escapes whatever it is given."""
    engine = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters |= {
        "number": "{:,}".format,
        "score": score,
        "count": count,
        "duration": duration,
        "setting": setting,
        "dotted": lambda settings: list(dotted(settings)),
    }
    return engine


def writable(page: str) -> str:
    """Return a page without lone surrogates, which are in names that are no UTF-8."""
    return page.encode("utf-8", "backslashreplace").decode()


def csp_hash(script: str) -> str:
    """Return how a content security policy names an inline script, to let no other run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def count(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: 1 image, 1,224 images.

    >>> count(1, "image"), count(1224, "image"), count(0, "class", "classes")
    ('1 image', '1,224 images', '0 classes')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def score(value: float) -> str:
    """Return a measured number with three digits.

    >>> score(-0.00214), score(2140.3)
    ('\u22120.00214', '2,140')
    """
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\u2212")


def duration(hours: float) -> str:
    """Return a time in the unit that people would use.

    >>> duration(0.01), duration(0.5), duration(7.25), duration(100)
    ('under 1 minute', '30 minutes', '7.2 hours', '4.2 days')
    """
    if hours < 1 / 60:
        return "under 1 minute"
    if hours < 1.5:
        return count(round(hours * 60), "minute")
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"


def setting(value: Any) -> str:
    """Return a setting's value as people read it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(setting, value)) or "none"
    return str(value)


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the dotted name and the value of each setting, however deep.

    >>> list(dotted({"seed": 0, "split": {"val": 0.25}}))
    [('seed', 0), ('split.val', 0.25)]
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
