"""Argument checks of the instruments: one sentence that names the argument, its value and what is allowed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Kind = TypeVar("_Kind")


def require_kind(argument: str, value: object, kind: type[_Kind]) -> _Kind:
    """Raises TypeError unless the value is of that class."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{argument} must be {article} {kind.__name__}, but is {type(value).__name__}.")
    return value


def require_each(argument: str, values: object, kind: type[_Kind]) -> list[_Kind]:
    """Raises TypeError unless the values are a sequence of that class."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{argument} must be a sequence of {kind.__name__}, but is {type(values).__name__}.")
    return [require_kind(f"every one of {argument}", value, kind) for value in values]


def require_number(**values: object) -> None:
    """Raises TypeError for the first argument that is no real number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, but is {value!r}.")


def require_positive(**values: object) -> None:
    """Raises TypeError or ValueError for the first argument that is no positive number."""
    for name, value in values.items():
        require_number(**{name: value})
        if not value > 0:  # type: ignore[operator]
            raise ValueError(f"{name} must be positive, but is {value}.")


def require_not_negative(**values: object) -> None:
    """Raises TypeError or ValueError for the first argument that is no number of at least 0."""
    for name, value in values.items():
        require_number(**{name: value})
        if not value >= 0:  # type: ignore[operator]
            raise ValueError(f"{name} must not be negative, but is {value}.")


def real_array(
    argument: str, values: npt.ArrayLike, least: float, *, excluded: bool = False
) -> npt.NDArray[np.float64]:
    """The values as float64, at least one of them and none below ``least``, which itself may be excluded.

    Raises:
        TypeError: they are no numbers.
        ValueError: there are none, or one is too small.
    """
    words = "positive" if excluded and least == 0 else f"at least {least:g}"
    try:
        if values is None:
            raise TypeError
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{argument} must be numbers, but is {values!r}.") from None
    if array.size == 0:
        raise ValueError(f"{argument} must hold at least one number, but is empty.")
    if not (array > least if excluded else array >= least).all():
        raise ValueError(f"{argument} must be {words}, but is {array.min()}.")
    return array


def int_pair(argument: str, value: object, least: int) -> tuple[int, int]:
    """One int for both axes, or two.

    Raises:
        TypeError: it is neither.
        ValueError: there are not two, or one is below ``least``.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{argument} must be one int or two, but is {tuple(value)!r}.")
        return _whole(argument, value[0], least), _whole(argument, value[1], least)
    number = _whole(argument, value, least)
    return number, number


def four_sizes(argument: str, value: object, least: int) -> tuple[int, int, int, int]:
    """The sizes of a tensor with four dimensions.

    Raises:
        TypeError: they are no ints.
        ValueError: there are not four, or one is below ``least``.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{argument} must be four ints, but is {value!r}.")
    sizes = [_whole(argument, size, least) for size in value]
    if len(sizes) != 4:
        raise ValueError(f"{argument} must be four ints, but is {tuple(sizes)}.")
    return sizes[0], sizes[1], sizes[2], sizes[3]


def _whole(argument: str, value: object, least: int) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{argument} must be made of ints, but has {value!r}.")
    if number < least:
        allowed = "positive" if least == 1 else f"at least {least}"
        raise ValueError(f"{argument} must be {allowed}, but has {number}.")
    return number
