"""Draws results files: one band a case, one mark a contestant, milliseconds an image on a log axis."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from convfirst_ext.bench.naming import contestant_name, is_ours, split_name
from convfirst_ext.bench.tables import contestant_names

# Okabe and Ito's colours, which colour-blind readers tell apart; each contestant has its own shape too.
_STYLES = {
    "eager": ("#999999", "s", "PyTorch eager"),
    "channels_last": ("#E69F00", "D", "PyTorch channels_last"),
    "inductor": ("#56B4E9", "^", "Inductor, freezing"),
    "onnxruntime": ("#009E73", "v", "ONNX Runtime"),
    "openvino": ("#CC79A7", "P", "OpenVINO"),
    "openvino_nhwc": ("#0072B2", "X", "OpenVINO, NHWC tensors"),
    "convfirst": ("#D55E00", "o", "convfirst_ext"),
}
_DTYPE_FILLS = {"float32": "full", "bfloat16": "left", "float16": "none"}
_FLOOR_COLOUR = "#000000"
_LANE_INCHES = 0.13
_PANEL_INCHES = 6.0
_LETTER_INCHES = 0.105
_LEAST_INCHES = 9.0


def plot_records(content: dict[str, Any], path: Path) -> None:
    """Draws every record of a results file, one panel a group of cases, and writes a PNG."""
    panels = _panels(content["records"])
    contestants = contestant_names(content["records"])
    rows = max(len(records) for records in panels.values())
    height = 2.4 + _LANE_INCHES * (len(contestants) + 1) * rows
    figure = Figure(figsize=(_width(panels), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for index, (axis, (title, records)) in enumerate(zip(axes, panels.items(), strict=True)):
        _draw_panel(axis, records, contestants, "roofline" if content["benchmark"] == "layers" else "fp32 peak")
        axis.set_title(title, fontsize=15)
        if index > 0 and not _has_own_labels(records, panels):
            axis.tick_params(axis="y", labelleft=False)
    handles, labels = _legend_entries(axes)
    columns = 4 if len(panels) > 1 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=13, frameon=False)
    figure.suptitle(_heading(content), fontsize=15)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _width(panels: dict[str, list[dict[str, Any]]]) -> float:
    labelled = [
        records for index, records in enumerate(panels.values()) if not index or _has_own_labels(records, panels)
    ]
    letters = sum(max(len(name) for name in _names(records)) for records in labelled)
    return max(_PANEL_INCHES * len(panels) + _LETTER_INCHES * letters, _LEAST_INCHES)


def _has_own_labels(records: Sequence[dict[str, Any]], panels: dict[str, list[dict[str, Any]]]) -> bool:
    return _names(records) != _names(next(iter(panels.values())))


def _panels(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    panels: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        panels.setdefault(record["group"], []).append(record)
    return panels


def _draw_panel(axis: Axes, records: Sequence[dict[str, Any]], contestants: Sequence[str], limit: str) -> None:
    floor = "roofline_ms" if limit == "roofline" else "compute_floor_ms"
    for row, record in enumerate(records):
        if row % 2 == 0:
            axis.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
        least = record[floor] / record["batch"]
        ends = [row - 0.45, row + 0.45]
        axis.plot([least] * 2, ends, color=_FLOOR_COLOUR, linewidth=2.5, label=f"{limit} of this machine")
        for lane, name in enumerate(contestants):
            timing = record["timings"].get(name)
            if timing is not None and timing["min_ms"] is not None:
                height = row + (lane + 1) / (len(contestants) + 1) - 0.5
                axis.plot([timing["min_ms"] / record["batch"]], [height], **_mark(name))
    axis.set_yticks(range(len(records)), _names(records), fontsize=13)
    axis.set_ylim(len(records) - 0.5, -0.5)
    _scale_axis(axis)
    axis.set_xlabel("time per image / ms (minimum)", fontsize=14)
    axis.spines[["top", "right"]].set_visible(False)


def _scale_axis(axis: Axes) -> None:
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(subs=steps))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", labelsize=13)
    axis.grid(axis="x", color="#DDDDDD")
    axis.set_axisbelow(True)


def _mark(name: str) -> dict[str, Any]:
    runtime, dtype = split_name(name)
    colour, shape, title = _STYLES.get(runtime, ("#000000", "x", runtime))
    ours = is_ours(name)
    return {
        "marker": shape,
        "color": colour,
        "fillstyle": _DTYPE_FILLS.get(dtype, "full"),
        "markersize": 12 if ours else 8,
        "markeredgewidth": 1.5,
        "linestyle": "none",
        "alpha": 1.0 if ours else 0.9,
        "zorder": 4 if ours else 3,
        "label": contestant_name(title, dtype),
    }


def _legend_entries(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)


def _names(records: Sequence[dict[str, Any]]) -> list[str]:
    return [record["case"] for record in records]


def _heading(content: dict[str, Any]) -> str:
    threads = content["ceilings"]["threads"]
    kind = "Whole networks" if content["benchmark"] == "networks" else "Layers and blocks"
    return f"{kind} on {content['machine']['cpu']}, {threads} thread{'s' if threads > 1 else ''}"


def main() -> None:
    """Draws existing results files anew, each beside its JSON: ``python -m convfirst_ext.bench.plots FILE...``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    for path in parser.parse_args().files:
        plot_records(json.loads(path.read_text()), path.with_suffix(".png"))
        print(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
