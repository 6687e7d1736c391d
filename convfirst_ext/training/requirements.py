"""Turns a missing package of the `train` extra into one sentence that says how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingPackageError

_OWN_PACKAGE = __package__.partition(".")[0]


@contextmanager
def train_extra() -> Iterator[None]:
    """Wraps imports of packages that come with the `train` extra.

    Raises:
        MissingPackageError: one is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or str(error)).partition(".")[0]
        if missing == _OWN_PACKAGE:
            raise
        remedy = f'run: pip install "{_OWN_PACKAGE}[train]"'
        raise MissingPackageError(f"the package {missing!r} is not installed; {remedy}", name=missing) from None
