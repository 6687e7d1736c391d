"""The progress bar of a run on a terminal; elsewhere a line an epoch."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .logs import EpochRecord


class EpochProgress:
    """Shows steps and epochs; a context manager, so that an error leaves the terminal in order.

    Args:
        epochs: of the whole run.
        steps_per_epoch: of every epoch.
        done: epochs of an earlier session of the run.
        tell: gets a line of text for the user.
        shown: whether this process speaks to the user.
    """

    def __init__(
        self, epochs: int, steps_per_epoch: int, done: int, tell: Callable[[str], None], shown: bool = True
    ) -> None:
        self._epochs = epochs
        self._tell = tell
        self._shown = shown
        self._test = ""
        console = Console(stderr=True)
        self._is_live = shown and console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self._is_live,
        )
        total = epochs * steps_per_epoch
        self._task = self._bar.add_task(f"epoch {done + 1}/{epochs}", total=total, state="")
        self._bar.update(self._task, completed=done * steps_per_epoch)

    def __enter__(self) -> EpochProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def start_epoch(self, epoch: int) -> None:
        """Names the epoch that runs now."""
        self._bar.update(self._task, description=f"epoch {epoch}/{self._epochs}")

    def step(self, loss: float | None) -> None:
        """One more step; its loss where it is known."""
        self._bar.advance(self._task)
        if loss is not None:
            self._bar.update(self._task, state=f"loss {loss:.3f}{self._test}")

    def end_epoch(self, record: EpochRecord) -> None:
        """Shows what the epoch came to."""
        self._test = f", test {record.test_accuracy:.2%}"
        if self._shown and not self._is_live:
            self._tell(
                f"epoch {record.epoch}/{self._epochs}: loss {record.train_loss:.4f}, test loss {record.test_loss:.4f}, "
                f"test accuracy {record.test_accuracy:.2%}, {record.seconds:.1f} s"
            )
