"""Turns a missing optional package into one sentence that says how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_OWN_PACKAGE = __package__.partition(".")[0]


class MissingPackageError(ImportError):
    """A package that only some commands and examples need is not installed."""


@contextmanager
def extra(name: str, kind: type[ImportError] = MissingPackageError) -> Iterator[None]:
    """Wraps imports of packages that come with an optional extra of this package.

    Args:
        name: of the extra.
        kind: of the error.

    Raises:
        ImportError: one, of that kind, is not installed; the message names it and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or str(error)).partition(".")[0]
        if missing == _OWN_PACKAGE:
            raise
        remedy = f'run: pip install "{_OWN_PACKAGE}[{name}]"'
        raise kind(f"the package {missing!r} is not installed; {remedy}", name=missing) from None
