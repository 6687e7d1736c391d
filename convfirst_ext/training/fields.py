"""The kinds of values that settings take: each says in words what it allows, and checks it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

_KEY = "allowed"


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What a setting may be: in words, and as a test."""

    words: str
    accepts: Callable[[Any], bool]


def whole(default: int, least: int) -> Any:
    """A field for a whole number."""
    return _field(default, f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


def number(default: float, least: float = 0.0, most: float = math.inf, *, excluded: bool = False) -> Any:
    """A field for a finite number from `least` to `most`; `excluded` leaves out `least` itself."""
    lower = f"more than {least:g}" if excluded else f"at least {least:g}"
    words = f"a number of {lower}" + ("" if math.isinf(most) else f" and at most {most:g}")

    def accepts(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return (value > least if excluded else value >= least) and value <= most

    return _field(float(default), words, accepts)


def choice(default: str, *others: str) -> Any:
    """A field for one of some names."""
    names = (default, *others)
    return _field(default, "one of " + ", ".join(names), lambda value: isinstance(value, str) and value in names)


def text(default: str, words: str) -> Any:
    """A field for any text; an empty one only where that is the default."""
    return _field(default, words, lambda value: isinstance(value, str) and (value != "" or default == ""))


def switch(default: bool) -> Any:
    """A field that is on or off."""
    return _field(default, "true or false", lambda value: isinstance(value, bool))


def allowed(field: dataclasses.Field[Any]) -> Allowed:
    """What a field made by one of these functions allows."""
    rule = field.metadata[_KEY]
    assert isinstance(rule, Allowed)
    return rule


def _field(default: Any, words: str, accepts: Callable[[Any], bool]) -> Any:
    return dataclasses.field(default=default, metadata={_KEY: Allowed(words, accepts)})
