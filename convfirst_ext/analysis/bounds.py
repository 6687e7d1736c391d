"""Lower bounds of the communication of a convolution (Chen, Demmel, Dinh, Haberle, Holtz, PASC 2022 and 2204.08279)."""

from __future__ import annotations

import math
from typing import NamedTuple

from convfirst_ext.analysis.arguments import require_positive
from convfirst_ext.analysis.conv_problem import ConvProblem, Precision, checked_precision


class CommunicationBound(NamedTuple):
    """Terms of the bound, in bytes; one that is negative says nothing.

    Attributes:
        general: of Hoelder, Brascamp and Lieb's inequality for filters of any size.
        small_filter: the stronger one where the filter is small against the memory.
        compulsory: every array moves once; 0 in the parallel bound, where arrays may lie in the processors' memories.
    """

    general: float
    small_filter: float
    compulsory: float

    @property
    def bytes(self) -> float:
        """The largest term, at least 0."""
        return max(0.0, *self)


def communication_bound(problem: ConvProblem, memory: float, precision: Precision | None = None) -> CommunicationBound:
    """Bytes that any order of a convolution's multiply-adds must move through one fast memory (the main theorem).

    ::

        X >= max{C_p G / M - M,
                 2 sqrt(p_I p_F p_O s_w s_h / (w_F h_F)) G / sqrt(M) - 2 M,
                 p_I |I| + p_F |F| + p_O |O|}

    where C_p = (p_I + p_F + p_O)^2 / 4 if no p exceeds the sum of the others, else p_j (p_k + p_l) of the largest p_j;
    with words of one size the constants are 9/4 and 2, as the slides print. It holds for every number of groups, since
    the inequality's exponents sum to more than 1. The theorem supposes strides of at most the filter; a larger one
    counts as the filter.

    Args:
        problem: the convolution.
        memory: M, bytes of the fast memory.
        precision: p, bytes of an element; None for two bytes each.

    Returns:
        The three terms, in bytes; the largest is the bound.

    Raises:
        ValueError: memory or a precision is not positive.
    """
    precision = checked_precision(problem, precision)
    general, small_filter = _terms(problem, memory, precision, processors=1)
    return CommunicationBound(general, small_filter, problem.compulsory_bytes(precision))


def parallel_communication_bound(
    problem: ConvProblem, memory: float, processors: int, precision: Precision | None = None
) -> CommunicationBound:
    """Bytes that some processor of P must send or receive: the first two terms with G / P multiply-adds.

    Args:
        problem: the convolution, all of it.
        memory: M, bytes of the memory of each processor.
        processors: P.
        precision: p, bytes of an element; None for two bytes each.

    Returns:
        The first two terms, in bytes; the third is 0.

    Raises:
        ValueError: memory, processors or a precision is not positive.
    """
    precision = checked_precision(problem, precision)
    general, small_filter = _terms(problem, memory, precision, processors)
    return CommunicationBound(general, small_filter, 0.0)


def matmul_bound(rows: float, inner: float, columns: float, memory: float, precision: Precision) -> float:
    """Bytes that a (rows, inner) times (inner, columns) product must move: the convolution's bound for a 1x1 filter.

    Args:
        rows: pixels of the left matrix, whose elements have precision.image.
        inner: length of the sums.
        columns: of the right matrix, whose elements have precision.filter.
        memory: M, bytes of the fast memory.
        precision: bytes of an element.
    """
    product = rows * inner * columns
    compulsory = precision.image * rows * inner + precision.filter * inner * columns + precision.output * rows * columns
    return max(compulsory, 2.0 * math.sqrt(math.prod(precision) / memory) * product - 2.0 * memory)


def _terms(problem: ConvProblem, memory: float, precision: Precision, processors: int) -> tuple[float, float]:
    require_positive(memory=memory, processors=processors)
    work = problem.multiply_adds / processors
    taps = math.prod(max(1.0, k / s) for k, s in zip(problem.kernel, problem.stride, strict=True))
    general = _constant(precision) * work / memory - memory
    small_filter = 2.0 * math.sqrt(math.prod(precision) / (taps * memory)) * work - 2.0 * memory
    return general, small_filter


def _constant(precision: Precision) -> float:
    """M^2 over the most multiply-adds between M bytes of traffic; the exponents 2 p_j / sum(p) must not exceed 1."""
    largest = max(precision)
    rest = sum(precision) - largest
    return largest * rest if largest > rest else sum(precision) ** 2 / 4.0
