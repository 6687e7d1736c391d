"""What this machine reaches at most: float32 multiply-adds, and copies in every cache, on a number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from threading import Barrier
from typing import Any

from convfirst_ext import _native

_FP32_ISAS = ("avx512", "avx2", "portable")  # widest first; what multiplies in float16 is no float32 ceiling
_GLANCE_SECONDS = 0.001  # to find the fast microkernels
_FINALISTS = 4
_LEAST_MEMORY = 256 * 2**20  # bytes touched

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Ceilings:
    """Peak arithmetic and copy bandwidth.

    Attributes:
        threads: that ran at the same time.
        gflops: of all of them, in float32.
        source: what reached it.
        copy_gbps: GB/s read and written, by "L1", "L2", "L3" and "DRAM"; L3 is absent where there is none.
        working_sets: bytes that each copy touched.
    """

    threads: int
    gflops: float
    source: str
    copy_gbps: dict[str, float]
    working_sets: dict[str, int]

    @property
    def flops_per_second(self) -> float:
        """Peak arithmetic; two operations a multiply-add."""
        return 1e9 * self.gflops

    def level(self, size: int) -> str:
        """The level that holds ``size`` bytes which all threads share: "L2", "L3" or "DRAM"."""
        info = _native.cpu_info()
        if size <= info["l2_bytes"] * self.threads:
            return "L2"
        return "L3" if size <= info["l3_bytes"] and "L3" in self.copy_gbps else "DRAM"

    def bytes_per_second(self, size: int) -> float:
        """Copy bandwidth of the level that holds ``size`` bytes."""
        return 1e9 * self.copy_gbps[self.level(size)]

    def compute_seconds(self, flops: float) -> float:
        """The time ``flops`` take at the peak."""
        return flops / self.flops_per_second

    def roofline_seconds(self, flops: float, size: int) -> float:
        """The longer of the time for ``flops`` at the peak and for ``size`` bytes at copy bandwidth."""
        return max(self.compute_seconds(flops), size / self.bytes_per_second(size))

    def highest(self, other: Ceilings) -> Ceilings:
        """The higher of each ceiling of two measurements on the same number of threads."""
        faster = max(self, other, key=lambda measured: measured.gflops)
        copies = {name: max(rate, other.copy_gbps.get(name, 0.0)) for name, rate in self.copy_gbps.items()}
        return replace(faster, copy_gbps=copies)

    def to_json(self) -> dict[str, Any]:
        """The plain dict that goes into a file."""
        return asdict(self)

    def __str__(self) -> str:
        copies = ", ".join(f"{rate:.0f} GB/s in {level}" for level, rate in self.copy_gbps.items())
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads}: {self.gflops:.0f} GFLOP/s; copies {copies}"


def measure_ceilings(threads: int, seconds: float = 0.4, tell: Tell = lambda step: None) -> Ceilings:
    """Measures every ceiling for about ``seconds`` each, all threads at once, and takes what the machine sustains.

    Args:
        threads: how many; they are Python's own, apart from torch's.
        seconds: for each of them.
        tell: gets the name of each of the ``steps()`` that begins.

    Raises:
        ValueError: threads or seconds is not positive.
    """
    if threads < 1 or not seconds > 0:
        raise ValueError(f"threads and seconds must be positive, but are {threads} and {seconds}.")
    tell("Peak arithmetic")
    isa, finalists = _fast_microkernels()
    rates = {
        name: together(threads, lambda name=name: _rate(isa, name, seconds / _FINALISTS))  # type: ignore[misc]
        for name in finalists
    }
    best = max(rates, key=lambda name: rates[name])
    sets, copies = copy_working_sets(threads), {}
    for level, size in sets.items():
        tell(f"Copies in {level}")
        copies[level] = together(threads, lambda size=size: _native.time_copy(size // threads, seconds)) / 1e9  # type: ignore[misc]
    return Ceilings(threads, rates[best], f"microkernel {isa}/{best}", copies, sets)


def steps() -> int:
    """How many steps ``measure_ceilings`` tells."""
    return 1 + len(copy_working_sets(1))


def copy_working_sets(threads: int) -> dict[str, int]:
    """Bytes of source and target, all threads together: well inside L1, L2 and L3, and far outside all."""
    info = _native.cpu_info()
    l1, l2, l3 = info["l1_bytes"] * threads, info["l2_bytes"] * threads, info["l3_bytes"]
    sets = {"L1": l1 // 2, "L2": l2 // 2, "L3": max(l3 // 4, 2 * l2), "DRAM": max(_LEAST_MEMORY, 4 * max(l2, l3))}
    if l3 <= 2 * l2:  # nothing that is outside L2 is well inside L3
        del sets["L3"]
    return sets


def together(threads: int, task: Callable[[], float]) -> float:
    """The sum of what a task that releases Python's lock gives in every thread, all started at once."""
    return sum(at_once(threads, task))


def at_once(threads: int, task: Callable[[], float]) -> list[float]:
    """What a task that releases Python's lock gives in each thread, all started at once."""
    barrier = Barrier(threads)

    def run(_: int) -> float:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def fp32_isa() -> str:
    """The widest instruction set with float32 arithmetic that this CPU has."""
    available = _native.cpu_info()["available"]
    return next(isa for isa in _FP32_ISAS if isa in available)


def load_native() -> Any:
    """The module that lists, checks and times microkernels, for benchmarks."""
    return _native


def _fast_microkernels() -> tuple[str, Sequence[str]]:
    isa = fp32_isa()
    products = [name for name in _native.list_microkernels(isa) if name.startswith(("gemm_", "depthwise_"))]
    return isa, sorted(products, key=lambda name: _rate(isa, name, _GLANCE_SECONDS))[-_FINALISTS:]


def _rate(isa: str, name: str, seconds: float) -> float:
    """GFLOP/s of one thread."""
    timed = _native.time_microkernel(isa, name, seconds)
    return timed["flops_per_call"] / timed["ns_per_call"]
