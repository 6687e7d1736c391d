"""Every operator's list of cases."""

from __future__ import annotations

from convfirst_ext.testing import block_cases, convolution_cases, transposed_cases
from convfirst_ext.testing.op_case import OpCase

CASES: dict[str, list[OpCase]] = {
    "conv2d": convolution_cases.conv2d_cases(),
    "depthwise_conv2d": convolution_cases.depthwise_conv2d_cases(),
    "grouped_conv2d": convolution_cases.grouped_conv2d_cases(),
    "dense_conv2d": convolution_cases.dense_conv2d_cases(),
    "trimmed_conv2d": convolution_cases.trimmed_conv2d_cases(),
    "split_conv_transpose2d": transposed_cases.split_conv_transpose2d_cases(),
    "winograd_conv2d": convolution_cases.winograd_conv2d_cases(),
    "pointwise_conv2d": convolution_cases.pointwise_conv2d_cases(),
    "depthwise_separable": block_cases.depthwise_separable_cases(),
    "mbconv": block_cases.mbconv_cases(),
}

OPERATORS = tuple(CASES)


def sample(every: int) -> list[OpCase]:
    """Every ``every``-th case of each operator's list."""
    return [case for cases in CASES.values() for case in cases[::every]]
