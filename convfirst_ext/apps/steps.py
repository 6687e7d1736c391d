"""A progress bar over the steps of a command, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .requirements import models_extra

with models_extra():
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Tell = Callable[[str], None]


@contextmanager
def progress_of(count: int) -> Iterator[Tell]:
    """Shows steps as they begin.

    Args:
        count: how many there will be.

    Yields:
        A function that takes the name of the step that begins; "" hides the bar for one that draws its own or must not
        be disturbed.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("", total=count)
    begun = 0

    def tell(step: str) -> None:
        nonlocal begun
        progress.update(task, completed=begun, description=step, visible=bool(step))
        begun += 1
        if step:
            progress.start()
        else:
            progress.stop()

    try:
        yield tell
    finally:
        progress.stop()
