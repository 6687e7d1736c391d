"""What this machine reaches at most: float32 multiply-adds and copies, measured when first asked for."""

from __future__ import annotations

import time
from functools import cache, cached_property

import torch

from convfirst_ext import _native

_FP32_ISAS = ("avx512", "avx2", "portable")  # widest first; what multiplies in float16 is no float32 ceiling
_GLANCE_SECONDS = 0.001  # to find the fast microkernels
_PEAK_SECONDS = 0.01  # for each of the fast ones
_FINALISTS = 4
_COPY_SECONDS = 0.03
_LARGEST_COPY = 512 * 2**20  # bytes touched
_ONE_THREAD_COPY = 128 * 2**10  # bytes; torch shares larger copies among its threads


class Ceilings:
    """Peak arithmetic and copy bandwidth of a number of threads.

    Args:
        threads: torch's present number, which copies run on.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.copies: dict[str, float] = {}
        """Copy bandwidth measured so far, bytes a second read and written, by where the working set lies."""

    @cached_property
    def flops_per_second(self) -> float:
        """Peak of the fastest matrix-product microkernel, times the threads; two operations a multiply-add."""
        available = _native.cpu_info()["available"]
        isa = next(isa for isa in _FP32_ISAS if isa in available)
        products = [name for name in _native.list_microkernels(isa) if name.startswith("gemm_")]
        fast = sorted(products, key=lambda name: _rate(isa, name, _GLANCE_SECONDS))[-_FINALISTS:]
        return self.threads * max(_rate(isa, name, _PEAK_SECONDS) for name in fast)

    def bytes_per_second(self, working_set: int) -> float:
        """Copy bandwidth, read and written, of the cache that holds ``working_set`` bytes, or of memory."""
        level = self.level(working_set)
        if level not in self.copies:
            # One thread's rate times the threads where every core has its own cache: copies that small end before
            # threads have met.
            copiers = self.threads if level == "L2" else 1
            self.copies[level] = copiers * _copy_rate(self._copy_size(level))
        return self.copies[level]

    def shortest_seconds(self, macs: int, size: int) -> float:
        """The longer of the time for ``macs`` multiply-adds at the peak and for ``size`` bytes at copy bandwidth."""
        return max(2 * macs / self.flops_per_second, size / self.bytes_per_second(size))

    def __str__(self) -> str:
        copies = ", ".join(f"{rate / 1e9:.0f} GB/s in {level}" for level, rate in sorted(self.copies.items()))
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads}: {self.flops_per_second / 1e9:.0f} GFLOP/s; copies {copies or 'not measured'}"

    def _copy_size(self, level: str) -> int:
        """Bytes to copy, half of what that touches: well inside one thread's L2, inside L3, far outside both."""
        info = _native.cpu_info()
        if level == "L2":
            return min(info["l2_bytes"] // 4, _ONE_THREAD_COPY)
        l2, l3 = info["l2_bytes"] * self.threads, info["l3_bytes"]
        return max(l3 // 4, l2) // 2 if level == "L3" else min(4 * max(l2, l3), _LARGEST_COPY) // 2

    def level(self, working_set: int) -> str:
        """The cache that holds ``working_set`` bytes, or memory."""
        info = _native.cpu_info()
        if working_set <= info["l2_bytes"] * self.threads:
            return "L2"
        return "L3" if working_set <= info["l3_bytes"] else "memory"


@cache
def ceilings_for(threads: int) -> Ceilings:
    """The ceilings of torch's present number of threads, measured once a process."""
    return Ceilings(threads)


def _rate(isa: str, name: str, seconds: float) -> float:
    timed = _native.time_microkernel(isa, name, seconds)
    return 1e9 * timed["flops_per_call"] / timed["ns_per_call"]


def _copy_rate(size: int) -> float:
    """Bytes a second, read and written, of the fastest of the copies that fit in the time."""
    source = torch.ones(max(size // 4, 1))
    target = torch.zeros_like(source)  # written, so that no copy pays for fresh pages
    fastest = float("inf")
    end = time.perf_counter() + _COPY_SECONDS
    calls = 0
    while calls < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        target.copy_(source)
        fastest = min(fastest, time.perf_counter() - begin)
        calls += 1
    return 2 * 4 * source.numel() / fastest
