"""Times several variants of one computation against each other on a noisy machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

_REST_SECONDS = 0.02
_TURN_SECONDS = 0.25
_WARMUP_CALLS = 3
_LEAST_CALLS = 5


@dataclass(frozen=True)
class Latency:
    """Times of many calls of one variant, in milliseconds."""

    milliseconds: list[float]

    @property
    def minimum(self) -> float:
        """The fastest call: what the code can do when nothing disturbs it."""
        return min(self.milliseconds)

    @property
    def median(self) -> float:
        """The middle of all calls: what a user sees on this machine."""
        return median(self.milliseconds)


def time_in_turns(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = 10,
    after_turn: Callable[[], None] = lambda: None,
) -> dict[str, Latency]:
    """Times each variant's calls; they take turns, so that a slow spell of the machine strikes all of them.

    Before a turn the caller sleeps, because idle worker threads of the variant before still spin for a while,
    and a few calls go untimed, which wake the threads and warm the caches. Each round starts with another
    variant.

    Args:
        variants: name -> call without arguments.
        rounds: turns that each variant gets, a quarter of a second each and never less than five calls.
        after_turn: called after every turn, to show progress.

    Returns:
        name -> the times of its calls, in the order of `variants`.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be at least 1")
    times: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for turn in range(rounds):
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            times[name] += _time_turn(variants[name])
            after_turn()
    return {name: Latency(milliseconds) for name, milliseconds in times.items()}


def _time_turn(call: Callable[[], object]) -> list[float]:
    time.sleep(_REST_SECONDS)
    for _ in range(_WARMUP_CALLS):
        call()
    times: list[float] = []
    start = now = time.perf_counter()
    while len(times) < _LEAST_CALLS or now - start < _TURN_SECONDS:
        before = now
        call()
        now = time.perf_counter()
        times.append((now - before) * 1e3)
    return times
