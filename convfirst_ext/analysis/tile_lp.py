"""Tiles of a convolution from a linear program in the logarithms of their sizes, solved by HiGHS.

Dense and grouped convolutions: Chen, Demmel, Dinh, Haberle, Holtz (PASC 2022, 2204.08279), small filters split.
Depthwise ones: Dinh and Demmel's program for projective loops (SPAA 2020), as Lien, Banka and Jogani state it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convfirst_ext.analysis.arguments import require_positive
from convfirst_ext.analysis.conv_problem import ConvProblem, Precision, checked_precision
from convfirst_ext.analysis.tile_traffic import (
    Tile,
    is_depthwise,
    loop_ranges,
    tile_bytes_moved,
    tile_footprint,
)

# Constraints are rows over a tile's nine logarithms: batch, channels, filters, rows, columns, taps (2), phases (2).
_FILTER = (0, 1, 1, 0, 0, 1, 1, 1, 1)
_OUTPUT = (1, 0, 1, 1, 1, 0, 0, 0, 0)
_IMAGE = (1, 1, 0, 0, 0, 0, 0, 1, 1)
_DEPTHWISE_OUTPUT = (1, 1, 1, 1, 1, 0, 0, 0, 0)
_DEPTHWISE_IMAGE = (1, 1, 0, 1, 1, 1, 1, 1, 1)
# Of tiles of equal size, those that cut the fewest halos.
_TIE_BREAK = (0, 0.5, 0, 1, 1, 2, 2, 2, 2)


class TilePlan(NamedTuple):
    """A solution.

    Attributes:
        relaxed: the program's tile, real numbers.
        tile: whole numbers from it, enlarged where memory is left and bytes are saved.
        bytes_moved: by the whole convolution with that tile.
        footprint: bytes of image, filter and output in one tile.
    """

    relaxed: Tile
    tile: Tile
    bytes_moved: float
    footprint: Precision


def solve_tile(
    problem: ConvProblem,
    memory: float | Precision,
    precision: Precision | None = None,
    double_buffered: bool = False,
) -> TilePlan:
    """The tile with the most multiply-adds whose image, filter and output fit into fast memory.

    maximize sum log b, subject to: the filter's tile at most M / 3, the output's at most M / 3, each product of image
    rows and columns, multiplied out of (b_w + b'_s)(b_h + b'_r), at most M / 12, every b at most its loop. Where an
    axis has one tap or one output the product has fewer terms and each gets more. A depthwise convolution's image takes
    at most the product of all sizes. Precisions scale the memory.

    Args:
        problem: the convolution; of groups that are not depthwise, one at a time is tiled.
        memory: M, bytes of fast memory that the arrays share, or one buffer for each of image, filter and output.
        precision: bytes of an element; None for two bytes each.
        double_buffered: half of the memory receives the next tile.

    Returns:
        The tile and what it costs. Deterministic for one version of scipy.

    Raises:
        ValueError: a memory or precision is not positive, or one element of each array does not fit.
        ModuleNotFoundError: scipy is not installed.
    """
    precision = checked_precision(problem, precision)
    sizes = memory if isinstance(memory, Precision) else (memory,)
    for size in sizes:
        require_positive(memory=size)
    share = 0.5 if double_buffered else 1.0
    separate = isinstance(memory, Precision)
    capacity = Precision(*(share * (size if separate else size / 3.0) for size in (sizes if separate else sizes * 3)))
    relaxed = _relaxed_tile(problem, capacity, precision)

    def fits(tile: Tile) -> bool:
        footprint = tile_footprint(problem, tile, precision)
        if separate:
            return all(part <= size for part, size in zip(footprint, capacity, strict=True))
        return sum(footprint) <= sum(capacity)

    # A logarithm that the solver returns may lie below that of a whole number by its tolerance.
    tile = Tile(*(max(1, math.floor(size * (1 + 1e-6))) for size in relaxed))
    if not fits(tile):
        tile = Tile(*(max(1, math.floor(size)) for size in relaxed))
    tile = _enlarged(problem, tile, precision, fits)
    return TilePlan(relaxed, tile, tile_bytes_moved(problem, tile, precision), tile_footprint(problem, tile, precision))


def _relaxed_tile(problem: ConvProblem, capacity: Precision, precision: Precision) -> Tile:
    ranges = loop_ranges(problem)
    depthwise = is_depthwise(problem)
    images = [_DEPTHWISE_IMAGE] if depthwise else _image_rows(ranges)
    rows: list[Sequence[int]] = [_FILTER, _DEPTHWISE_OUTPUT if depthwise else _OUTPUT, *images]
    elements = [capacity.filter / precision.filter, capacity.output / precision.output]
    elements += [capacity.image / precision.image / len(images)] * len(images)
    if min(elements) < 1.0:
        raise ValueError(
            f"memory must hold an element of each array in its third, or in its buffer, "
            f"and {len(images)} of the image, but the smallest holds {min(elements):.3g} of what it must."
        )
    logarithms = _maximize(np.array(rows, np.float64), np.log(elements), np.log(np.array(ranges, np.float64)))
    return Tile(*np.exp(logarithms).tolist())


def _image_rows(ranges: Tile) -> list[Sequence[int]]:
    """One constraint for each product of a term of b_h + b'_r and one of b_w + b'_s."""
    products = []
    for row in _axis_terms(ranges.rows, ranges.row_taps, 3, 5):
        for column in _axis_terms(ranges.columns, ranges.column_taps, 4, 6):
            constraint = list(_IMAGE)
            for index in (row, column):
                constraint[index] = 1
            products.append(constraint)
    return [tuple(constraint) for constraint in products]


def _axis_terms(outputs: float, taps: float, output_index: int, tap_index: int) -> tuple[int, ...]:
    """The tile's sizes whose sum bounds an extent a + b - 1; where one is 1, the other is the extent."""
    if taps == 1:
        return (output_index,)
    return (tap_index,) if outputs == 1 else (output_index, tap_index)


def _maximize(
    rows: npt.NDArray[np.float64], limits: npt.NDArray[np.float64], upper: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The largest sum of logarithms, and of those solutions the one that _TIE_BREAK prefers."""
    from scipy.optimize import linprog

    bounds = [(0.0, limit) for limit in upper]
    ones = np.ones(len(upper))
    first = linprog(-ones, A_ub=rows, b_ub=limits, bounds=bounds, method="highs")
    optimal = np.vstack([rows, -ones])
    kept = np.append(limits, first.fun + 1e-9)
    second = linprog(-np.array(_TIE_BREAK), A_ub=optimal, b_ub=kept, bounds=bounds, method="highs")
    return np.asarray(second.x if second.success else first.x, np.float64)


def _enlarged(problem: ConvProblem, tile: Tile, precision: Precision, fits: Callable[[Tile], bool]) -> Tile:
    """Takes, as long as one fits, the step to fewer tiles along a loop that saves the most bytes."""
    ranges = loop_ranges(problem)
    moved = tile_bytes_moved(problem, tile, precision)
    while True:
        candidates = []
        for index, (size, limit) in enumerate(zip(tile, ranges, strict=True)):
            count = math.ceil(limit / size)
            if count > 1:
                sizes = list(tile)
                sizes[index] = math.ceil(limit / (count - 1))
                larger = Tile(*sizes)
                if fits(larger):
                    candidates.append((tile_bytes_moved(problem, larger, precision), larger))
        if not candidates or min(candidates)[0] >= moved:
            return tile
        moved, tile = min(candidates)
