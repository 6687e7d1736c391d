"""The packages that training needs: those of the `train` extra."""

from __future__ import annotations

from contextlib import AbstractContextManager

from convfirst_ext._extras import extra

from .errors import MissingPackageError


def train_extra() -> AbstractContextManager[None]:
    """Wraps imports of packages that come with the `train` extra.

    Raises:
        MissingPackageError: one is not installed.
    """
    return extra("train", MissingPackageError)
