"""Files that are whole at every moment: the old content or the new one, whatever happens in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file beside `path`, brings it to the disk and gives it its name only then.

    The unfinished file has one fixed name, so that what a killed process left is overwritten by the next write.

    Args:
        path: the file; its folder must be there.
        write: writes the content into the stream that it gets.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with open(unfinished, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """A new name lasts through a power failure only when its folder is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
