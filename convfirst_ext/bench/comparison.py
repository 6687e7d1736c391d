"""What the benchmark scripts and `convfirst bench` share: time every case with everybody, keep, print and plot."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from convfirst_ext.analysis.ceilings import Ceilings, measure_ceilings
from convfirst_ext.bench.cases import Case, prepare
from convfirst_ext.bench.macs import Work, count_work
from convfirst_ext.bench.naming import is_ours, split_name
from convfirst_ext.bench.options import Options
from convfirst_ext.bench.peers import RUNTIMES, contestants_for
from convfirst_ext.bench.plots import plot_records
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.bench.tables import print_tables
from convfirst_ext.bench.timer import Schedule, Timing, speedup_in_turns, steps_of, take_turns
from convfirst_ext.bench.worker import describe_error


def run_comparison(benchmark: str, cases: Sequence[Case], options: Options) -> ResultFile:
    """Times one case after the other; the results file is whole after each, so an interrupt loses one case.

    Raises:
        ValueError: an option is out of range, or the file to resume does not fit this run.
    """
    options.check()
    end = None if options.seconds is None else time.monotonic() + options.seconds
    console = Console()
    file, ceilings = _open_results(benchmark, options, console)
    waiting = [case for case in cases if not file.has(case=case.name, batch=case.batch)]
    try:
        _time_cases(waiting, file, ceilings, options, end, console)
        if end is None:
            raise_ceilings(file, measure_ceilings(options.threads))
    except KeyboardInterrupt:
        hint = f"go on later with --resume {file.path}" if options.can_resume else f"{file.path} has what was timed"
        console.print(f"interrupted; {hint}", soft_wrap=True)
        sys.exit(130)
    _show(file, console)
    return file


def _show(file: ResultFile, console: Console) -> None:
    if file.records:
        print_tables(file.content, console)
        plot_path = file.path.with_suffix(".png")
        plot_records(file.content, plot_path)
        console.print(f"[bold]{plot_path}[/bold]", soft_wrap=True)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


def _open_results(benchmark: str, options: Options, console: Console) -> tuple[ResultFile, Ceilings]:
    if options.resume:
        file = ResultFile.resume(options.resume, benchmark, options.settings)
        return file, Ceilings(**file.content["ceilings"])
    console.print("measuring this machine's ceilings")
    ceilings = measure_ceilings(options.threads, 0.4 if options.seconds is None else 0.1)
    file = ResultFile.create(options.output, benchmark, settings=options.settings, ceilings=ceilings.to_json())
    return file, ceilings


def _time_cases(
    cases: Sequence[Case],
    file: ResultFile,
    ceilings: Ceilings,
    options: Options,
    end: float | None,
    console: Console,
) -> None:
    schedule = Schedule(rounds=options.rounds, turn_seconds=options.turn_seconds, seed=options.seed)
    # auto_refresh would draw from a thread while a contestant is being timed.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    contestants = sum(dtype in RUNTIMES[name].dtypes for name in options.runtimes for dtype in options.dtypes)
    steps = steps_of(contestants, schedule)
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = progress.add_task("starting", total=len(cases) * steps)
        for index, case in enumerate(cases):
            left = None if end is None else end - time.monotonic()
            if index and left is not None and left <= 0:
                out = ", ".join(case.title for case in cases[index:])
                progress.console.print(f"left out, as the {options.seconds:g} s are used up: {out}", soft_wrap=True)
                break

            def step(text: str, case: Case = case) -> None:
                progress.update(bar, advance=1, description=f"{case.title}, {text}", refresh=True)

            progress.update(bar, description=f"{case.title}, preparing", refresh=True)
            share = None if left is None else left / (len(cases) - index)
            timings = _time_case(case, options, replace(schedule, seconds=share), step, progress.console)
            if timings:
                file.add(make_record(case, timings, ceilings))
            # A budget may have cost some rounds.
            progress.update(bar, completed=(index + 1) * steps, refresh=True)


def _time_case(
    case: Case, options: Options, schedule: Schedule, step: Callable[[str], None], console: Console
) -> dict[str, Timing]:
    """Returns every contestant's timing, none where the network itself cannot run on that input."""
    with tempfile.TemporaryDirectory(prefix="convfirst-case-") as directory:
        try:
            prepared = prepare(case, Path(directory), options.seed)
        except Exception as error:  # any network can be asked for, with any size of images
            text = f"{case.title} left out, PyTorch itself cannot run it: {describe_error(error)}"
            console.print(text, markup=False, soft_wrap=True)
            return {}
        contestants = contestants_for(prepared, options.runtimes, options.dtypes, options.threads)
        timings = take_turns(contestants, schedule, step)
    _report_failures(case, timings, console)
    return timings


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
