"""How close is every microkernel to this machine's peak? ``python -m benchmarks.microkernels``.

One thread, operands in cache: what is missing here, no tiling or threading can win back.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import RESULTS
from convfirst_ext.analysis.ceilings import load_native, measure_ceilings
from convfirst_ext.bench.results import ResultFile

ISAS = ("portable", "avx2", "avx512", "avx512fp16")


def time_isa(native: Any, isa: str, seconds: float) -> list[dict[str, Any]]:
    """Returns one record a microkernel of ``isa``, empty where this CPU or this build lacks it.

    ``native`` is ``convfirst_ext._native`` or has its cpu_info, list_microkernels and time_microkernel.
    """
    if isa not in native.cpu_info()["available"]:
        return []
    names = track(native.list_microkernels(isa), description=isa, transient=True)
    return [make_record(isa, name, native.time_microkernel(isa, name, seconds)) for name in names]


def make_record(isa: str, name: str, timed: dict[str, float]) -> dict[str, Any]:
    """Returns the measured figures and the rates that follow (a nanosecond's FLOPs are GFLOP/s)."""
    return {
        "isa": isa,
        "microkernel": name,
        "ns_per_call": timed["ns_per_call"],
        "flops_per_call": timed["flops_per_call"],
        "bytes_per_call": timed["bytes_per_call"],
        "gflops": timed["flops_per_call"] / timed["ns_per_call"],
        "gbps": timed["bytes_per_call"] / timed["ns_per_call"],
    }


def main() -> None:
    """Times the microkernels and writes JSON and a table."""
    options = _parse()
    native = load_native()
    console = Console()
    ceilings = measure_ceilings(threads=1)
    settings = {"seconds": options.seconds, "isas": options.isas, "threads": 1}
    file = ResultFile.create(options.output, "microkernels", settings=settings, ceilings=ceilings.to_json())
    for isa in options.isas:
        for record in time_isa(native, isa, options.seconds):
            file.records.append({**record, "percent_of_ceiling": 100.0 * record["gflops"] / ceilings.gflops})
        file.flush()
    print_table(file.content, console)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


def print_table(content: dict[str, Any], console: Console) -> None:
    """Prints one row a microkernel."""
    ceilings = content["ceilings"]
    table = Table(
        title=f"microkernels on {content['machine']['cpu']}, 1 thread; "
        f"fp32 ceiling {ceilings['gflops']:.0f} GFLOP/s ({ceilings['source']})",
        title_justify="left",
    )
    for title in ("isa", "microkernel"):
        table.add_column(title, no_wrap=True)
    for title in ("ns a call", "GFLOP/s", "% of fp32 ceiling", "GB/s"):
        table.add_column(title, justify="right")
    for record in content["records"]:
        figures = [record[key] for key in ("ns_per_call", "gflops", "percent_of_ceiling", "gbps")]
        cells = [f"{figure:.1f}" if figure else "-" for figure in figures]  # conversions have no FLOPs
        table.add_row(record["isa"], record["microkernel"], *cells)
    console.print(table)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isas", nargs="+", choices=ISAS, default=list(ISAS))
    parser.add_argument("--seconds", type=float, default=0.1, help="a microkernel")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
