"""Rates of this machine's kernels: kept ones, or measured when first asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

from convfirst_ext.analysis.ceilings_cache import cached_kernel_rates
from convfirst_ext.analysis.kernel_rates import RATE_STEPS as _KERNEL_STEPS
from convfirst_ext.analysis.kernel_rates import KernelRates, measure_kernel_rates
from convfirst_ext.nn import PackedChain, PackedConv2d
from convfirst_ext.nn.packed_chain import Link
from convfirst_ext.nn.window import FusedWindow

RATE_STEPS = 1 + _KERNEL_STEPS
_CHAIN_LINKS = 64
_MEETING_SECONDS = 0.2


@cache
def rates_for(threads: int) -> KernelRates:
    """Of torch's present number of threads: what `convfirst info --measure` kept, else measured in two seconds."""
    kept = cached_kernel_rates(threads)
    return measure_rates(threads) if kept is None else kept


def measure_rates(threads: int, tell: Callable[[str], None] = lambda step: None) -> KernelRates:
    """Measures them.

    Args:
        threads: torch's present number, on which chains run.
        tell: gets the name of each of the ``RATE_STEPS`` steps that begins.
    """
    tell("Meetings of threads")
    return measure_kernel_rates(threads, _meeting_seconds(), tell)


def _meeting_seconds() -> float:
    """A step of a chain of products so small that starting and waiting is nearly all of it."""
    window = FusedWindow((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    layers = [PackedConv2d("pointwise", torch.zeros(16, 16, 1, 1), None, window, 1) for _ in range(_CHAIN_LINKS)]
    chain = PackedChain([Link(layer, index, -1) for index, layer in enumerate(layers)])
    image = torch.zeros(1, 16, 16, 16).contiguous(memory_format=torch.channels_last)
    fastest = float("inf")
    with torch.no_grad():
        end = time.perf_counter() + _MEETING_SECONDS
        while time.perf_counter() < end:
            begin = time.perf_counter()
            chain(image)
            fastest = min(fastest, time.perf_counter() - begin)
    return fastest / _CHAIN_LINKS
