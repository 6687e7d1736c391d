"""An analysed network as tables: what the terminal and the report show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from convfirst_ext.analysis import BlockRecord, LayerRecord, NetworkAnalysis
from convfirst_ext.fusion import Record
from convfirst_ext.fusion.explanation_table import short_name

from .requirements import models_extra

with models_extra():
    from rich import box
    from rich.markup import escape
    from rich.table import Table

_MIB = 2**20


class Column(NamedTuple):
    """A heading and whether text or numbers stand below it."""

    heading: str
    text: bool = False


class Rows(NamedTuple):
    """A table without a look."""

    title: str
    columns: Sequence[Column]
    rows: list[Sequence[str]]


def block_rows(network: NetworkAnalysis, merged: bool = False) -> Rows:
    """Blocks, and layers outside of them, with what fusing each would give.

    Args:
        network: as ``analyze`` gives it.
        merged: whether equal blocks in succession share a row, which shows the figures of one.
    """
    unit, scale = _time_unit(network.layer_seconds)
    columns = (
        Column("block", True),
        Column("layers"),
        Column("input -> output", True),
        Column("Mmac"),
        Column("MiB\nlayers"),
        Column("MiB\nfused"),
        Column("op/byte\nfused"),
        Column("bound\nby", True),
        Column(f"{unit}\nlayers"),
        Column(f"{unit}\nfused"),
        Column("sum\n%"),
        Column("network\ngains"),
    )
    runs = _runs(network.blocks) if merged else [[block] for block in network.blocks]
    rows = [_block_row(run, scale) for run in runs]
    rows.append(
        (
            "total",
            str(len(network.layers)),
            "",
            f"{network.macs / 1e6:.1f}",
            f"{sum(block.layer_bytes for block in network.blocks) / _MIB:.2f}",
            f"{sum(block.bytes for block in network.blocks) / _MIB:.2f}",
            "",
            "",
            f"{scale * network.layer_seconds:.4g}",
            f"{scale * network.block_seconds:.4g}",
            "100",
            f"{network.layer_seconds / network.block_seconds:.2f}x",
        )
    )
    return Rows("Blocks, and layers outside of blocks: least times", columns, rows)


def layer_rows(network: NetworkAnalysis) -> Rows:
    """Every layer by itself."""
    unit, scale = _time_unit(network.layer_seconds)
    columns = (
        Column("layer", True),
        Column("kind", True),
        Column("input -> output", True),
        Column("Mmac"),
        Column("MiB"),
        Column("op/byte"),
        Column("bound\nby", True),
        Column(unit),
        Column("%"),
        Column("sum\n%"),
    )
    return Rows("Layers: least times", columns, [_layer_row(layer, scale) for layer in network.layers])


def fused_rows(records: Sequence[Record]) -> Rows:
    """The blocks of the optimized network."""
    columns = (
        Column("block", True),
        Column("kernel", True),
        Column("input -> output", True),
        Column("Mmac"),
        Column("MiB\nmoved"),
        Column("predicted\nms"),
        Column("measured\nms"),
        Column("roofline\n%"),
    )
    return Rows("The optimized network on this CPU", columns, [_fused_row(record) for record in records])


def rich_table(table: Rows) -> Table:
    """For the terminal."""
    made = Table(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        left = column.text
        made.add_column(
            column.heading,
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=not left or "->" in column.heading,
        )
    for row in table.rows:
        made.add_row(*map(escape, row), style="bold" if row[0] == "total" else None)
    return made


def summary(network: NetworkAnalysis) -> list[str]:
    """Sentences on the whole network."""
    machine, blocks = network.machine, sum(block.layers > 1 for block in network.blocks)
    unit, scale = _time_unit(network.layer_seconds)
    lines = [
        f"{machine.name}: {machine.flops_per_second / 1e9:,.0f} GFLOP/s, {machine.bytes_per_second / 1e9:,.0f} GB/s, "
        f"{machine.bytes_per_element:g} bytes an element; below {machine.op_byte:.3g} op/byte memory is the limit.",
        f"Layer by layer: at least {scale * network.layer_seconds:.4g} {unit}, {network.layer_efficiency:.0%} of peak "
        f"(a roofline of the whole would promise {network.mediant_efficiency:.0%}).",
    ]
    if blocks:
        lines.append(
            f"With {blocks} blocks fused: at least {scale * network.block_seconds:.4g} {unit}, "
            f"{network.block_efficiency:.0%} of peak, "
            f"{network.layer_seconds / network.block_seconds:.2f} times as fast."
        )
    else:
        lines.append("It has no block of several products that one kernel could keep together.")
    return lines


def _runs(blocks: Sequence[BlockRecord]) -> list[list[BlockRecord]]:
    runs: list[list[BlockRecord]] = []
    for block in blocks:
        if runs and _figures(runs[-1][0]) == _figures(block):
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _figures(block: BlockRecord) -> tuple[object, ...]:
    return (block.layers, block.input_shape, block.output_shape, block.macs, block.bytes, block.layer_bytes)


def _block_row(run: Sequence[BlockRecord], scale: float) -> Sequence[str]:
    block = run[0]
    fuses = block.layers > 1
    return (
        f"{block.name} (x{len(run)})" if len(run) > 1 else block.name,
        str(block.layers),
        _shapes(block),
        f"{block.macs / 1e6:.1f}",
        f"{block.layer_bytes / _MIB:.2f}",
        f"{block.bytes / _MIB:.2f}" if fuses else "",
        f"{block.intensity:.3g}",
        block.bound,
        f"{scale * block.layer_seconds:.3g}",
        f"{scale * block.seconds:.3g}" if fuses else "",
        f"{100 * run[-1].cumulative_share:.0f}",
        f"{block.network_speedup:.3f}x" if fuses else "",
    )


def _layer_row(layer: LayerRecord, scale: float) -> Sequence[str]:
    return (
        layer.name,
        layer.kind,
        _shapes(layer),
        f"{layer.macs / 1e6:.1f}",
        f"{layer.bytes / _MIB:.2f}",
        f"{layer.intensity:.3g}",
        layer.bound,
        f"{scale * layer.seconds:.3g}",
        f"{100 * layer.share:.1f}",
        f"{100 * layer.cumulative_share:.0f}",
    )


def _fused_row(record: Record) -> Sequence[str]:
    return (
        short_name(record.name),
        record.kernel or f"torch ({record.detail})",
        record.shapes,
        f"{record.macs / 1e6:.1f}",
        f"{record.bytes_moved / _MIB:.2f}",
        "" if record.predicted_seconds is None else f"{1e3 * record.predicted_seconds:.3f}",
        "" if record.seconds is None else f"{1e3 * record.seconds:.3f}",
        "" if record.roofline is None else f"{100 * record.roofline:.0f}",
    )


def _shapes(record: BlockRecord | LayerRecord) -> str:
    """Without the batch, which is the same everywhere."""
    return " -> ".join("x".join(map(str, shape[1:])) for shape in (record.input_shape, record.output_shape))


def _time_unit(seconds: float) -> tuple[str, float]:
    return ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
