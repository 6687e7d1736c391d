"""The process of one contestant: builds its workload on request, times or calls it when told, else sleeps.

A worker answers every request with ``(succeeded, answer)``. It blocks on its pipe between turns, and ends
when told to (``None``) or when the coordinator is gone.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

# Calls in a turn, however long they take: a minimum and a median of a single call would be the same.
_LEAST_CALLS = 2


def serve(pipe: Connection, log_path: str) -> None:
    """Answers requests until told to end; whatever the runtimes print goes to the file at ``log_path``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    _redirect_output(log_path)
    run: Callable[[], object] = _nothing_built
    while True:
        try:
            request = pipe.recv()
        except (EOFError, OSError):
            return
        if request is None:
            return
        kind, argument = request
        try:
            if kind == "build":
                workload = pickle.loads(argument)()
                run = workload.run
                answer: Any = workload.facts
            elif kind == "call":
                answer = run()
            else:
                answer = time_calls(run, argument)
        except Exception as error:  # a contestant's failure is a result, not the end of the run
            pipe.send((False, describe_error(error)))
        else:
            pipe.send((True, answer))


def time_calls(run: Callable[[], object], seconds: float) -> list[float]:
    """Calls ``run`` for about ``seconds`` after an untimed call that wakes its threads; returns durations."""
    run()
    times: list[float] = []
    gc.collect()
    gc.disable()
    try:
        start = perf_counter()
        end = start
        while end - start < seconds or len(times) < _LEAST_CALLS:
            begin = perf_counter()
            run()
            end = perf_counter()
            times.append(end - begin)
    finally:
        gc.enable()
    return times


def describe_error(error: BaseException) -> str:
    """Returns the error's type and its first line, at most 300 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def _nothing_built() -> object:
    raise RuntimeError("a turn was asked for before the workload was built")


def _redirect_output(log_path: str) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
