"""The one timer: every contestant in a process of its own, taking turns; minimum and median over all calls.

The idle threads of one runtime keep spinning after a call and slow whatever runs next in the same process,
and a busy machine slows whoever happens to run at that moment. So each contestant gets a process, only one of
them works at a time, turns are short and shuffled in every round, and a pause before each lets threads fall asleep.
"""

from __future__ import annotations

import pickle
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

from convfirst_ext.bench.worker import serve

_SHORTEST_TURN = 0.1
_FEWEST_ROUNDS = 2


@dataclass(frozen=True)
class Workload:
    """What a contestant's process calls over and over, and the facts found while building it."""

    run: Callable[[], object]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contestant:
    """A name and a picklable function that builds the workload inside the contestant's own process."""

    name: str
    build: Callable[[], Workload]


@dataclass(frozen=True)
class Schedule:
    """How often and how long the contestants take turns; every time is in seconds.

    ``seconds``, where given, is about what all of it may take: once the contestants are built, rounds become fewer
    and turns shorter to fit into what is left of it, down to two rounds of short turns.
    """

    rounds: int = 8
    turn_seconds: float = 0.4
    pause_seconds: float = 0.2
    warmup_seconds: float = 0.3
    build_timeout_seconds: float = 900.0
    turn_timeout_seconds: float = 300.0
    seed: int = 0
    seconds: float | None = None

    def fitted(self, contestants: int, seconds: float) -> Schedule:
        """Returns the schedule with rounds and turns that fit into ``seconds``, as far as there are any."""
        fitting = int(seconds / (max(1, contestants) * (self.pause_seconds + _SHORTEST_TURN)))
        rounds = min(self.rounds, max(_FEWEST_ROUNDS, fitting))
        turn = seconds / (max(1, contestants) * rounds) - self.pause_seconds
        return replace(self, rounds=rounds, turn_seconds=min(self.turn_seconds, max(_SHORTEST_TURN, turn)))


@dataclass(frozen=True)
class Timing:
    """One contestant's result: milliseconds a call, over all rounds and per round, or what stopped it."""

    name: str
    min_ms: float | None = None
    median_ms: float | None = None
    calls: int = 0
    round_min_ms: list[float] = field(default_factory=list)
    round_median_ms: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the plain dict that goes into a results file."""
        return asdict(self)


class ContestantFailure(Exception):
    """A contestant could not be built or timed; the text says why."""


class _Seat:
    """A contestant's process, the pipe to it, and the times it has reported so far."""

    def __init__(self, contestant: Contestant, log_path: Path) -> None:
        self.name = contestant.name
        self.facts: dict[str, Any] = {}
        self.rounds: list[list[float]] = []
        self.answers: list[Any] = []
        self.error: str | None = None
        self._log_path = log_path
        self._pickled_build = pickle.dumps(contestant.build)
        context = get_context("spawn")
        self._pipe, worker_end = context.Pipe()
        self._process = context.Process(target=serve, args=(worker_end, str(log_path)), daemon=True)
        self._process.start()
        worker_end.close()

    def start_build(self) -> None:
        self._attempt(lambda: self._send(("build", self._pickled_build)))

    def finish_build(self, timeout: float) -> None:
        self._attempt(lambda: self.facts.update(self._receive("build", timeout)))

    def warm_up(self, seconds: float, timeout: float) -> None:
        self._attempt(lambda: self._ask(("turn", seconds), timeout))

    def take_turn(self, seconds: float, timeout: float) -> None:
        self._attempt(lambda: self.rounds.append(self._ask(("turn", seconds), timeout)))

    def call(self, timeout: float) -> None:
        self._attempt(lambda: self.answers.append(self._ask(("call", None), timeout)))

    def dismiss(self) -> None:
        """Asks the process to end."""
        try:
            self._pipe.send(None)
        except (BrokenPipeError, OSError):
            pass

    def leave(self) -> None:
        """Ends the process, which was dismissed."""
        self._process.join(timeout=2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def timing(self) -> Timing:
        if self.error is not None or not self.rounds:
            return Timing(self.name, facts=self.facts, error=self.error or "no round was timed")
        calls_ms = [[1e3 * seconds for seconds in calls] for calls in self.rounds]
        every_call = [milliseconds for calls in calls_ms for milliseconds in calls]
        return Timing(
            self.name,
            min_ms=min(every_call),
            median_ms=statistics.median(every_call),
            calls=len(every_call),
            round_min_ms=[min(calls) for calls in calls_ms],
            round_median_ms=[statistics.median(calls) for calls in calls_ms],
            facts=self.facts,
        )

    def _attempt(self, step: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            step()
        except ContestantFailure as failure:
            self.error = str(failure)
            self._process.kill()

    def _ask(self, request: tuple[str, object], timeout: float) -> Any:
        self._send(request)
        return self._receive(request[0], timeout)

    def _send(self, request: tuple[str, object]) -> None:
        try:
            self._pipe.send(request)
        except OSError:
            raise ContestantFailure(self._cause_of_death()) from None

    def _receive(self, kind: str, timeout: float) -> Any:
        try:
            if not self._pipe.poll(timeout):
                raise ContestantFailure(f"no answer to '{kind}' within {timeout:g} s")
            succeeded, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise ContestantFailure(self._cause_of_death()) from None
        if not succeeded:
            raise ContestantFailure(str(answer))
        return answer

    def _cause_of_death(self) -> str:
        self._process.join(timeout=5.0)
        text = f"the process ended with exit status {self._process.exitcode}"
        lines = self._log_path.read_text(errors="replace").split("\n") if self._log_path.exists() else []
        last_words = [line.strip() for line in lines if line.strip()][-1:]
        return ": ".join([text, *last_words])


class Table:
    """The contestants' processes, all started on entry and all ended on exit, whatever happens in between."""

    def __init__(self, contestants: Sequence[Contestant]) -> None:
        names = [contestant.name for contestant in contestants]
        if len(set(names)) != len(names):
            raise ValueError(f"contestants must have different names, got {names}")
        self._contestants = contestants
        self._logs = tempfile.TemporaryDirectory(prefix="convfirst-bench-")
        self.seats: list[_Seat] = []

    def __enter__(self) -> list[_Seat]:
        for number, contestant in enumerate(self._contestants):
            self.seats.append(_Seat(contestant, Path(self._logs.name, f"{number}.log")))
        return self.seats

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for seat in self.seats:
            seat.dismiss()
        for seat in self.seats:
            seat.leave()
        self._logs.cleanup()


def take_turns(
    contestants: Sequence[Contestant],
    schedule: Schedule | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> dict[str, Timing]:
    """Times every contestant in turns and returns one ``Timing`` a name, in the order given.

    Args:
        contestants: what to time, each in its own spawned process, so ``build`` must be picklable.
        schedule: rounds, lengths and pauses.
        on_step: called with a short text after each of the ``steps_of(...)`` steps; it runs between turns,
            never during one, so a progress bar drawn there costs nobody time.

    A contestant that raises, dies or hangs keeps its error text in ``Timing.error``; the others go on.
    """
    schedule = schedule or Schedule()
    order = random.Random(schedule.seed)
    start = time.monotonic()
    with Table(contestants) as seats:
        if schedule.seconds is not None:  # in a hurry: nothing is timed yet, so they may disturb each other
            for seat in seats:
                seat.start_build()
        for seat in seats:
            if schedule.seconds is None:
                seat.start_build()
            seat.finish_build(schedule.build_timeout_seconds)
            on_step(f"{seat.name}: built")
        for seat in seats:
            seat.warm_up(schedule.warmup_seconds, schedule.turn_timeout_seconds)
        if schedule.seconds is not None:
            working = sum(seat.error is None for seat in seats)
            schedule = schedule.fitted(working, schedule.seconds - (time.monotonic() - start))
        for number in range(schedule.rounds):
            for seat in order.sample(seats, len(seats)):
                if seat.error is None:
                    time.sleep(schedule.pause_seconds)
                    seat.take_turn(schedule.turn_seconds, schedule.turn_timeout_seconds)
                on_step(f"{seat.name}: round {number + 1} of {schedule.rounds}")
        return {seat.name: seat.timing() for seat in seats}


def steps_of(contestants: int, schedule: Schedule) -> int:
    """Returns how many times ``take_turns`` calls ``on_step``, where it is not short of time."""
    return contestants * (1 + schedule.rounds)


def speedup_in_turns(ours: Timing, peer: Timing) -> float:
    """Returns peer time / our time as the median over rounds of the ratio of the two round minima.

    Both numbers of a ratio come from the same few seconds, so a machine slow for a minute cancels out.
    """
    ratios = [theirs / mine for mine, theirs in zip(ours.round_min_ms, peer.round_min_ms, strict=True)]
    return statistics.median(ratios)


def ask_once(contestant: Contestant, pause_seconds: float = 0.2, timeout_seconds: float = 900.0) -> Any:
    """Returns what one call of the workload returns, in a fresh process that ends with it.

    For workloads that time something themselves, such as a first call.

    Raises:
        ContestantFailure: it could not be built or called.
    """
    with Table([contestant]) as (seat,):
        seat.start_build()
        seat.finish_build(timeout_seconds)
        time.sleep(pause_seconds)
        seat.call(timeout_seconds)
        if seat.error is not None:
            raise ContestantFailure(seat.error)
        return seat.answers[0]
