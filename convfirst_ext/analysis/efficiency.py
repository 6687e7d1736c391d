"""Model efficiency, computational efficiency and the gap between them (Lavin, arXiv 2404.03617, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from convfirst_ext.analysis.arguments import real_array, require_each, require_kind, require_positive
from convfirst_ext.analysis.machines import Machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours that stand out on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def ideal_latency(operations: npt.ArrayLike, machine: Machine) -> Floats:
    """t_i(n) = n / R in seconds: no model of n operations runs faster (equation 1).

    Args:
        operations: n, a multiply-add counting as two, any shape.
        machine: gives R.

    Returns:
        t_i, of the shape of operations.

    Raises:
        ValueError: operations are negative.
    """
    require_kind("machine", machine, Machine)
    return real_array("operations", operations, 0) / machine.flops_per_second


def actual_throughput(operations: npt.ArrayLike, latency: npt.ArrayLike) -> Floats:
    """R_a(n) = n / t_a(n) in operations per second (equation 3).

    Args:
        operations: n, a multiply-add counting as two, any shape.
        latency: t_a in seconds, of the same shape.

    Returns:
        R_a, of the shape of operations.

    Raises:
        ValueError: a latency is not positive.
    """
    seconds = real_array("latency", latency, 0, excluded=True)
    n = real_array("operations", operations, 0)
    if not _broadcast(n.shape, seconds.shape):
        raise ValueError(f"latency must have operations' shape {n.shape}, but has {seconds.shape}.")
    return n / seconds


def computational_efficiency(operations: npt.ArrayLike, latency: npt.ArrayLike, machine: Machine) -> Floats:
    """C(n) = R_a(n) / R = t_i(n) / t_a(n), the share of the peak that was reached (equations 7 and 8).

    Args:
        operations: n, a multiply-add counting as two, any shape.
        latency: t_a in seconds, of the same shape.
        machine: gives R.

    Returns:
        C, of the shape of operations, 1 at the peak.

    Raises:
        ValueError: a latency is not positive.
    """
    require_kind("machine", machine, Machine)
    return actual_throughput(operations, latency) / machine.flops_per_second


def efficiency_gap(operations: npt.ArrayLike, latency: npt.ArrayLike, machine: Machine) -> Floats:
    """-log10 C(n), in decades: how far a logarithmic latency axis shifts actual from ideal efficiency (equation 9).

    Args:
        operations: n, a multiply-add counting as two, any shape.
        latency: t_a in seconds, of the same shape.
        machine: gives R.

    Returns:
        Decades, of the shape of operations, 0 at the peak.

    Raises:
        ValueError: operations or a latency is not positive.
    """
    real_array("operations", operations, 0, excluded=True)
    return -np.log10(computational_efficiency(operations, latency, machine))


@dataclass(frozen=True)
class ModelPoint:
    """One model, measured.

    Attributes:
        name: as the figure prints it.
        macs: multiply-adds of one image.
        latency: seconds of a batch.
        accuracy: percent, None where it is not known.
    """

    name: str
    macs: float
    latency: float
    accuracy: float | None = None

    def __post_init__(self) -> None:
        require_positive(macs=self.macs, latency=self.latency)


class EfficiencyCurves:
    """Accuracy as a function of operations and of latency, from the members of one family of models.

    Between the members accuracy is interpolated over the logarithm of operations, and so is the logarithm of latency;
    beyond them the curves are NaN.

    Args:
        points: at least two, every one with an accuracy.
        batch: images that a latency is of.
        machine: gives R.

    Raises:
        ValueError: fewer than two points, one without accuracy, a batch that is not positive, or two points of which
            one has more operations without more latency.
    """

    def __init__(self, points: Sequence[ModelPoint], batch: int, machine: Machine) -> None:
        require_positive(batch=batch)
        require_kind("machine", machine, Machine)
        points = require_each("points", points, ModelPoint)
        accuracies = [point.accuracy for point in points if point.accuracy is not None]
        if len(points) < 2 or len(accuracies) < len(points):
            raise ValueError(f"points must be at least 2, all with accuracy, but {len(accuracies)} are.")
        order = np.argsort([point.macs for point in points])
        self.machine = machine
        self.operations: Floats = 2.0 * batch * np.array([points[i].macs for i in order])
        self.latencies: Floats = np.array([points[i].latency for i in order])
        self.accuracies: Floats = np.array([accuracies[i] for i in order])
        for name, values in (("macs", self.operations), ("latency", self.latencies)):
            if not (np.diff(values) > 0).all():
                raise ValueError(f"{name} must grow from point to point, but is {values.tolist()}.")

    def model_efficiency(self, operations: npt.ArrayLike) -> Floats:
        """E_m(n), percent (section 3.1)."""
        n = np.log(np.asarray(operations, np.float64))
        return np.interp(n, np.log(self.operations), self.accuracies, np.nan, np.nan)

    def ideal_efficiency(self, latency: npt.ArrayLike) -> Floats:
        """E_i(t) = E_m(t R), percent (equation 2)."""
        return self.model_efficiency(np.asarray(latency, np.float64) * self.machine.flops_per_second)

    def actual_efficiency(self, latency: npt.ArrayLike) -> Floats:
        """E_a(t) = E_m(n) where t = t_a(n), percent (equation 4)."""
        t = np.log(np.asarray(latency, np.float64))
        n = np.interp(t, np.log(self.latencies), np.log(self.operations), np.nan, np.nan)
        return np.interp(n, np.log(self.operations), self.accuracies, np.nan, np.nan)


def efficiency_gap_figure(
    families: Mapping[str, Sequence[ModelPoint]], batch: int, machine: Machine, title: str = ""
) -> Figure:
    """The efficiency-gap plot: ideal (dashed) and actual latency (solid) of every model, and C(n) beside it.

    Args:
        families: models by the name of their family; the y axis is accuracy where every model has one, else MACs.
        batch: images that a latency is of.
        machine: gives R.
        title: of the figure.

    Returns:
        A matplotlib figure that belongs to no window; both axes are logarithmic.

    Raises:
        ValueError: there are no models, or batch is not positive.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    require_positive(batch=batch)
    require_kind("machine", machine, Machine)
    if not isinstance(families, Mapping):
        raise TypeError(f"families must be a Mapping, but is {type(families).__name__}.")
    points = [point for family in families.values() for point in require_each("families", family, ModelPoint)]
    if not points:
        raise ValueError("families must hold at least one model, but is empty.")
    by_accuracy = all(point.accuracy is not None for point in points)
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for index, (name, family) in enumerate(families.items()):
        _draw_family(axes, name, family, batch, machine, by_accuracy, index)
    if by_accuracy:
        # Accuracies span less than a decade: plain numbers at minor ticks too.
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1, y=0.1)
    axes.set_xlabel(f"Ideal (dashed) and actual (solid) latency of {batch} images on {machine.name} [ms]")
    axes.set_ylabel("Accuracy [%]" if by_accuracy else "Multiply-adds of an image [billions]")
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(first, second)
    except ValueError:
        return False
    return True


def _draw_family(
    axes: Axes,
    name: str,
    family: Sequence[ModelPoint],
    batch: int,
    machine: Machine,
    by_accuracy: bool,
    index: int,
) -> None:
    color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
    members = sorted(family, key=lambda point: point.macs)
    operations = 2.0 * batch * np.array([point.macs for point in members])
    actual = 1e3 * np.array([point.latency for point in members])
    ideal = 1e3 * ideal_latency(operations, machine)
    heights = np.array([point.accuracy if by_accuracy else point.macs / 1e9 for point in members], np.float64)
    axes.hlines(heights, ideal, actual, color=color, linewidth=0.8, alpha=0.7)
    axes.plot(ideal, heights, color=color, marker=marker, linestyle="--", markerfacecolor="white")
    axes.plot(actual, heights, color=color, marker=marker, label=name)
    for x, y, share in zip(actual, heights, ideal / actual, strict=True):
        axes.annotate(
            f"{100 * share:.0f} %",
            (x, y),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=color,
            fontsize="small",
            bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5},
        )
