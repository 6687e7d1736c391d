"""Records as a table for the terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from convfirst_ext.fusion.records import Record, Totals

_MIB = 2**20
_KIB = 2**10
_TEXTS = 4  # columns aligned to the left; the others are numbers
_HEADER = (
    ("block", "kernel", "input -> output", "tile", "Mmac", "moved", "bound", "space", "time", "roof"),
    ("", "", "", "rows x ch", "", "MiB", "MiB", "KiB", "ms", "%"),
)
_TIMES = 2  # columns that only a timed table has, at the end


def table(records: Sequence[Record], totals: Totals) -> list[str]:
    """Lines of an aligned table with a row of totals, then numbered remarks on its rows."""
    remarks: dict[str, int] = {}
    rows = [*_HEADER, *(_row(record, remarks) for record in records), _totals_row(totals)]
    if totals.seconds is None and all(record.seconds is None for record in records):
        rows = [row[:-_TIMES] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    return [*lines, *(f"({number}) {remark}" for remark, number in remarks.items())]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(w) if i < _TEXTS else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _row(record: Record, remarks: dict[str, int]) -> tuple[str, ...]:
    kernel = (record.kernel or "torch").replace("mbconv + squeeze-excite", "mbconv+SE")
    if record.detail and not record.tile:
        kernel += f" ({remarks.setdefault(record.detail, len(remarks) + 1)})"
    space = "-" if record.workspace_bytes is None else f"{record.workspace_bytes / _KIB:.0f}"
    numbers = _numbers(record.macs, record.bytes_moved, record.bytes_bound)
    times = _times(record.seconds, record.roofline)
    return (short_name(record.name), kernel, record.shapes, record.tile, *numbers, space, *times)


def _totals_row(totals: Totals) -> tuple[str, ...]:
    numbers = _numbers(totals.macs, totals.bytes_moved, totals.bytes_bound)
    return ("total", "", "", "", *numbers, "", *_times(totals.seconds, totals.roofline))


def _numbers(macs: int, moved: int, bound: int) -> tuple[str, str, str]:
    return f"{macs / 1e6:.1f}", f"{moved / _MIB:.2f}", f"{bound / _MIB:.2f}"


def _times(seconds: float | None, roofline: float | None) -> tuple[str, str]:
    return "-" if seconds is None else f"{1e3 * seconds:.3f}", "-" if roofline is None else f"{100 * roofline:.0f}"


def short_name(name: str) -> str:
    """Several module names as one: "a.1.conv_pw a.1.conv_dw" as "a.1.conv_pw+dw"."""
    names = name.split(" ")
    if len(names) == 1:
        return name
    # Cut where a word ends, else "pw" and "pwl" would share letters.
    shared = len(re.sub(r"[^._]*$", "", os.path.commonprefix(names)))
    return names[0][:shared] + "+".join(part[shared:] for part in names)
