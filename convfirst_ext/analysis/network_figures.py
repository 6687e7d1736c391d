"""Pictures of an analysed network: its layers and blocks under the roofline, and where its time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from convfirst_ext.analysis.arguments import require_kind
from convfirst_ext.analysis.intensity import FUSED, KINDS, KernelCost
from convfirst_ext.analysis.machines import Machine
from convfirst_ext.analysis.network import NetworkAnalysis
from convfirst_ext.analysis.waterline import COLORS, minimum_latencies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = dict(zip(KINDS, ("s", "D", "o", "^", "x", "P"), strict=True))
_SIZE = (7.0, 4.8)
_NAMED = 5
_NAME_HEIGHT = 0.05  # of the figure


def roofline_figure(network: NetworkAnalysis, title: str = "") -> Figure:
    """Every layer and fused block at its intensity, under the machine's roof (equation 10); both axes logarithmic.

    A mark's area grows with its share of the least time of the layers, or of the blocks. Layers without multiply-adds
    count an operation for every element that they read.

    Args:
        network: as ``analyze`` gives it.
        title: of the figure.

    Returns:
        A matplotlib figure that belongs to no window.
    """
    from matplotlib.figure import Figure

    machine = require_kind("network", network, NetworkAnalysis).machine
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    costs = [*network.layer_costs, *(cost for cost in network.block_costs if cost.kind == FUSED)]
    intensities = [cost.intensity for cost in costs if cost.intensity > 0]
    ends = np.array([min(*intensities, machine.op_byte) / 2, max(*intensities, machine.op_byte) * 2])
    line = np.geomspace(ends[0], ends[1], 200)
    scale, unit = (1e-12, "TFLOP/s") if machine.flops_per_second >= 1e13 else (1e-9, "GFLOP/s")
    roof = np.minimum(machine.flops_per_second, machine.bytes_per_second * line) * scale
    axes.loglog(line, roof, color="black", linewidth=1.4)
    for kind in KINDS:
        chosen = [cost for cost in costs if cost.kind == kind and cost.intensity > 0]
        if chosen:
            total = network.block_seconds if kind == FUSED else network.layer_seconds
            _draw_costs(axes, kind, chosen, machine, total, scale)
    axes.axvline(machine.op_byte, color="black", linestyle=":", linewidth=1.0)
    axes.set_xlim(*ends)
    axes.set_ylim(roof[0] / 1.5, machine.flops_per_second * scale * 2.2)
    axes.annotate(
        f"{machine.flops_per_second * scale:.4g} {unit}, {machine.bytes_per_second / 1e9:.4g} GB/s:"
        f" ridge at {machine.op_byte:.3g} OP/byte",
        (0.02, 0.97),
        xycoords="axes fraction",
        verticalalignment="top",
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0},
    )
    axes.set_xlabel("Operational intensity [OP/byte]")
    axes.set_ylabel(f"Attainable throughput [{unit}]")
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    axes.set_title(title or f"Roofline of {machine.name}")
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False)
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([40.0])
    return figure


def time_figure(
    network: NetworkAnalysis, curves: Mapping[str, Sequence[float]] | None = None, title: str = ""
) -> Figure:
    """Time spent up to every block, against the multiply-adds done: the efficiency gap, block by block.

    The steeper a curve beside the ideal one, which is straight, the more that block loses; jumps without multiply-adds
    are poolings and norms.

    Args:
        network: as ``analyze`` gives it.
        curves: more of them by name: cumulative seconds after each of ``network.blocks``.
        title: of the figure.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: a curve has not as many points as there are blocks.
    """
    from matplotlib.figure import Figure

    require_kind("network", network, NetworkAnalysis)
    done = _from_zero(np.cumsum([block.macs for block in network.blocks])) / 1e9
    lines: list[tuple[str, npt.NDArray[np.float64], str, str]] = [
        ("layer by layer, least", np.cumsum([block.layer_seconds for block in network.blocks]), "#D55E00", "-"),
        ("blocks fused, least", np.cumsum([block.seconds for block in network.blocks]), "#0072B2", "-"),
        ("ideal: peak arithmetic", done[1:] * 2e9 / network.machine.flops_per_second, "black", "--"),
    ]
    styles = (("#009E73", "-."), ("#CC79A7", ":"))
    for (name, values), (color, dashes) in zip((curves or {}).items(), styles, strict=False):
        if len(values) != len(network.blocks):
            raise ValueError(f"curves must have {len(network.blocks)} points, but {name!r} has {len(values)}.")
        lines.append((name, np.asarray(values, np.float64), color, dashes))
    scale, unit = _time_unit(max(float(curve[-1]) for _, curve, _, _ in lines))
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for name, curve, color, dashes in lines:
        times = _from_zero(curve) * scale
        axes.plot(done, times, dashes, color=color, linewidth=1.8, label=f"{name}: {times[-1]:.3g} {unit}")
    axes.set_xlim(0, done[-1] * 1.02)
    axes.set_ylim(0, None)
    axes.set_xlabel(f"Multiply-adds done, {network.batch} image{'s' if network.batch > 1 else ''} [billions]")
    axes.set_ylabel(f"Time on {network.machine.name} [{unit}]")
    axes.grid(True, linewidth=0.4, alpha=0.6)
    axes.set_title(title or "Time spent")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_costs(
    axes: Axes, kind: str, costs: Sequence[KernelCost], machine: Machine, total: float, scale: float
) -> None:
    latencies = minimum_latencies(costs, machine)
    throughput = scale * np.array([cost.operations for cost in costs]) / latencies
    axes.scatter(
        [cost.intensity for cost in costs],
        throughput,
        s=14.0 + 900.0 * latencies / total,
        color=COLORS[kind],
        marker=_MARKERS[kind],
        alpha=0.75,
        linewidths=1.0 if _MARKERS[kind] == "x" else 0.4,
        edgecolors=None if _MARKERS[kind] == "x" else "white",
        label=kind,
        zorder=3,
    )


def _from_zero(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate(([0.0], values))


def _time_unit(seconds: float) -> tuple[float, str]:
    return (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")


def prediction_figure(points: Mapping[str, tuple[float, float]], title: str = "") -> Figure:
    """Measured against predicted time, both axes logarithmic, with a band of 25 % around equality.

    Args:
        points: (predicted, measured) seconds by name; names of up to five that are farthest off are written.
        title: of the figure.

    Returns:
        A matplotlib figure that belongs to no window.

    Raises:
        ValueError: there are no points, or a time is not positive.
    """
    from matplotlib.figure import Figure

    if not isinstance(points, Mapping):
        raise TypeError(f"points must be a Mapping, but is {type(points).__name__}.")
    if not points or not all(len(pair) == 2 and min(pair) > 0 for pair in points.values()):
        raise ValueError(f"points must be pairs of positive seconds, at least one, but are {dict(points)}.")
    scale, unit = _time_unit(max(max(pair) for pair in points.values()))
    predicted, measured = scale * np.array(list(points.values())).T
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    ends = np.array([min(predicted.min(), measured.min()) / 1.6, max(predicted.max(), measured.max()) * 1.6])
    label = "predicted within 25 % of measured"
    axes.fill_between(ends, ends / 1.25, ends / 0.75, color="#56B4E9", alpha=0.25, linewidth=0, label=label)
    axes.loglog(ends, ends, "--", color="black", linewidth=1.2, label="equal")
    axes.plot(predicted, measured, "o", color="#D55E00", markersize=6, markeredgecolor="white", markeredgewidth=0.5)
    heights = np.log(measured / ends[0]) / np.log(ends[1] / ends[0])
    named: list[int] = []
    for index in np.argsort(-np.abs(np.log(measured / predicted)), kind="stable").tolist():
        if len(named) == _NAMED or any(abs(heights[index] - heights[other]) < _NAME_HEIGHT for other in named):
            continue
        named.append(index)
        # Towards the middle of the figure, where there is room.
        left = predicted[index] ** 2 > ends[0] * ends[1]
        axes.annotate(
            list(points)[index],
            (predicted[index], measured[index]),
            xytext=(-8, 4) if left else (8, -4),
            textcoords="offset points",
            horizontalalignment="right" if left else "left",
            verticalalignment="bottom" if left else "top",
            fontsize="small",
        )
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_xlabel(f"Predicted time [{unit}]")
    axes.set_ylabel(f"Measured time [{unit}]")
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
