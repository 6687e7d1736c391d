"""How long does a training step take, and how much memory, against torch's? ``python -m benchmarks.training``.

A step is forward, backward and update (SGD with momentum) in float32. Every contestant has a process of its own; they
take turns. The peak is that of a fresh process after three steps, less what it held before the first.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

import convfirst_ext as cf
import convfirst_ext.models  # noqa: F401  (timm knows ConvFirstNet from here on)
from benchmarks import RESULTS
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.bench.tables import geometric_mean
from convfirst_ext.bench.timer import (
    Contestant,
    ContestantFailure,
    Schedule,
    Workload,
    ask_once,
    speedup_in_turns,
    steps_of,
    take_turns,
)

MODELS = ("mobilenetv2_100", "efficientnet_b0", "convnext_atto", "convfirstnet_pico")
RUNTIMES = ("channels_last", "inductor", "convfirst")
OURS = "convfirst"


def build(name: str, runtime: str, batch: int, size: int, threads: int) -> Workload:
    """Returns one training step of a network, the same images and first weights for everybody."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name).train().to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,))
    if runtime == OURS:
        cf.patch(model)
    elif runtime == "channels_last":
        run_layer_by_layer(model)
    call = torch.compile(model) if runtime == "inductor" else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(call(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss)

    return Workload(step, {"first_loss": step()})


def run_layer_by_layer(model: nn.Module) -> None:
    """Makes ConvFirstNet's blocks, which fuse their layers by themselves, run them as torch would."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_: None)  # somebody who watches a layer must see it run


def build_peak(name: str, runtime: str, batch: int, size: int, threads: int) -> Workload:
    """Returns a workload that says how many bytes three steps took at most."""

    def peak() -> int:
        before = highest_bytes()
        workload = build(name, runtime, batch, size, threads)
        for _ in range(2):
            workload.run()
        gc.collect()
        return highest_bytes() - before

    return Workload(peak)


def highest_bytes() -> int:
    """Returns the most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, options: argparse.Namespace, tell: Callable[[str], None]) -> dict[str, Any]:
    """Returns a network's record: every contestant's times and peak, and the ratios of the best of torch's to ours."""
    arguments = (options.batch, options.size, options.threads)
    schedule = Schedule(rounds=options.rounds, turn_seconds=options.turn_seconds)
    contestants = [Contestant(runtime, partial(build, name, runtime, *arguments)) for runtime in options.runtime]
    timings = take_turns(contestants, schedule, tell)
    peaks: dict[str, int] = {}
    for runtime in options.runtime:
        tell(f"{runtime}: memory")
        try:
            peaks[runtime] = ask_once(Contestant(runtime, partial(build_peak, name, runtime, *arguments)))
        except ContestantFailure as failure:
            tell(f"{runtime}: {failure}")
    record: dict[str, Any] = {
        "case": name,
        "batch": options.batch,
        "size": options.size,
        "timings": {key: timing.to_json() for key, timing in timings.items()},
        "peak_bytes": peaks,
    }
    peers = {key: t.min_ms for key, t in timings.items() if key != OURS and t.min_ms is not None}
    ours = timings.get(OURS)
    if peers and ours is not None and ours.min_ms is not None and ours.median_ms is not None:
        best = min(peers, key=lambda key: peers[key])
        record["best_peer"] = best
        record["speedup"] = {
            "of_minima": peers[best] / ours.min_ms,
            "of_medians": timings[best].median_ms / ours.median_ms,  # type: ignore[operator]
            "in_turns": speedup_in_turns(ours, timings[best]),
        }
    return record


def print_records(records: list[dict[str, Any]], console: Console) -> None:
    """Prints a row a network."""
    names = list(dict.fromkeys(name for record in records for name in record["timings"]))
    table = Table(title="training step, ms minimum / median; peak MiB", title_justify="left")
    for title in ("network", *names, "best peer / ours", "memory of best peer / ours"):
        table.add_column(title, justify="left" if title == "network" else "right")
    for record in records:
        cells = []
        for name in names:
            timing, peak = record["timings"][name], record["peak_bytes"].get(name, 0)
            if timing["min_ms"] is None:
                cells.append("failed")
            else:
                cells.append(f"{timing['min_ms']:.0f} / {timing['median_ms']:.0f}; {peak / 2**20:.0f}")
        ratio = record.get("speedup", {}).get("of_minima")
        cells.append("" if ratio is None else f"{ratio:.2f} / {record['speedup']['of_medians']:.2f}")
        memory = memory_ratio(record)
        table.add_row(record["case"], *cells, "" if memory is None else f"{memory:.2f}")
    console.print(table)
    ratios = [record["speedup"]["of_minima"] for record in records if "speedup" in record]
    if ratios:
        console.print(f"geometric mean of minima over the best of torch: {geometric_mean(ratios):.2f}")


def memory_ratio(record: dict[str, Any]) -> float | None:
    """Returns the least peak of torch's over ours."""
    peers = [value for name, value in record["peak_bytes"].items() if name != OURS]
    ours = record["peak_bytes"].get(OURS)
    return min(peers) / ours if peers and ours else None


def plot_records(records: list[dict[str, Any]], path: Path) -> None:
    """Draws time and peak of every contestant, a group a network."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(name for record in records for name in record["timings"]))
    panels = figure.subplots(1, 2)
    for axes, title in zip(panels, ("time of a step, ms (minimum)", "peak memory, MiB"), strict=True):
        for index, name in enumerate(names):
            heights = []
            for record in records:
                time = record["timings"][name]["min_ms"] or 0.0
                heights.append(time if axes is panels[0] else record["peak_bytes"].get(name, 0) / 2**20)
            places = [row + 0.8 * index / len(names) for row in range(len(records))]
            axes.bar(places, heights, width=0.75 / len(names), label=name)
        axes.set_title(title)
        axes.set_xticks([row + 0.27 for row in range(len(records))], [record["case"] for record in records])
        axes.tick_params(axis="x", rotation=20)
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures and writes JSON, a table and a plot."""
    options = _parse()
    console = Console()
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    file = ResultFile.create(options.output, "training", settings=settings)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    schedule = Schedule(rounds=options.rounds)
    steps = steps_of(len(options.runtime), schedule) + len(options.runtime)
    try:
        with Progress(*columns, console=console, auto_refresh=False) as progress:
            bar = progress.add_task("starting", total=steps * len(options.models))
            for index, name in enumerate(options.models):

                def tell(text: str, name: str = name) -> None:
                    progress.update(bar, advance=1, description=f"{name}, {text}", refresh=True)

                file.add(measure(name, options, tell))
                progress.update(bar, completed=(index + 1) * steps, refresh=True)
    except KeyboardInterrupt:
        console.print(f"interrupted; {file.path} has what was measured", soft_wrap=True)
        sys.exit(130)
    print_records(file.records, console)
    plot_records(file.records, file.path.with_suffix(".png"))
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"timm names; {', '.join(MODELS)} without")
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-seconds", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON and the plot")
    return parser.parse_args()


if __name__ == "__main__":
    main()
