"""Does ConvFirstNet's lead at equal accuracy hold on a CPU? ``python -m benchmarks.efficiency_gap``.

The networks of table 4 of Lavin, arXiv 2404.03617, at their image sizes, by ours and by the engines. Accuracies (top-1
on ImageNet) are the table's; weights here are random, which changes no time. The plot is the paper's: accuracy against
actual time (ours, and the best peer) and against ideal time, at the measured peak.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import RESULTS
from convfirst_ext.bench.cases import Case
from convfirst_ext.bench.comparison import run_comparison
from convfirst_ext.bench.network_cases import create_network
from convfirst_ext.bench.options import Options, add_arguments

# timm's name: image size and top-1 accuracy in table 4.
NETWORKS = {
    "efficientnet_b1": (256, 79.1),
    "efficientnet_b2": (288, 80.1),
    "efficientnet_b3": (320, 81.6),
    "convnext_femto": (288, 78.7),
    "convnext_pico": (288, 80.4),
    "convnext_nano": (288, 81.5),
    "convfirstnet_pico": (256, 79.9),
    "convfirstnet_nano": (256, 81.8),
}
RUNTIMES = ("inductor", "onnxruntime", "openvino", "convfirst")


def plot_gap(content: dict[str, Any], path: Path) -> None:
    """Draws accuracy against actual and ideal milliseconds an image, a line a family and runtime."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    families: dict[str, list[dict[str, Any]]] = {}
    for record in content["records"]:
        families.setdefault(record["case"].split("_")[0], []).append(record)
    for (family, records), color in zip(families.items(), ("tab:blue", "tab:orange", "tab:green"), strict=False):
        accuracies = [NETWORKS[record["case"]][1] for record in records]
        for label, style, marker in (("ideal", ":", "."), ("ours", "-", "o"), ("best peer", "--", "s")):
            times = [_milliseconds(record, label) / record["batch"] for record in records]
            axes.plot(times, accuracies, style, marker=marker, color=color, label=f"{family}, {label}")
    axes.set(xscale="log", xlabel="ms an image", ylabel="ImageNet top-1, % (Lavin, table 4)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def _milliseconds(record: dict[str, Any], which: str) -> float:
    if which == "ideal":
        return float(record["compute_floor_ms"])
    name = "convfirst" if which == "ours" else record["best_peer"]
    return float(record["timings"][name]["min_ms"])


def main() -> None:
    """Times the networks and writes JSON, a table and two plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    add_arguments(parser, batch=[8], runtimes=list(RUNTIMES), output=RESULTS)
    options = parser.parse_args()
    cases = [
        Case(name, partial(create_network, name), (batch, 3, NETWORKS[name][0], NETWORKS[name][0]))
        for name in options.models
        for batch in options.batch
    ]
    try:
        file = run_comparison("efficiency_gap", cases, Options.of(options))
    except ValueError as error:
        sys.exit(f"benchmarks.efficiency_gap: {error}")
    content = json.loads(file.path.read_text())
    plot_gap(content, file.path.with_name(file.path.stem + "-accuracy.png"))


if __name__ == "__main__":
    main()
