"""What the networks and layers scripts share: time every case with every contestant, keep, print and plot."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from convfirst_ext.bench.cases import Case, prepare
from convfirst_ext.bench.ceilings import Ceilings, measure_ceilings
from convfirst_ext.bench.macs import Work, count_work
from convfirst_ext.bench.naming import is_ours, split_name
from convfirst_ext.bench.peers import RUNTIMES, check_names, contestants_for
from convfirst_ext.bench.plots import plot_records
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.bench.tables import print_tables
from convfirst_ext.bench.timer import Schedule, Timing, speedup_in_turns, steps_of, take_turns


def add_arguments(parser: argparse.ArgumentParser, batch: list[int] | None, runtimes: list[str], output: Path) -> None:
    """Adds the options both scripts have; ``batch`` None means that each case has its own."""
    parser.add_argument("--batch", type=int, nargs="+", default=batch, help="batch sizes")
    parser.add_argument("--threads", type=int, default=2, help="threads in every runtime")
    parser.add_argument("--rounds", type=int, default=8, help="turns each contestant gets")
    parser.add_argument("--turn-seconds", type=float, default=0.4, help="length of a turn")
    parser.add_argument("--runtimes", nargs="+", default=runtimes, help=f"of {', '.join(RUNTIMES)}")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="of float32, bfloat16, float16")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and the order of turns")
    parser.add_argument("--output", type=Path, default=output, help="folder for the JSON and the plot")
    parser.add_argument("--resume", type=Path, help="go on with this interrupted results file")


def run_comparison(benchmark: str, cases: Sequence[Case], options: argparse.Namespace) -> ResultFile:
    """Times one case after the other; the results file is whole after each, so an interrupt loses one case.

    Raises:
        ValueError: an option is out of range, or the file to resume does not fit this run.
    """
    check_options(options)
    console = Console()
    file, ceilings = _open_results(benchmark, options, console)
    schedule = Schedule(rounds=options.rounds, turn_seconds=options.turn_seconds, seed=options.seed)
    waiting = [case for case in cases if not file.has(case=case.name, batch=case.batch)]
    try:
        _time_cases(waiting, file, ceilings, schedule, options, console)
        raise_ceilings(file, measure_ceilings(options.threads))
    except KeyboardInterrupt:
        console.print(f"interrupted; go on later with --resume {file.path}", soft_wrap=True)
        sys.exit(130)
    if file.records:
        print_tables(file.content, console)
        plot_path = file.path.with_suffix(".png")
        plot_records(file.content, plot_path)
        console.print(f"[bold]{plot_path}[/bold]", soft_wrap=True)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)
    return file


def check_options(options: argparse.Namespace) -> None:
    """Raises ValueError for the first option that is out of range, before anything is timed."""
    for name in ("threads", "rounds"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.turn_seconds <= 0:
        raise ValueError(f"--turn-seconds must be positive, got {options.turn_seconds}")
    if any(batch < 1 for batch in options.batch or []):
        raise ValueError(f"--batch must be at least 1, got {options.batch}")
    check_names("--runtimes", options.runtimes, list(RUNTIMES))
    check_names("--dtypes", options.dtypes, ["float32", "bfloat16", "float16"])


def _open_results(benchmark: str, options: argparse.Namespace, console: Console) -> tuple[ResultFile, Ceilings]:
    kept = ("threads", "rounds", "turn_seconds", "runtimes", "dtypes", "seed", "size")
    settings = {name: getattr(options, name) for name in kept if hasattr(options, name)}
    if options.resume:
        file = ResultFile.resume(options.resume, benchmark, settings)
        return file, Ceilings(**file.content["ceilings"])
    console.print("measuring this machine's ceilings")
    ceilings = measure_ceilings(options.threads)
    file = ResultFile.create(options.output, benchmark, settings=settings, ceilings=ceilings.to_json())
    return file, ceilings


def _time_cases(
    cases: Sequence[Case],
    file: ResultFile,
    ceilings: Ceilings,
    schedule: Schedule,
    options: argparse.Namespace,
    console: Console,
) -> None:
    # auto_refresh would draw from a thread while a contestant is being timed.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    contestants = sum(dtype in RUNTIMES[name].dtypes for name in options.runtimes for dtype in options.dtypes)
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = progress.add_task("starting", total=len(cases) * steps_of(contestants, schedule))
        for case in cases:

            def step(text: str, case: Case = case) -> None:
                progress.update(bar, advance=1, description=f"{case.title}, {text}", refresh=True)

            progress.update(bar, description=f"{case.title}, preparing", refresh=True)
            with tempfile.TemporaryDirectory(prefix="convfirst-case-") as directory:
                prepared = prepare(case, Path(directory), options.seed)
                timings = take_turns(
                    contestants_for(prepared, options.runtimes, options.dtypes, options.threads),
                    schedule,
                    step,
                )
            file.add(make_record(case, timings, ceilings))
            _report_failures(case, timings, progress.console)


def make_record(case: Case, timings: dict[str, Timing], ceilings: Ceilings) -> dict[str, Any]:
    """Returns what the results file keeps of a case: its work, every timing, our ratios to the best peer."""
    work = count_work(case.make_model(), case.input_shape)
    return {
        "case": case.name,
        "group": case.group or f"batch {case.batch}",
        "batch": case.batch,
        "input_shape": list(case.input_shape),
        "macs": work.macs,
        "bytes": work.bytes,
        **floors(work, ceilings),
        "best_peer": best_peer(timings, ["float32"]),
        "speedup_over_best_peer": speedups(timings),
        "timings": {name: timing.to_json() for name, timing in timings.items()},
    }


def best_peer(timings: dict[str, Timing], dtypes: Sequence[str]) -> str | None:
    """Returns the name of the peer with the least minimum among those of these precisions, None without any."""
    times = {
        name: timing.min_ms
        for name, timing in timings.items()
        if timing.min_ms is not None and not is_ours(name) and split_name(name)[1] in dtypes
    }
    return min(times, key=lambda name: times[name]) if times else None


def speedups(timings: dict[str, Timing]) -> dict[str, dict[str, Any]]:
    """Returns, for each of ours, its best peer and three ratios to it.

    Ours in float32 is held against peers in float32, ours in half precision against peers at any.
    """
    found = {}
    for name, ours in timings.items():
        dtype = split_name(name)[1]
        peer = best_peer(timings, ["float32"] if dtype == "float32" else ["float32", "bfloat16", "float16"])
        if is_ours(name) and peer and ours.min_ms is not None:
            found[name] = {"peer": peer, **_ratios(ours, timings[peer])}
    return found


def floors(work: Work, ceilings: Ceilings) -> dict[str, float]:
    """Returns the least milliseconds the work takes at the compute ceiling, and at it or the copy ceiling."""
    return {
        "compute_floor_ms": 1e3 * ceilings.compute_seconds(work.flops),
        "roofline_ms": 1e3 * ceilings.roofline_seconds(work.flops, work.bytes),
    }


def raise_ceilings(file: ResultFile, ceilings: Ceilings) -> None:
    """Takes the higher of a file's ceilings and these, and moves every record's floors accordingly.

    A ceiling measured while the machine was slow is none: a contestant could break through it.
    """
    highest = ceilings.highest(Ceilings(**file.content["ceilings"]))
    file.content["ceilings"] = highest.to_json()
    for record in file.records:
        record.update(floors(Work(record["macs"], record["bytes"]), highest))
    file.flush()


def _ratios(ours: Timing, peer: Timing) -> dict[str, float]:
    assert ours.min_ms and ours.median_ms and peer.min_ms and peer.median_ms
    return {
        "of_minima": peer.min_ms / ours.min_ms,
        "of_medians": peer.median_ms / ours.median_ms,
        "in_turns": speedup_in_turns(ours, peer),
    }


def _report_failures(case: Case, timings: dict[str, Timing], console: Console) -> None:
    for timing in timings.values():
        if timing.error:
            text = f"{case.title}: {timing.name} failed: {timing.error}"
            console.print(text, markup=False, soft_wrap=True)
