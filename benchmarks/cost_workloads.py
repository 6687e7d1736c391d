"""What the parts of ``benchmarks.cost`` do inside a contestant's process; every function here is picklable by name."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

import convfirst_ext as cf
from benchmarks.layer_cases import InvertedResidual
from convfirst_ext.apps.memory import measure_growth
from convfirst_ext.bench.cases import PreparedCase, randomize
from convfirst_ext.bench.peers import build
from convfirst_ext.bench.timer import Workload

MODULE_RUNTIMES = ("convfirst", "eager")  # those that are a module, which takes any shape
_IDLE_SECONDS = 0.05
_BLOCK_CHANNELS = 32


def occasional(prepared: PreparedCase, runtime: str, threads: int, rounds: int) -> Workload:
    """Calls a runtime back to back and with 50 ms of sleep before each call, in alternating stretches."""
    run = build(prepared, runtime, "float32", threads).run
    return Workload(partial(_compare_stretches, run, rounds))


def _compare_stretches(run: Callable[[], object], rounds: int) -> dict[str, float]:
    together: list[float] = []
    apart: list[float] = []
    for _ in range(rounds):
        run()
        together += [1e3 * _seconds_of(run) for _ in range(10)]
        for _ in range(10):
            time.sleep(_IDLE_SECONDS)
            apart.append(1e3 * _seconds_of(run))
    return {"back to back": statistics.median(together), "after 50 ms": statistics.median(apart)}


def first_calls(prepared: PreparedCase, runtime: str, threads: int, sizes: Sequence[int], calls: int) -> Workload:
    """Times the very first call after loading and optimizing, and the first at each further size."""
    model, image = _load(prepared, runtime, threads)
    images = {f"first in the process, {image.shape[-1]}": image}
    images |= {f"first at a new size, {size}": torch.randn(1, 3, size, size) for size in sizes}
    return Workload(partial(_time_first, model, images, calls))


def _time_first(model: nn.Module, images: dict[str, torch.Tensor], calls: int) -> dict[str, list[float]]:
    found = {}
    for name, image in images.items():
        run = partial(model, image)
        first = 1e3 * _seconds_of(run)
        found[name] = [first, statistics.median(1e3 * _seconds_of(run) for _ in range(calls))]
    return found


def changing_shapes(prepared: PreparedCase, runtime: str, threads: int, sizes: Sequence[int], rounds: int) -> Workload:
    """Times calls that change the size every time, and calls that stay at one, in alternating stretches."""
    model, _ = _load(prepared, runtime, threads)
    runs = [partial(model, torch.randn(1, 3, size, size)) for size in sizes]
    return Workload(partial(_compare_orders, runs, list(sizes), rounds))


def _compare_orders(runs: Sequence[Callable[[], object]], sizes: list[int], rounds: int) -> dict[str, Any]:
    steady: list[list[float]] = [[] for _ in runs]
    changing: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for times, run in zip(steady, runs, strict=True):
            run()
            times += [1e3 * _seconds_of(run) for _ in range(5)]
        for _ in range(5):
            for times, run in zip(changing, runs, strict=True):
                times.append(1e3 * _seconds_of(run))
    return {
        "sizes": sizes,
        "steady_ms": [statistics.mean(times) for times in steady],
        "changing_ms": [statistics.mean(times) for times in changing],
    }


def workspace(runtime: str, threads: int, size: int, expansion: int) -> Workload:
    """Measures the memory a call of one inverted residual needs on top of weights, input and output.

    The process must start with ``convfirst_ext.apps.memory.ALLOCATOR`` in its environment.
    """
    _settle(threads)
    block = _block(runtime, expansion)
    # Pages in the code and starts the threads, which are no workspace.
    small = _block(runtime, 1)
    small(_channels_last(8))
    return Workload(partial(_measure_workspace, block, _channels_last(size)))


def _measure_workspace(block: nn.Module, image: torch.Tensor) -> dict[str, int] | None:
    peak = measure_growth(partial(block, image))
    if peak is None:
        return None
    output = image.numel() * image.element_size()  # channels and stride keep the shape
    # The first call also holds what is kept for later ones, a later one what is given back after it.
    return {"workspace_bytes": max(0, max(peak.first, peak.later) - output), "output_bytes": output}


def _block(runtime: str, expansion: int) -> nn.Module:
    torch.manual_seed(0)
    block = InvertedResidual(_BLOCK_CHANNELS, _BLOCK_CHANNELS, expansion=expansion).eval()
    randomize(block, (2, _BLOCK_CHANNELS, 8, 8))
    if runtime == "eager":
        return block.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    return cf.optimize(block)


def _channels_last(size: int) -> torch.Tensor:
    return torch.randn(1, _BLOCK_CHANNELS, size, size).contiguous(memory_format=torch.channels_last)


def _load(prepared: PreparedCase, runtime: str, threads: int) -> tuple[nn.Module, torch.Tensor]:
    """The model, never called yet, and its input."""
    _settle(threads)
    model, image, _ = prepared.load()
    return (model if runtime == "eager" else cf.optimize(model)), image


def _settle(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def _seconds_of(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
