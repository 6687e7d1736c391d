"""Bytes that a tiled convolution moves, when every tile's operands pass through fast memory."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from convfirst_ext.analysis.arguments import require_positive
from convfirst_ext.analysis.conv_problem import ConvProblem, Precision, checked_precision


class Tile(NamedTuple):
    """Sizes of a tile in every loop; the taps of an axis are split as i = stride i'' + i'.

    Attributes:
        batch: images.
        channels: input channels, all of one group; of a depthwise convolution, groups.
        filters: output channels of a group.
        rows: of the output.
        columns: of the output.
        row_taps: range of i'' in R.
        column_taps: range of i'' in S.
        row_phases: range of i' in R.
        column_phases: range of i' in S.
    """

    batch: float
    channels: float
    filters: float
    rows: float
    columns: float
    row_taps: float
    column_taps: float
    row_phases: float
    column_phases: float


def loop_ranges(problem: ConvProblem) -> Tile:
    """How far every loop runs: the tile that is all of one group, or of all groups of a depthwise convolution."""
    group_width = problem.in_channels // problem.groups
    return Tile(
        problem.batch,
        problem.in_channels if is_depthwise(problem) else group_width,
        problem.out_channels // problem.groups,
        problem.out_height,
        problem.out_width,
        *problem.phase_taps,
        *problem.phases,
    )


def is_depthwise(problem: ConvProblem) -> bool:
    """Whether every group has one input channel."""
    return problem.groups == problem.in_channels > 1


def tile_footprint(problem: ConvProblem, tile: Tile, precision: Precision) -> Precision:
    """Bytes of image, filter and output that one tile touches.

    Args:
        problem: the convolution.
        tile: its sizes along the loops.
        precision: bytes of an element.

    Returns:
        Bytes of each array.

    Raises:
        TypeError: an argument is something else.
        ValueError: a size of the tile or a precision is not positive.
    """
    precision = checked_precision(problem, precision)
    _check_tile(tile)
    taps = math.prod(tile[5:])
    rows = (tile.rows + tile.row_taps - 1) * tile.row_phases
    columns = (tile.columns + tile.column_taps - 1) * tile.column_phases
    pixels = tile.batch * tile.rows * tile.columns
    # A depthwise output has the channels of its input, a dense one sums over them.
    outputs = tile.filters * (tile.channels if is_depthwise(problem) else 1)
    return Precision(
        precision.image * tile.batch * tile.channels * rows * columns,
        precision.filter * tile.channels * tile.filters * taps,
        precision.output * pixels * outputs,
    )


def tile_bytes_moved(problem: ConvProblem, tile: Tile, precision: Precision) -> float:
    """Bytes that all tiles move, in the best of the orders of their loops.

    A tile of an array stays where the next iteration uses it again. The loops over pixels (N, H', W') move image and
    output, those over the sums (C, R, S) image and filter, that over filters (K) filter and output. So each array moves
    as often as the loops it does not depend on make it come back; an output that comes back is read and written again.

    Args:
        problem: the convolution; its groups are computed one after another, depthwise ones in tiles of channels.
        tile: whole numbers, each at least 1.
        precision: bytes of an element.

    Returns:
        Bytes for all groups, tiles at the edges as small as they are.

    Raises:
        TypeError: an argument is something else.
        ValueError: a size of the tile or a precision is not positive.
    """
    precision = checked_precision(problem, precision)
    _check_tile(tile)
    counts = Tile(*(math.ceil(size / part) for size, part in zip(loop_ranges(problem), tile, strict=True)))
    depthwise = is_depthwise(problem)
    loops = {
        "pixels": counts.batch * counts.rows * counts.columns,
        "sums": math.prod(counts[5:]) * (1 if depthwise else counts.channels),
        "filters": counts.filters,
    }
    # Each array with the only loop that it does not depend on.
    once = {
        "filters": precision.image * _image_elements(problem, counts),
        "pixels": precision.filter * problem.filter_elements,
        "sums": precision.output * problem.output_elements,
    }
    return min(_moved(order, loops, once) for order in itertools.permutations(loops))


def _check_tile(tile: Tile) -> None:
    if not isinstance(tile, tuple) or len(tile) != len(Tile._fields):
        raise TypeError(f"tile must be a Tile, but is {tile!r}.")
    for size in tile:
        require_positive(tile=size)


def _moved(order: tuple[str, ...], loops: dict[str, float], once: dict[str, float]) -> float:
    """Bytes when the loops nest in this order, the outermost first."""
    total = 0.0
    for independent, size in once.items():
        inner = order[order.index(independent) + 1 :]
        visits = loops[independent] if any(loops[name] > 1 for name in inner) else 1
        total += size * (2 * visits - 1 if independent == "sums" else visits)
    return total


def _image_elements(problem: ConvProblem, counts: Tile) -> float:
    """Elements of all image tiles, with the halos that neighbours share counted in each."""
    ranges = loop_ranges(problem)
    rows = ranges.row_phases * _extent(ranges.rows, ranges.row_taps, counts.rows, counts.row_taps)
    columns = ranges.column_phases * _extent(ranges.columns, ranges.column_taps, counts.columns, counts.column_taps)
    return problem.batch * problem.in_channels * rows * columns


def _extent(outputs: float, taps: float, output_tiles: float, tap_tiles: float) -> float:
    """The sum of a + b - 1 over all pairs of a tile of a outputs and a tile of b taps."""
    return tap_tiles * outputs + output_tiles * taps - output_tiles * tap_tiles
