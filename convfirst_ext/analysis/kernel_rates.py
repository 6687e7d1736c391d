"""What a thread takes for each microkernel and each pass over a tile, and what bytes and meetings of threads cost.

Measured on synthetic operands that lie in the L1 cache; no network takes part. `cost_sheet` makes times of blocks of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from convfirst_ext import _native
from convfirst_ext.analysis.ceilings import at_once, fp32_isa

# Operands of the microkernels when they are timed: trial_*.cpp in csrc/cpu/microkernels.
TRIAL_DEPTH = 96
TRIAL_ROWS = 4
TRIAL_CHANNELS = 64  # of a tile that is transformed
_PASSES = {"sum": 56 * 16, "rescale": 56 * 16, "scale": 56 * 16, "gather_float": 56 * 16, "normalize": 28 * 384}
_FAMILIES = ("gemm_", "depthwise_", "grouped8_", "winograd_")
ACTIVATIONS = ("identity", "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh", "sigmoid", "hardsigmoid")

_CALL_SECONDS = 0.003
_PASS_SECONDS = 0.005
_COPY_SECONDS = 0.06
_SWEEPS = 5
_MIB = 2**20
_WORKING_SETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)


_Item = TypeVar("_Item", bound=Hashable)


@dataclass(frozen=True)
class KernelRates:
    """Times on one of ``threads`` threads that are all busy.

    Attributes:
        threads: how many were.
        calls: nanoseconds of a call of every microkernel, by name.
        elements: nanoseconds an element, by activation or name of a pass.
        copies: bytes a second, read and written by all threads, by bytes of the working set, ascending.
        meeting: seconds that a step of a chain takes beside its work: threads start together and wait for the last.
    """

    threads: int
    calls: dict[str, float]
    elements: dict[str, float]
    copies: dict[int, float]
    meeting: float

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Rows that products have register blocks for, by "1" to "4", blocks of 16 channels, and "narrow"."""
        found: dict[str, list[int]] = {}
        for name in self.calls:
            if name.startswith("gemm_narrow_"):
                found.setdefault("narrow", []).append(int(name.removeprefix("gemm_narrow_")))
            elif name.startswith("gemm_"):
                rows, width = name.removeprefix("gemm_").split("x")
                found.setdefault(width, []).append(int(rows))
        return {width: sorted(rows) for width, rows in found.items()}

    @cached_property
    def fma(self) -> float:
        """Nanoseconds of a multiply-add of 16 channels at the peak."""
        wide = [(rows, int(width)) for width in self.rows if width != "narrow" for rows in self.rows[width]]
        return min(self.calls[f"gemm_{rows}x{width}"] / (TRIAL_DEPTH * rows * width) for rows, width in wide)

    def bytes_per_second(self, working_set: float) -> float:
        """Copy bandwidth for a working set, between the measured ones on a logarithmic scale."""
        sizes = np.log(np.array(list(self.copies), np.float64))
        return float(np.interp(np.log(max(working_set, 1.0)), sizes, np.array(list(self.copies.values()), np.float64)))

    def to_json(self) -> dict[str, Any]:
        """The plain dict that goes into a file."""
        return {**asdict(self), "copies": [[size, rate] for size, rate in self.copies.items()]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> KernelRates:
        """What ``to_json`` gave.

        Raises:
            TypeError, ValueError, KeyError: the content is damaged.
        """
        rates = cls(**{**content, "copies": {int(size): float(rate) for size, rate in content["copies"]}})
        values = [*rates.calls.values(), *rates.elements.values(), *rates.copies.values(), rates.meeting]
        if not all(isinstance(value, (int, float)) and 0 <= value < float("inf") for value in values):
            raise ValueError("a rate is no number")
        known = set(ACTIVATIONS) | set(_PASSES) <= set(rates.elements) and {"gemm_1x1", "winograd_input_4"} <= set(
            rates.calls
        )
        if not rates.copies or not known:
            raise ValueError("a rate is missing")
        return rates


def measure_kernel_rates(
    threads: int, meeting: float, tell: Callable[[str], None] = lambda step: None, scale: float = 1.0
) -> KernelRates:
    """Measures all rates in about two seconds.

    Args:
        threads: that are busy at the same time.
        meeting: seconds, measured by who can run chains.
        tell: gets the name of each of the ``RATE_STEPS`` steps that begins.
        scale: of the time that every rate gets.

    Raises:
        ValueError: threads is not positive.
    """
    if threads < 1:
        raise ValueError(f"threads must be positive, but is {threads}.")
    isa, share = fp32_isa(), scale / _SWEEPS
    names = [name for name in _native.list_microkernels(isa) if name.startswith(_FAMILIES)]
    sizes = [int(threads * _MIB * size / 2) for size in _WORKING_SETS]

    def call_ns(name: str, seconds: float) -> list[float]:
        return at_once(threads, lambda: _native.time_microkernel(isa, name, share * seconds)["ns_per_call"])

    def activation_ns(name: str) -> list[float]:
        index = ACTIVATIONS.index(name)
        return at_once(threads, lambda: _native.time_activation(isa, index, share * _PASS_SECONDS))

    def copy_seconds(size: int) -> list[float]:
        return at_once(threads, lambda: size / threads / _native.time_copy(size // threads, share * _COPY_SECONDS))

    tell("Microkernels")
    calls = _undisturbed(names, lambda name: call_ns(name, _CALL_SECONDS))
    tell("Passes")
    passes = _undisturbed(list(_PASSES), lambda name: call_ns(name, _PASS_SECONDS))
    elements = {name: taken / _PASSES[name] for name, taken in passes.items()}
    elements |= _undisturbed(list(ACTIVATIONS), activation_ns)
    tell("Working sets")
    copies = {size: size / taken for size, taken in _undisturbed(sizes, copy_seconds).items()}
    return KernelRates(threads, calls, elements, copies, meeting)


def _undisturbed(items: list[_Item], measure: Callable[[_Item], list[float]]) -> dict[_Item, float]:
    """The mean over threads of each one's shortest time in sweeps over all items.

    Another program that takes a core for a time slice disturbs many items in one sweep, but hardly one in all sweeps.
    """
    found: dict[_Item, list[list[float]]] = {item: [] for item in items}
    for _ in range(_SWEEPS):
        for item in items:
            found[item].append(measure(item))
    return {item: fmean(min(thread) for thread in zip(*sweeps, strict=True)) for item, sweeps in found.items()}


RATE_STEPS = 3
