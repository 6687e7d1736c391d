"""Times many short calls within a budget, with a progress bar where that takes long enough to wonder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_CALL_SECONDS = 0.02
_BUDGET_SECONDS = 3.0
_PATIENCE_SECONDS = 1.0


class Stopwatch:
    """Measures one call after another; a context manager that takes its progress bar away.

    Args:
        calls: how many different calls will be measured at most. Each gets 20 ms, less where that would add up to more
            than three seconds, and is made at least once.
    """

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._share = min(_CALL_SECONDS, _BUDGET_SECONDS / max(calls, 1))
        self._begin = time.perf_counter()
        self._spent = 0.0
        self._done = 0
        self._bar: tuple[Progress, TaskID] | None = None

    def median_seconds(self, call: Callable[[], object], stands_for: int = 1) -> float:
        """The median time of a call in seconds; the first few of many, which warm the caches, do not shift it.

        Args:
            call: what is measured.
            stands_for: how many of the announced calls it is; a call that none was announced for gets the time of one.
        """
        share = self._share * max(stands_for, 1)
        if self._spent >= _BUDGET_SECONDS:  # slow calls have used up what others would get
            share = 0.0
        begin = now = time.perf_counter()
        seconds: list[float] = []
        while not seconds or now - begin < share:
            start = time.perf_counter()
            call()
            now = time.perf_counter()
            seconds.append(now - start)
        self._spent += now - begin
        self._done += stands_for
        self._show()
        return median(seconds)

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def _show(self) -> None:
        if self._bar is None and time.perf_counter() - self._begin > _PATIENCE_SECONDS and sys.stderr.isatty():
            self._bar = self._start_bar()
        if self._bar is not None:
            progress, task = self._bar
            progress.update(task, completed=self._done, refresh=True)

    def _start_bar(self) -> tuple[Progress, TaskID]:
        from rich.console import Console  # here, because importing it takes longer than most explanations
        from rich.progress import Progress

        # Its own refreshing thread would disturb what is being timed.
        progress = Progress(console=Console(stderr=True), transient=True, auto_refresh=False)
        task = progress.add_task("Timing blocks", total=self._calls)
        progress.start()
        return progress, task
