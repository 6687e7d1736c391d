"""The packages that the command and the examples need: those of the `models` extra."""

from contextlib import AbstractContextManager

from convfirst_ext._extras import MissingPackageError, extra

__all__ = ["MissingPackageError", "models_extra"]


def models_extra() -> AbstractContextManager[None]:
    """Wraps imports of packages that come with the `models` extra.

    Raises:
        MissingPackageError: one is not installed; the message names it and the command that installs it.
    """
    return extra("models")
