"""Amdahl's roofline: what a sequence gains when one kernel moves fewer bytes (Lavin, arXiv 2404.03617, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convfirst_ext.analysis.arguments import require_kind, require_number
from convfirst_ext.analysis.intensity import KernelCost, require_costs
from convfirst_ext.analysis.machines import Machine
from convfirst_ext.analysis.waterline import minimum_latencies


def amdahl_speedup(memory_fraction: float, compute_fraction: float) -> float:
    """The largest speedup of a sequence whose kernel j stops being memory-bound, 1 / (1 - f_B + f_R) (equation 33).

    Args:
        memory_fraction: f_B = (b_j / B) / T, the kernel's share of the time before.
        compute_fraction: f_R = (n_j / R) / T, the time that its arithmetic takes, as a share of the same T.

    Returns:
        At least 1; infinite where the kernel is all of the sequence and needs no arithmetic.

    Raises:
        ValueError: not 0 <= compute_fraction <= memory_fraction <= 1: the kernel is not memory-bound.
    """
    require_number(memory_fraction=memory_fraction, compute_fraction=compute_fraction)
    if not 0 <= compute_fraction <= memory_fraction <= 1:
        raise ValueError(
            "compute_fraction and memory_fraction must be 0 <= compute_fraction <= memory_fraction <= 1, "
            f"but are {compute_fraction} and {memory_fraction}."
        )
    rest = 1.0 - memory_fraction + compute_fraction
    return 1.0 / rest if rest else float("inf")


def amdahl_speedups(costs: Sequence[KernelCost], machine: Machine) -> npt.NDArray[np.float64]:
    """The largest speedup of the whole sequence from each kernel alone (equations 33 and 34).

    Args:
        costs: kernels in sequence, T = sum_i t_i by the waterline model.
        machine: gives R and B.

    Returns:
        Shape (len(costs),): 1 where the kernel is compute-bound already.

    Raises:
        ValueError: there are no costs.
    """
    require_costs(costs)
    require_kind("machine", machine, Machine)
    latencies = minimum_latencies(costs, machine)
    total = latencies.sum()
    compute = np.array([cost.operations for cost in costs]) / machine.flops_per_second
    return np.array(
        [amdahl_speedup(before / total, after / total) for before, after in zip(latencies, compute, strict=True)]
    )
