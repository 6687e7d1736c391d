"""This machine's ceilings, measured in the run that quotes them: fp32 multiply-adds and copy bandwidth.

One process a thread, all started together, rates added up: no fork-join, no interpreter lock, no shared
buffers. Run it alone with ``python -m convfirst_ext.bench.ceilings``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

from convfirst_ext.bench.machine import cache_sizes

_MIB = 2**20
_MM_SIZE = 1024
_DRAM_BYTES = 1024 * _MIB
_FP32_ISAS = ("avx512", "avx2", "portable")  # widest first; what multiplies in fp16 is no fp32 ceiling


@dataclass(frozen=True)
class Ceilings:
    """What ``threads`` cores reach at most: fp32 GFLOP/s, and GB/s (read + written) of copies by working set.

    ``source`` says what measured the FLOPs; ``working_sets`` has the bytes each copy touches.
    """

    threads: int
    gflops: float
    source: str
    copy_gbps: dict[str, float]
    working_sets: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Returns the plain dict that goes into a results file."""
        return asdict(self)

    def copy_gbps_for(self, size: int) -> float:
        """Returns the bandwidth of the smallest cache that holds ``size`` bytes, or of memory."""
        caches = cache_sizes()
        if size <= caches.get("L2", _MIB) * self.threads:
            return self.copy_gbps["L2"]
        if size <= caches.get("L3", 0):
            return self.copy_gbps["L3"]
        return self.copy_gbps["DRAM"]

    def highest(self, other: Ceilings) -> Ceilings:
        """Returns the higher of each ceiling of two measurements on the same number of threads."""
        faster = max(self, other, key=lambda measured: measured.gflops)
        copies = {name: max(rate, other.copy_gbps[name]) for name, rate in self.copy_gbps.items()}
        return replace(faster, copy_gbps=copies)

    def compute_seconds(self, flops: float) -> float:
        """Returns the time ``flops`` take at the compute ceiling."""
        return flops / (1e9 * self.gflops)

    def roofline_seconds(self, flops: float, size: int) -> float:
        """Returns the larger of the compute time and the time to move ``size`` bytes once."""
        return max(self.compute_seconds(flops), size / (1e9 * self.copy_gbps_for(size)))


def measure_ceilings(threads: int, seconds: float = 0.4) -> Ceilings:
    """Measures every ceiling for about ``seconds`` each (starting the processes takes longer)."""
    isa, kernel = fastest_microkernel()
    sets = copy_working_sets(threads)
    tasks: list[Callable[[], float]] = [partial(microkernel_rate, isa, kernel, seconds), partial(mm_rate, seconds)]
    tasks += [partial(copy_rate, size // threads, seconds) for size in sets.values()]
    by_microkernel, by_mm, *copies = all_at_once(threads, tasks)
    by_name = (by_mm, f"torch.mm {_MM_SIZE}x{_MM_SIZE} (a lower estimate)")
    gflops, source = max((by_microkernel, f"microkernel {isa}/{kernel}"), by_name)
    return Ceilings(threads, gflops, source, dict(zip(sets, copies, strict=True)), sets)


def copy_working_sets(threads: int) -> dict[str, int]:
    """Returns bytes (source + target, all threads) well inside L2, well inside L3, and far outside both."""
    caches = cache_sizes()
    l2_total = caches.get("L2", _MIB) * threads
    l3 = caches.get("L3", 2 * l2_total)
    return {"L2": l2_total // 2, "L3": max(l3 // 4, 2 * l2_total), "DRAM": max(_DRAM_BYTES, 4 * l3)}


def all_at_once(threads: int, tasks: Sequence[Callable[[], float]]) -> list[float]:
    """Runs each picklable task in ``threads`` processes that start it together; returns each one's sum of results."""
    context = get_context("spawn")
    start = context.Barrier(threads)
    answers = context.SimpleQueue()
    workers = [context.Process(target=_run_tasks, args=(tasks, start, answers), daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode != 0 for worker in workers):
        raise RuntimeError(f"a process that measured a ceiling ended with {[worker.exitcode for worker in workers]}")
    rates = [answers.get() for _ in workers]
    return [float(sum(of_one_task)) for of_one_task in zip(*rates, strict=True)]


def best_rate(call: Callable[[], object], units: float, seconds: float) -> float:
    """Returns ``units`` a second of the fastest of the calls that fit in ``seconds``, at least two."""
    call()
    fastest = float("inf")
    end = time.perf_counter() + seconds
    calls = 0
    while calls < 2 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        fastest = min(fastest, time.perf_counter() - begin)
        calls += 1
    return units / fastest


def _run_tasks(tasks: Sequence[Callable[[], float]], start: Any, answers: Any) -> None:
    rates = []
    try:
        for task in tasks:
            start.wait(timeout=120)
            rates.append(task())
    except BaseException:
        start.abort()  # so that the others don't wait for one that died
        raise
    answers.put(rates)


def copy_rate(size: int, seconds: float) -> float:
    """Returns one thread's GB/s, read + written, copying ``size / 2`` bytes by memcpy or by torch."""
    import numpy
    import torch

    torch.set_num_threads(1)
    source = torch.ones(size // 8, dtype=torch.float32)
    target = torch.empty_like(source)
    moved = 2 * 4 * source.numel() / 1e9
    by_memcpy = best_rate(partial(numpy.copyto, target.numpy(), source.numpy()), moved, seconds / 2)
    return max(by_memcpy, best_rate(partial(target.copy_, source), moved, seconds / 2))


def mm_rate(seconds: float) -> float:
    """Returns one thread's fp32 GFLOP/s in a large matrix product."""
    import torch

    torch.set_num_threads(1)
    left, right, out = (torch.randn(_MM_SIZE, _MM_SIZE) for _ in range(3))
    return best_rate(partial(torch.mm, left, right, out=out), 2 * _MM_SIZE**3 / 1e9, seconds)


def fastest_microkernel() -> tuple[str, str]:
    """Returns ISA and name of the package's microkernel with the most fp32 GFLOP/s."""
    native = load_native()
    isa = next(isa for isa in _FP32_ISAS if isa in native.cpu_info()["available"])
    rates = {name: microkernel_rate(isa, name, 0.005) for name in native.list_microkernels(isa)}
    return isa, max(rates, key=lambda name: rates[name])


def microkernel_rate(isa: str, name: str, seconds: float) -> float:
    """Returns one thread's GFLOP/s in a microkernel of the package."""
    timed = load_native().time_microkernel(isa, name, seconds)
    return float(timed["flops_per_call"] / timed["ns_per_call"])


def load_native() -> Any:
    """Returns the package's module of CPU facts and microkernels, its operators loaded."""
    from convfirst_ext import _native

    return _native


def main() -> None:
    """Prints the ceilings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    ceilings = measure_ceilings(parser.parse_args().threads)
    print(f"fp32 {ceilings.gflops:.0f} GFLOP/s on {ceilings.threads} threads, from {ceilings.source}")
    for name, rate in ceilings.copy_gbps.items():
        print(f"copy in {name} ({ceilings.working_sets[name] / _MIB:.1f} MiB): {rate:.1f} GB/s")


if __name__ == "__main__":
    main()
