"""Prints results files as tables: one row a case, one column a contestant."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from convfirst_ext.bench.naming import is_ours, split_name
from convfirst_ext.bench.results import read_results

_FILE_WIDTH = 400


def contestant_names(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns every contestant's name in the order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record["timings"]))


def print_tables(content: dict[str, Any], console: Console) -> None:
    """Prints the times, ratios and shares of the ceiling of a results file, a table a precision, and the means."""
    records = content["records"]
    names = contestant_names(records)
    console.print(_title(content), soft_wrap=True, highlight=False)
    for dtype in dict.fromkeys(split_name(name)[1] for name in names):
        _print_table(dtype, records, [name for name in names if split_name(name)[1] == dtype], console)
    for name in filter(is_ours, names):
        _print_mean(name, records, console)


def _print_table(dtype: str, records: Sequence[dict[str, Any]], names: Sequence[str], console: Console) -> None:
    table = Table(title=f"{dtype}, ms, best peer bold", title_justify="left")
    table.add_column("case", no_wrap=True)
    table.add_column("batch", justify="right")
    for name in names:
        table.add_column(f"{split_name(name)[0]}\nmin / median", justify="right")
    if any(map(is_ours, names)):
        for title in ("ours vs\nbest peer", "% of\nfp32 peak", "% of\nroofline"):
            table.add_column(title, justify="right")
    for record in records:
        table.add_row(*_row(record, names))
    if not console.is_terminal:  # a file has no edge to fold at
        width = Measurement.get(console, console.options.update(max_width=_FILE_WIDTH), table).maximum
        console = Console(width=max(console.width, width), file=console.file)
    console.print(table)


def geometric_mean(values: Sequence[float]) -> float:
    """Returns the geometric mean of positive values."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def share(floor_ms: float, timing: dict[str, Any]) -> float:
    """Returns which part of the ceiling a timing's minimum reaches, in percent."""
    return 100.0 * floor_ms / float(timing["min_ms"])


def _title(content: dict[str, Any]) -> str:
    machine, ceilings = content["machine"], content["ceilings"]
    copies = ", ".join(f"{rate:.0f} in {name}" for name, rate in ceilings["copy_gbps"].items())
    return (
        f"{content['benchmark']} on {machine['cpu']}, {ceilings['threads']} threads; ceilings: "
        f"{ceilings['gflops']:.0f} GFLOP/s fp32 ({ceilings['source']}), copy GB/s {copies}"
    )


def _row(record: dict[str, Any], names: Sequence[str]) -> list[str]:
    timings = record["timings"]
    cells = [record["case"], str(record["batch"])]
    cells += [_times(timings.get(name), bold=name == record["best_peer"]) for name in names]
    for name in filter(is_ours, names):
        timing = timings.get(name)
        if timing is None or timing["error"]:
            return [*cells, "-", "-", "-"]
        speedup = record["speedup_over_best_peer"].get(name)
        cells.append(f"{speedup['of_minima']:.2f}x {speedup['peer']}" if speedup else "-")
        cells += [f"{share(record[floor], timing):.0f}" for floor in ("compute_floor_ms", "roofline_ms")]
    return cells


def _times(timing: dict[str, Any] | None, bold: bool) -> str:
    if timing is None:
        return "-"
    if timing["error"]:
        return "[red]failed[/red]"
    text = f"{_three_digits(timing['min_ms'])} / {_three_digits(timing['median_ms'])}"
    return f"[bold]{text}[/bold]" if bold else text


def _three_digits(milliseconds: float) -> str:
    decimals = 0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2 if milliseconds >= 1 else 3
    return f"{milliseconds:.{decimals}f}"


def _print_mean(name: str, records: Sequence[dict[str, Any]], console: Console) -> None:
    ratios = [record["speedup_over_best_peer"][name] for record in records if name in record["speedup_over_best_peer"]]
    if not ratios:
        return
    means = {
        kind: geometric_mean([ratio[kind] for ratio in ratios]) for kind in ("of_minima", "of_medians", "in_turns")
    }
    console.print(
        f"{name} over the best peer of each row, geometric mean of {len(ratios)}: "
        f"{means['of_minima']:.2f}x of minima, "
        f"{means['of_medians']:.2f}x of medians, {means['in_turns']:.2f}x in turns",
        soft_wrap=True,
    )


def main() -> None:
    """Prints the table of existing results files: ``python -m convfirst_ext.bench.tables FILE...``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    for path in parser.parse_args().files:
        try:
            print_tables(read_results(path), Console())
        except (ValueError, KeyError, TypeError) as error:
            missing = f"{path} holds no comparison: {error!r}"
            parser.error(str(error) if isinstance(error, ValueError) else missing)


if __name__ == "__main__":
    main()
