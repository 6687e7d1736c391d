"""Prints what the main job found, as tables."""

from collections.abc import Iterable, Mapping

from .main_job import LARGEST_DIFFERENCE, STOCK, Outcome, Result, plural
from .requirements import models_extra

with models_extra():
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

_MIB = 1 << 20


def print_report(outcome: Outcome, console: Console) -> None:
    """Prints labels, differences, latencies and memory of an outcome that has results."""
    for result in outcome.results:
        console.print(_labels_table(result))
        console.print(_agreement(result), style="dim" if result.comparison.same_labels else "yellow")
        console.print()
    console.print(f"Largest logit difference from stock PyTorch: {outcome.largest_difference:.1e}")
    if not outcome.agrees:
        verdict = f"That is more than {LARGEST_DIFFERENCE:g}: the fused network is wrong here."
        console.print(verdict, style="bold red")
    console.print()
    console.print(_latency_table(outcome))
    console.print("Speed is relative to PyTorch eager. Stock PyTorch runs in float32; the variants took turns.")
    if outcome.memory:
        console.print()
        _print_memory(outcome, console)


def facts_table(facts: Mapping[str, object]) -> Table:
    """A table of names and values of any kind."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(escape(name.removesuffix(", bytes")), escape(_describe(name, value)))
    return table


def _labels_table(result: Result) -> Table:
    table = Table(title=escape(result.name), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("probability", justify="right")
    table.add_column("class", justify="right")
    table.add_column("label", overflow="fold")
    for label in result.comparison.labels:
        table.add_row(f"{label.probability:.1%}", str(label.index), escape(label.name))
    return table


def _agreement(result: Result) -> str:
    comparison = result.comparison
    if comparison.same_labels:
        labels = "Same labels as stock PyTorch"
    else:
        theirs = ", ".join(str(label.index) for label in comparison.reference_labels)
        labels = f"Other labels or another order than stock PyTorch ({theirs})"
    return f"{labels}; largest logit difference {comparison.largest_logit_difference:.1e}."


def _latency_table(outcome: Outcome) -> Table:
    table = Table(
        title=f"One inference, batch 1, {plural(outcome.threads, 'thread')}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("variant")
    for heading in ("min ms", "median ms", "speed, min", "speed, median"):
        table.add_column(heading, justify="right")
    stock = outcome.latencies[STOCK]
    for name, latency in outcome.latencies.items():
        table.add_row(
            name,
            f"{latency.minimum:.2f}",
            f"{latency.median:.2f}",
            f"{stock.minimum / latency.minimum:.2f}x",
            f"{stock.median / latency.median:.2f}x",
            style="bold" if name == outcome.settings.fused_name else None,
        )
    return table


def _print_memory(outcome: Outcome, console: Console) -> None:
    if not all(outcome.memory.values()):
        console.print("Memory was not measured: this system does not count resident memory as Linux does.")
        return
    table = Table(
        title="Peak memory, MiB",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("variant")
    for heading in ("first inference", "later inference", "whole process"):
        table.add_column(heading, justify="right")
    for name, peak in outcome.memory.items():
        if peak is not None:
            table.add_row(name, *(f"{size / _MIB:.1f}" for size in (peak.first, peak.later, peak.process)))
    console.print(table)
    console.print(
        "Resident memory at its highest, each network in its own process. An inference counts from what was "
        "held before it: what the first one loads and keeps is not in a later one."
    )


def _describe(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and "bytes" in name:
        return f"{value / 1024:,.0f} KiB" if value < 8 * _MIB else f"{value / _MIB:,.0f} MiB"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_describe(str(key), item)}" for key, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(_describe(name, item) for item in value)
    return str(value)
