"""Turns a missing optional package into one sentence that says how to get it."""

from collections.abc import Iterator
from contextlib import contextmanager

_OWN_PACKAGE = __package__.partition(".")[0]


class MissingPackageError(ImportError):
    """A package that only the command and the examples need is not installed."""


@contextmanager
def models_extra() -> Iterator[None]:
    """Wraps imports of packages that come with the `models` extra.

    Raises:
        MissingPackageError: one is not installed; the message names it and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or str(error)).partition(".")[0]
        if missing == _OWN_PACKAGE:
            raise
        remedy = f'run: pip install "{_OWN_PACKAGE}[models]"'
        raise MissingPackageError(f"the package {missing!r} is not installed; {remedy}", name=missing) from None
