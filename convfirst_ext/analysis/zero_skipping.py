"""Multiply-adds with and without the zeros that padding and strides put in (C-K-S, arXiv 2306.15951)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convfirst_ext.analysis.arguments import four_sizes, int_pair

Pair = int | Sequence[int]


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one layer.

    Attributes:
        with_zeros: of the dense computation on a padded, or zero-inserted, image.
        without_zeros: those whose both factors are elements of the tensors.
    """

    with_zeros: int
    without_zeros: int

    @property
    def saved(self) -> float:
        """The fraction that skipping the zeros saves, 0 to 1."""
        return 1.0 - self.without_zeros / self.with_zeros if self.with_zeros else 0.0


def conv2d_multiply_adds(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> MultiplyAdds:
    """A convolution, whose padding is zeros (ConvV2).

    Args:
        input_shape: (N, C, H, W).
        weight_shape: (O, C / groups, R, S).
        stride: one int or (vertical, horizontal).
        padding: one int or (vertical, horizontal).
        dilation: one int or (vertical, horizontal).

    Returns:
        Products for all N images; bias not counted.

    Raises:
        ValueError: the padded image is smaller than the dilated kernel.
    """
    batch, _, *size = four_sizes("input_shape", input_shape, 0)
    out_channels, group_in, *kernel = four_sizes("weight_shape", weight_shape, 1)
    stride, padding, dilation = _window(stride, padding, dilation)
    dense, met = 1, 1
    for axis in (0, 1):
        outputs = _outputs(size[axis], kernel[axis], *_at(axis, stride, padding, dilation))
        pixels = _met_pixels(outputs, kernel[axis], *_at(axis, stride, padding, dilation))
        dense *= outputs * kernel[axis]
        met *= int(((pixels >= 0) & (pixels < size[axis])).sum())
    return MultiplyAdds(batch * out_channels * group_in * dense, batch * out_channels * group_in * met)


def conv_transpose2d_multiply_adds(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
) -> MultiplyAdds:
    """A transposed convolution, dense on an image with stride - 1 zeros between its pixels (KS-deconv).

    Args:
        input_shape: (N, C, H, W).
        weight_shape: (C, O / groups, R, S).
        stride: one int or (vertical, horizontal).
        padding: one int or (vertical, horizontal).
        output_padding: one int or (vertical, horizontal).
        dilation: one int or (vertical, horizontal).

    Returns:
        Products for all N images; bias not counted.

    Raises:
        ValueError: padding leaves an output of negative size.
    """
    batch, _, *size = four_sizes("input_shape", input_shape, 0)
    channels, group_out, *kernel = four_sizes("weight_shape", weight_shape, 1)
    stride, padding, dilation = _window(stride, padding, dilation)
    output_padding = int_pair("output_padding", output_padding, 0)
    dense, met = 1, 1
    for axis in (0, 1):
        step, pad, spread = _at(axis, stride, padding, dilation)
        (extra,) = _at(axis, output_padding)
        outputs = (size[axis] - 1) * step - 2 * pad + spread * (kernel[axis] - 1) + 1 + extra
        if outputs < 0:
            raise ValueError(f"padding must leave an output of no negative size, but leaves {outputs}.")
        distance = np.arange(outputs)[:, None] + pad - spread * np.arange(kernel[axis])[None, :]
        dense *= outputs * kernel[axis]
        met *= int(((distance % step == 0) & (distance >= 0) & (distance // step < size[axis])).sum())
    return MultiplyAdds(batch * channels * group_out * dense, batch * channels * group_out * met)


def weight_grad_multiply_adds(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> MultiplyAdds:
    """The weight gradient of a convolution, dense with the output's gradient spread by the stride (Sk-dilated).

    Args:
        input_shape: (N, C, H, W).
        weight_shape: (O, C / groups, R, S).
        stride: one int or (vertical, horizontal).
        padding: one int or (vertical, horizontal).
        dilation: one int or (vertical, horizontal).

    Returns:
        Products for all N images.

    Raises:
        ValueError: the padded image is smaller than the dilated kernel.
    """
    forward = conv2d_multiply_adds(input_shape, weight_shape, stride, padding, dilation)
    batch, _, *size = input_shape
    out_channels, group_in, *kernel = weight_shape
    stride, padding, dilation = _window(stride, padding, dilation)
    dense = batch * out_channels * group_in
    for axis in (0, 1):
        step, pad, spread = _at(axis, stride, padding, dilation)
        outputs = _outputs(size[axis], kernel[axis], step, pad, spread)
        dense *= kernel[axis] * ((outputs - 1) * step + 1)
    return MultiplyAdds(dense, forward.without_zeros)


def _window(stride: Pair, padding: Pair, dilation: Pair) -> tuple[tuple[int, int], ...]:
    return int_pair("stride", stride, 1), int_pair("padding", padding, 0), int_pair("dilation", dilation, 1)


def _at(axis: int, *values: Pair) -> tuple[int, ...]:
    return tuple(value if isinstance(value, int) else value[axis] for value in values)


def _outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    slack = size + 2 * padding - dilation * (kernel - 1) - 1
    if slack < 0:
        raise ValueError(f"input_shape must be at least as large as the kernel with padding, but has a size of {size}.")
    return slack // stride + 1


def _met_pixels(outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """The input pixel of every output and kernel element; outside the image it is padding."""
    return np.arange(outputs)[:, None] * stride - padding + dilation * np.arange(kernel)[None, :]
