"""Shows what ``benchmarks.cost`` found: a table of figures, and a plot with one panel a part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from benchmarks.cost_parts import PARTS, Part
from convfirst_ext.bench.naming import OURS

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = {OURS: "#D55E00", "eager": "#999999", "onnxruntime": "#009E73", "openvino": "#CC79A7"}
_LINES = ("-", "--", ":", "-.")  # a network each
_COLUMNS = 2
_FILE_WIDTH = 400
_LOG_RATIO = 30  # beyond it a linear axis would flatten the lower curves
_PANEL = (8.0, 5.0)  # inches


def print_figures(records: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints one row a part, network and runtime: its points, its figure, and whether ours meets the target."""
    table = Table(title="What a call costs beside its work", title_justify="left")
    for title in ("part", "network", "runtime", "points", "figure", "", "target"):
        table.add_column(title, overflow="fold")
    for record in records:
        part = PARTS[record["part"]]
        shown = "-" if record["figure"] is None else f"{record['figure']:.2f}"
        points = ", ".join(f"{label}: {value:.3g}" for label, value in record["points"].items())
        if record["error"]:
            points = f"{points}{'; ' if points else ''}failed: {record['error']}"
        cells = [part.question, record["model"] or record.get("group") or "-", record["runtime"], escape(points), shown]
        table.add_row(*cells, part.figure, verdict(part, record))
    if not console.is_terminal:  # a file has no edge to fold at
        width = Measurement.get(console, console.options.update(max_width=_FILE_WIDTH), table).maximum
        console = Console(width=max(console.width, width), file=console.file)
    console.print(table)


def verdict(part: Part, record: dict[str, Any]) -> str:
    """Returns the target and whether ours meets it; peers have none."""
    if part.target is None or record["runtime"] != OURS:
        return "-"
    limit = f"{'at least' if part.higher else 'at most'} {part.target:g}"
    if record["figure"] is None:
        return limit
    met = record["figure"] >= part.target if part.higher else record["figure"] <= part.target
    return f"{limit}: {'[green]met[/green]' if met else '[red]missed[/red]'}"


def plot_figures(content: dict[str, Any], path: Path) -> None:
    """Draws the points of every record that has any and writes a PNG."""
    records = [record for record in content["records"] if record["points"]]
    panels: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        panels.setdefault((record["part"], record.get("group", "")), []).append(record)
    if not panels:
        return
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, ((name, group), shown) in zip(axes, panels.items(), strict=False):
        _draw(axis, PARTS[name], group, shown)
    settings = content["settings"]
    figure.suptitle(f"Cost of calls on {content['machine']['cpu']}, {settings['threads']} threads", fontsize=16)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _draw(axis: Axes, part: Part, group: str, records: Sequence[dict[str, Any]]) -> None:
    models = list(dict.fromkeys(record["model"] for record in records))
    labels = list(dict.fromkeys(label for record in records for label in record["points"]))
    for record in records:
        heights = [record["points"].get(label, float("nan")) for label in labels]
        style = _LINES[models.index(record["model"]) % len(_LINES)]
        name = f"{record['runtime']}, {record['model']}" if record["model"] else record["runtime"]
        colour = _COLOURS.get(record["runtime"], "#000000")
        axis.plot(range(len(labels)), heights, style, marker="o", color=colour, linewidth=2, label=name)
    axis.set_xticks(range(len(labels)), labels, rotation=25 if max(map(len, labels)) > 6 else 0, fontsize=11)
    heights = [value for record in records for value in record["points"].values() if value > 0]
    if heights and max(heights) > _LOG_RATIO * min(heights):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_title(f"{part.question} {group}".strip(), fontsize=14)
    axis.set_xlabel(part.x_label, fontsize=12)
    axis.set_ylabel(part.unit, fontsize=12)
    axis.grid(axis="y", color="#DDDDDD")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=10, frameon=False)
