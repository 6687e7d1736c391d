"""Bytes that ways to compute a convolution move, against the size of fast memory: the slides' comparison curves.

The slides (Chen, Demmel, Dinh, Haberle, Holtz, PASC 2022) draw them without formulas. Here every algorithm is a
sequence of steps that pass their results through slow memory; a matrix product moves its lower bound, another step each
element once.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from convfirst_ext.analysis.arguments import real_array, require_positive
from convfirst_ext.analysis.bounds import communication_bound, matmul_bound
from convfirst_ext.analysis.conv_problem import ConvProblem, Precision, checked_precision


def naive_traffic(problem: ConvProblem, precision: Precision | None = None) -> float:
    """Bytes without any reuse but that of the sum: two operands for every multiply-add, every output once."""
    image, filters, output = checked_precision(problem, precision)
    return (image + filters) * problem.multiply_adds + output * problem.output_elements


def matmul_traffic(problem: ConvProblem, memory: float, precision: Precision | None = None) -> float:
    """Bytes of im2col's matrix products alone: (N H' W', T R S) times (T R S, K / groups), groups times.

    Args:
        problem: the convolution.
        memory: M, bytes of the fast memory.
        precision: bytes of an element; None for two bytes each.

    Returns:
        Bytes between the fast and the slow memory.

    Raises:
        ValueError: memory or a precision is not positive.
    """
    precision = checked_precision(problem, precision)
    require_positive(memory=memory)
    rows = problem.output_elements // problem.out_channels
    inner = problem.filter_elements // problem.out_channels
    columns = problem.out_channels // problem.groups
    return problem.groups * matmul_bound(rows, inner, columns, memory, precision)


def im2col_traffic(problem: ConvProblem, memory: float, precision: Precision | None = None) -> float:
    """Bytes of im2col: the image is read, the lowered matrix written, then multiplied.

    Args:
        problem: the convolution.
        memory: M, bytes of the fast memory.
        precision: bytes of an element; None for two bytes each.

    Returns:
        Bytes between the fast and the slow memory.

    Raises:
        ValueError: memory or a precision is not positive.
    """
    precision = checked_precision(problem, precision)
    lowered = problem.multiply_adds * problem.groups // problem.out_channels
    copied = precision.image * (problem.image_elements + lowered)
    return copied + matmul_traffic(problem, memory, precision)


def winograd_traffic(problem: ConvProblem, memory: float, precision: Precision | None = None, tile: int = 4) -> float:
    """Bytes of Winograd's convolution F(tile x tile, R x S): transforms of image, filter and output, and products.

    A strided convolution is one of stride 1 on stride_h * stride_w phases of the image, as further channels.

    Args:
        problem: the convolution.
        memory: M, bytes of the fast memory.
        precision: bytes of an element; None for two bytes each.
        tile: rows and columns of the outputs that a tile gives.

    Returns:
        Bytes between the fast and the slow memory.

    Raises:
        ValueError: memory, a precision or tile is not positive.
    """
    precision = checked_precision(problem, precision)
    require_positive(memory=memory, tile=tile)
    points = math.prod(tile + taps - 1 for taps in problem.phase_taps)
    tiles = problem.batch * -(-problem.out_height // tile) * -(-problem.out_width // tile)
    channels = problem.in_channels * math.prod(problem.phases)
    transformed = (
        precision.image * points * tiles * channels
        + precision.filter * points * channels * (problem.out_channels // problem.groups)
        + precision.output * points * tiles * problem.out_channels
    )
    inner, columns = channels // problem.groups, problem.out_channels // problem.groups
    products = points * problem.groups * matmul_bound(tiles, inner, columns, memory, precision)
    return problem.compulsory_bytes(precision) + transformed + products


def fft_traffic(problem: ConvProblem, memory: float, precision: Precision | None = None) -> float:
    """Bytes of the convolution by real FFTs as large as the padded image: transforms and products of complex numbers.

    A transform of n elements reads and writes them in max(1, log n / log M) passes (Hong and Kung), M in elements.

    Args:
        problem: the convolution; a strided one is split into phases as in winograd_traffic.
        memory: M, bytes of the fast memory.
        precision: bytes of a real element; a complex one has twice as many. None for two bytes each.

    Returns:
        Bytes between the fast and the slow memory.

    Raises:
        ValueError: memory is not larger than an element, or a precision is not positive.
    """
    precision = checked_precision(problem, precision)
    require_positive(memory=memory)
    if memory <= max(precision):
        raise ValueError(f"memory must be larger than an element of {max(precision)} bytes, but is {memory}.")
    rows = problem.out_height + problem.phase_taps[0] - 1
    columns = problem.out_width + problem.phase_taps[1] - 1
    frequencies = rows * (columns // 2 + 1)
    channels = problem.in_channels * math.prod(problem.phases)
    outputs = problem.out_channels // problem.groups
    transforms = (problem.batch * channels, channels * outputs, problem.batch * problem.out_channels)
    moved = 0.0
    for count, element in zip(transforms, precision, strict=True):
        passes = max(1.0, math.log(rows * columns) / math.log(memory / element))
        moved += passes * count * element * (rows * columns + 2 * frequencies)
    complex_precision = Precision(*(2.0 * element for element in precision))
    product = matmul_bound(problem.batch, channels // problem.groups, outputs, memory, complex_precision)
    return moved + frequencies * problem.groups * product


def traffic_curves(
    problem: ConvProblem, memories: npt.ArrayLike, precision: Precision | None = None
) -> dict[str, npt.NDArray[np.float64]]:
    """All of them over a range of fast memories, and the direct convolution's lower bound, which LP tiles come near.

    Args:
        problem: the convolution.
        memories: bytes of fast memory, shape (n,).
        precision: bytes of an element; None for two bytes each.

    Returns:
        Bytes of shape (n,), by "direct lower bound", "matmul", "im2col", "Winograd", "FFT" and "naive".

    Raises:
        ValueError: a memory is not larger than an element, or a precision is not positive.
    """
    sizes = real_array("memories", memories, 0, excluded=True).tolist()
    if not isinstance(sizes, list):
        raise ValueError(f"memories must have one dimension, but is {memories!r}.")
    curves = {
        "direct lower bound": [communication_bound(problem, memory, precision).bytes for memory in sizes],
        "matmul": [matmul_traffic(problem, memory, precision) for memory in sizes],
        "im2col": [im2col_traffic(problem, memory, precision) for memory in sizes],
        "Winograd": [winograd_traffic(problem, memory, precision) for memory in sizes],
        "FFT": [fft_traffic(problem, memory, precision) for memory in sizes],
        "naive": [naive_traffic(problem, precision) for _ in sizes],
    }
    return {name: np.array(values) for name, values in curves.items()}
