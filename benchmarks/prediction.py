"""How near do predicted times come to measured ones? ``python -m benchmarks.prediction``.

Rates of the kernels, the predictions that cost sheets make of them, and the times of the optimized networks, all from
one run. Nothing is fitted: the rates are those of microkernels and copies on synthetic operands.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import convfirst_ext as cf
from benchmarks import RESULTS
from convfirst_ext.analysis import prediction_figure
from convfirst_ext.analysis.ceilings import measure_ceilings
from convfirst_ext.bench.network_cases import MODELS
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.fusion.kernel_rates import rates_for

LEAST_CALLS = 5


def predict(name: str, batch: int, size: int, seconds: float) -> dict[str, Any]:
    """Returns predicted and measured seconds of a network and of its blocks."""
    model = cf.optimize(timm.create_model(name).eval())
    image = torch.rand(batch, 3, size, size)
    found = cf.explain(model, image, time=True, predict=True)
    times = measured_seconds(model, image, seconds)
    return {
        "network": name,
        "batch": batch,
        "predicted_ms": 1e3 * (found.totals.predicted_seconds or float("nan")),
        "median_ms": 1e3 * median(times),
        "min_ms": 1e3 * min(times),
        "blocks": [
            {"name": r.name, "kernel": r.kernel, "predicted_s": r.predicted_seconds, "measured_s": r.seconds}
            for r in found
        ],
    }


def measured_seconds(model: torch.nn.Module, image: torch.Tensor, seconds: float) -> list[float]:
    """Returns the time of every call within ``seconds``, at least a few; the first warms up."""
    times = []
    with torch.no_grad():
        model(image)
        end = time.perf_counter() + seconds
        while len(times) < LEAST_CALLS or time.perf_counter() < end:
            begin = time.perf_counter()
            model(image)
            times.append(time.perf_counter() - begin)
    return times


def table_of(records: list[dict[str, Any]]) -> Table:
    """Returns predicted and measured times and their relative error."""
    table = Table("network", "batch", "predicted ms", "median ms", "min ms", "error %")
    for record in records:
        error = record["predicted_ms"] / record["median_ms"] - 1
        times = (f"{record[key]:.3g}" for key in ("predicted_ms", "median_ms", "min_ms"))
        table.add_row(record["network"], str(record["batch"]), *times, f"{100 * error:+.0f}")
    return table


def main() -> None:
    """Measures, predicts, and writes JSON, a table and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each network")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for JSON and plot")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as empty:  # rates of this run, not those that were kept
        os.environ["XDG_CACHE_HOME"] = empty
        rates = rates_for(options.threads)
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    ceilings = measure_ceilings(options.threads).to_json()
    file = ResultFile.create(
        options.output, "prediction", settings=settings, ceilings=ceilings, kernel_rates=rates.to_json()
    )
    cases = [(name, batch) for batch in options.batch for name in options.models]
    for name, batch in track(cases, "networks"):
        file.add(predict(name, batch, options.size, options.seconds))
    console = Console()
    console.print(table_of(file.records))
    points = {f"{r['network']} b{r['batch']}": (1e-3 * r["predicted_ms"], 1e-3 * r["median_ms"]) for r in file.records}
    picture = file.path.with_suffix(".png")
    prediction_figure(points, f"Optimized networks, {options.threads} threads").savefig(picture, dpi=110)
    console.print(f"[bold]{file.path}[/bold]\n[bold]{picture}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    main()
