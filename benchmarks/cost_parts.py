"""The parts of ``benchmarks.cost``: each yields one record a runtime, with its points and one figure."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import cost_workloads
from benchmarks.cost_workloads import MODULE_RUNTIMES
from convfirst_ext.apps.memory import ALLOCATOR
from convfirst_ext.bench.cases import Case, PreparedCase, prepare
from convfirst_ext.bench.network_cases import create_network
from convfirst_ext.bench.peers import contestants_for
from convfirst_ext.bench.timer import Contestant, ContestantFailure, Schedule, Timing, ask_once, take_turns

Record = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    batches: tuple[int, ...] = (16, 32, 64, 128, 256)
    sizes: tuple[int, ...] = (112, 160, 224, 320, 448, 640, 1024)
    shapes: tuple[int, ...] = (128, 160, 176, 192, 224, 240, 256, 288)
    block_sizes: tuple[int, ...] = (28, 56, 112, 224, 448)
    expansions: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12)
    size: int = 224
    thread_batch: int = 16
    block_size: int = 112
    repeats: int = 5
    rounds: int = 5
    calls: int = 20
    schedule: Schedule = Schedule(rounds=5)


QUICK = Scale(
    batches=(1, 2),
    sizes=(64, 96),
    shapes=(64, 96),
    block_sizes=(16, 32),
    expansions=(1, 6),
    size=64,
    thread_batch=2,
    block_size=32,
    repeats=1,
    rounds=1,
    calls=3,
    schedule=Schedule(rounds=1, turn_seconds=0.05, pause_seconds=0.05, warmup_seconds=0.0),
)


@dataclass(frozen=True)
class Setting:
    """What a part gets: the network, the number of threads, the amount, and a listener to its progress."""

    model: str
    threads: int
    scale: Scale
    tell: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Part:
    """One question.

    Args:
        question: what tables and plots call it.
        figure: what the figure is.
        x_label: what the points differ in.
        unit: of the points' values.
        measure: yields records.
        target: what our figure should not exceed, or should reach where ``higher`` is set; None without one.
        higher: whether more is better.
        per_network: whether it is asked of every network, or only once.
    """

    question: str
    figure: str
    x_label: str
    unit: str
    measure: Callable[[Setting], Iterator[Record]]
    target: float | None = None
    higher: bool = False
    per_network: bool = True


def batch_linearity(setting: Setting) -> Iterator[Record]:
    """Milliseconds an image at growing batch sizes."""
    shapes = {str(batch): (batch, 3, setting.scale.size, setting.scale.size) for batch in setting.scale.batches}
    works = {label: float(shape[0]) for label, shape in shapes.items()}
    timings = _sweep(setting, shapes, setting.threads)
    yield from _records(timings, works, deviation)


def pixel_linearity(setting: Setting) -> Iterator[Record]:
    """Milliseconds a megapixel at growing sizes of one image."""
    shapes = {str(size): (1, 3, size, size) for size in setting.scale.sizes}
    works = {label: shape[2] * shape[3] / 1e6 for label, shape in shapes.items()}
    timings = _sweep(setting, shapes, setting.threads)
    yield from _records(timings, works, deviation)


def thread_scaling(setting: Setting) -> Iterator[Record]:
    """Milliseconds a call on one and on two threads."""
    scale = setting.scale
    shape = (scale.thread_batch, 3, scale.size, scale.size)
    timings = _sweep(setting, {"1": shape, "2": shape}, {"1": 1, "2": 2})
    yield from _records(timings, {"1": 1.0, "2": 1.0}, lambda values: values[0] / values[-1])


def occasional_call(setting: Setting) -> Iterator[Record]:
    """The median of calls with 50 ms of sleep between them over that of calls back to back."""
    with _prepared(setting, (1, 3, setting.scale.size, setting.scale.size)) as prepared:
        for runtime in ("convfirst", "eager", "onnxruntime", "openvino"):
            make = partial(cost_workloads.occasional, prepared, runtime, setting.threads, setting.scale.rounds)
            medians, error = _ask(setting, runtime, make)
            yield _record(runtime, medians, lambda values: values[1] / values[0], error)


def first_call(setting: Setting) -> Iterator[Record]:
    """The first call of a fresh process, and the first at new sizes, over the median of later ones."""
    scale = setting.scale
    news = [size for size in scale.shapes if size != scale.size][:2]
    with _prepared(setting, (1, 3, scale.size, scale.size)) as prepared:
        for runtime in MODULE_RUNTIMES:
            make = partial(cost_workloads.first_calls, prepared, runtime, setting.threads, news, scale.calls)
            answers = [_ask(setting, runtime, make) for _ in range(scale.repeats)]
            found = [answer for answer, error in answers if error is None]
            ratios = {
                name: statistics.median(answer[name][0] / answer[name][1] for answer in found)
                for name in (found[0] if found else {})
            }
            record = _record(runtime, ratios or None, max, next((error for _, error in answers if error), None))
            yield {**record, "first_and_later_ms": found}


def changing_shapes(setting: Setting) -> Iterator[Record]:
    """Calls that change the size every time over calls that stay at one."""
    scale = setting.scale
    with _prepared(setting, (1, 3, scale.size, scale.size)) as prepared:
        for runtime in MODULE_RUNTIMES:
            make = partial(
                cost_workloads.changing_shapes, prepared, runtime, setting.threads, scale.shapes, scale.rounds
            )
            answer, error = _ask(setting, runtime, make)
            values = answer and {
                str(size): changing / steady
                for size, steady, changing in zip(
                    answer["sizes"], answer["steady_ms"], answer["changing_ms"], strict=True
                )
            }
            record = _record(runtime, values, max, error)
            if answer:
                record["figure"] = sum(answer["changing_ms"]) / sum(answer["steady_ms"])
            yield {**record, **(answer or {})}


def workspace(setting: Setting) -> Iterator[Record]:
    """MiB that one inverted residual needs on top of weights, input and output, by image size and hidden width."""
    scale = setting.scale
    groups = {
        "by size, expanding 6 times": {str(size): (size, 6) for size in scale.block_sizes},
        f"by expansion, size {scale.block_size}": {str(ratio): (scale.block_size, ratio) for ratio in scale.expansions},
    }
    with _environment(ALLOCATOR):
        for group, points in groups.items():
            for runtime in MODULE_RUNTIMES:
                yield {**_workspace_of(setting, runtime, points), "group": group}


def _workspace_of(setting: Setting, runtime: str, points: dict[str, tuple[int, int]]) -> Record:
    values: dict[str, float] = {}
    for label, (size, expansion) in points.items():
        make = partial(cost_workloads.workspace, runtime, setting.threads, size, expansion)
        answer, error = _ask(setting, f"{runtime}, size {size}, expanding {expansion} times", make)
        if answer is None:
            return _record(runtime, values, max, error or "this system does not count resident memory as Linux does")
        values[label] = answer["workspace_bytes"] / 2**20
    return _record(runtime, values, max, None)


def deviation(values: Sequence[float]) -> float:
    """Returns the largest deviation from the mean, in percent of the mean."""
    mean = statistics.mean(values)
    return 100.0 * max(abs(value - mean) for value in values) / mean


PARTS = {
    "batch": Part("Batch linearity", "largest deviation, %", "batch", "ms an image", batch_linearity, 10.0),
    "pixels": Part("Pixel linearity", "largest deviation, %", "size", "ms a megapixel", pixel_linearity, 10.0),
    "threads": Part("Thread scaling", "speedup, 1 to 2", "threads", "ms a call", thread_scaling, 1.8, higher=True),
    "occasional": Part("Occasional calls", "slowdown", "calls", "median ms", occasional_call, 1.2),
    "first": Part("First calls", "worst slowdown", "call", "times later ones", first_call, 2.0),
    "shapes": Part("Changing shapes", "slowdown", "size", "times steady", changing_shapes),
    "workspace": Part("Workspace of a block", "most, MiB", "size or expansion", "MiB", workspace, per_network=False),
}


def _sweep(
    setting: Setting, shapes: dict[str, tuple[int, int, int, int]], threads: int | dict[str, int]
) -> dict[str, dict[str, Timing]]:
    """Times all points of all runtimes in turns; returns runtime -> label of the point -> timing."""
    with tempfile.TemporaryDirectory(prefix="convfirst-cost-") as directory:
        contestants = []
        for label, shape in shapes.items():
            case = Case(setting.model, partial(create_network, setting.model), shape)
            setting.tell(f"preparing {shape}")
            prepared = prepare(case, Path(directory))
            count = threads if isinstance(threads, int) else threads[label]
            for contestant in contestants_for(prepared, MODULE_RUNTIMES, ["float32"], count):
                contestants.append(replace(contestant, name=f"{contestant.name} {label}"))
        timings = take_turns(contestants, setting.scale.schedule, setting.tell)
    return {runtime: {label: timings[f"{runtime} {label}"] for label in shapes} for runtime in MODULE_RUNTIMES}


def _records(
    timings: dict[str, dict[str, Timing]], works: dict[str, float], figure: Callable[[Sequence[float]], float]
) -> Iterator[Record]:
    """Yields a record a runtime: minima over the work of each point, and what follows from them."""
    for runtime, points in timings.items():
        error = next((timing.error for timing in points.values() if timing.error), None)
        values = {label: timing.min_ms / works[label] for label, timing in points.items() if timing.min_ms is not None}
        record = _record(runtime, values, figure, error)
        yield {**record, "timings": {label: timing.to_json() for label, timing in points.items()}}


def _record(
    runtime: str,
    values: dict[str, float] | None,
    figure: Callable[[Sequence[float]], float],
    error: str | None,
) -> Record:
    """A record with every point there is; the figure takes all of them, so an error leaves it out."""
    found = float(figure(list(values.values()))) if values and error is None else None
    return {"runtime": runtime, "points": values or {}, "figure": found, "error": error}


def _ask(setting: Setting, name: str, make: Callable[[], Any]) -> tuple[Any, str | None]:
    setting.tell(name)
    try:
        return ask_once(Contestant(name, make)), None
    except ContestantFailure as failure:
        return None, str(failure)


@contextmanager
def _prepared(setting: Setting, shape: tuple[int, int, int, int]) -> Iterator[PreparedCase]:
    with tempfile.TemporaryDirectory(prefix="convfirst-cost-") as directory:
        yield prepare(Case(setting.model, partial(create_network, setting.model), shape), Path(directory))


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """For processes started inside: they read it when they start."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
