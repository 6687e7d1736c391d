"""Waterline analysis: the least time of kernels that run one after another (Lavin, arXiv 2404.03617, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from convfirst_ext.analysis.arguments import real_array, require_each, require_kind
from convfirst_ext.analysis.intensity import KINDS, KernelCost, mediant_intensity, require_costs
from convfirst_ext.analysis.machines import Machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, in the order of KINDS: they differ for colour-blind readers too.
COLORS = dict(zip(KINDS, ("#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#999999", "#009E73"), strict=True))


def attainable_throughput(cost: KernelCost, machine: Machine) -> float:
    """R_max = min(R, B n / b) of one kernel (equation 10), in operations per second."""
    require_kind("cost", cost, KernelCost)
    require_kind("machine", machine, Machine)
    return min(machine.flops_per_second, machine.bytes_per_second * cost.intensity)


def minimum_latencies(costs: Sequence[KernelCost], machine: Machine) -> npt.NDArray[np.float64]:
    """The least time of every kernel, t_min = n / min(R, B n / b) = max(n / R, b / B) (equation 11).

    Returns:
        Seconds, shape (len(costs),).
    """
    require_kind("machine", machine, Machine)
    operations, moved = _columns(costs)
    return np.maximum(operations / machine.flops_per_second, moved / machine.bytes_per_second)


def minimum_latency(costs: Sequence[KernelCost], machine: Machine) -> float:
    """The least time in seconds of kernels in sequence (equation 12): layers, or the fused blocks that replace them."""
    return float(minimum_latencies(costs, machine).sum())


def maximum_efficiency(costs: Sequence[KernelCost], machine: Machine) -> float:
    """C_max = (N / T_min) / R, the share of the peak that the sequence can attain, 0 to 1 (equations 13 and 14).

    Raises:
        ValueError: there are no costs.
    """
    return float(waterline_efficiencies(costs, require_kind("machine", machine, Machine).op_byte))


def roofline_efficiency(costs: Sequence[KernelCost], machine: Machine) -> float:
    """What the roofline model makes of the mediant intensity, 0 to 1: never below the waterline's (section 4.3).

    Raises:
        ValueError: there are no costs.
    """
    return float(roofline_efficiencies(costs, require_kind("machine", machine, Machine).op_byte))


def waterline_efficiencies(costs: Sequence[KernelCost], op_byte: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Maximum efficiency for machines of any op:byte ratio, the paper's figures 4 and 16.

    Args:
        costs: kernels in sequence.
        op_byte: R / B in operations per byte, any shape.

    Returns:
        N / sum_i max(n_i, op_byte b_i), 0 to 1, of op_byte's shape.

    Raises:
        ValueError: there are no costs, or op_byte is negative.
    """
    require_costs(costs)
    operations, moved = _columns(costs)
    ratio = real_array("op_byte", op_byte, 0)[..., None]
    return operations.sum() / np.maximum(operations, ratio * moved).sum(axis=-1)


def roofline_efficiencies(costs: Sequence[KernelCost], op_byte: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The same by the roofline of the mediant intensity (equation 29).

    Args:
        costs: kernels in sequence.
        op_byte: R / B in operations per byte, any shape.

    Returns:
        min(1, mediant intensity / op_byte), of op_byte's shape.

    Raises:
        ValueError: there are no costs, or op_byte is not positive.
    """
    return np.minimum(1.0, mediant_intensity(costs) / real_array("op_byte", op_byte, 0, excluded=True))


def waterline_figure(costs: Sequence[KernelCost], machine: Machine, title: str = "") -> Figure:
    """The waterline chart: a bar a kernel, as wide as its least latency and as high as its operational intensity.

    Args:
        costs: kernels in sequence, drawn from left to right.
        machine: its op:byte ratio is the waterline. Bars that reach beyond seven times of it are cut.
        title: what ran; the least latency and the maximum efficiency follow it.

    Returns:
        A matplotlib figure that belongs to no window; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: there are no costs.
    """
    from matplotlib.figure import Figure

    require_costs(costs)
    require_kind("machine", machine, Machine)
    unit, scale = ("ms", 1e3) if minimum_latency(costs, machine) >= 1e-3 else ("us", 1e6)
    widths = minimum_latencies(costs, machine) * scale
    intensities = np.array([cost.intensity for cost in costs])
    top = min(max(1.1 * intensities.max(), 1.5 * machine.op_byte), 7.0 * machine.op_byte)

    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    starts = np.concatenate(([0.0], np.cumsum(widths)[:-1]))
    for kind in KINDS:
        chosen = np.array([cost.kind == kind for cost in costs])
        if chosen.any():
            axes.bar(
                starts[chosen],
                np.minimum(intensities[chosen], top),
                widths[chosen],
                align="edge",
                color=COLORS[kind],
                edgecolor="white",
                # Edges would cover the thin bars of a whole network.
                linewidth=0.0 if len(costs) > 30 else 0.8,
                label=kind,
            )
    axes.axhline(machine.op_byte, color="black", linestyle="--", linewidth=1.2)
    axes.annotate(
        f"{machine.name}: {machine.op_byte:.0f} OP/byte",
        (1.0, machine.op_byte),
        xytext=(-4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        horizontalalignment="right",
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0},
    )
    axes.set_xlim(0.0, widths.sum())
    axes.set_ylim(0.0, top)
    axes.set_xlabel(f"Minimum latency [{unit}]")
    axes.set_ylabel("Operational intensity [OP/byte]")
    summary = f"{widths.sum():.3g} {unit}, maximum efficiency {100 * maximum_efficiency(costs, machine):.0f} %"
    axes.set_title(f"{title}: {summary}" if title else summary)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _columns(costs: Sequence[KernelCost]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kernels = require_each("costs", costs, KernelCost)
    table = np.array([(cost.operations, cost.bytes) for cost in kernels], np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
