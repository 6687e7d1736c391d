"""Grouped convolution."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext.ops.checks import IntOrPair
from convfirst_ext.ops.single import convolve


def grouped_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    activation: str = "identity",
) -> Tensor:
    """Convolves groups of 8, or of a multiple of 16, channels: ``activation(F.conv2d(..., groups=groups))``.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        weight: (C, C / groups, R, S), input's dtype.
        bias: (C,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``.
        dilation: one int or (vertical, horizontal).
        groups: C / 8, or C / (16 m).
        activation: one of ``ACTIVATIONS``, applied to the fp32 sums before they are rounded.

    Returns:
        (N, C, H', W') in input's dtype and the memory format ``F.conv2d`` would give.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.

    Source: Lavin, "On the Efficiency of Convolutional Neural Networks", section 5.3 (group width 8).
    """
    if isinstance(weight, Tensor) and weight.dim() == 4 and isinstance(groups, int) and groups > 0:
        width, out_width = weight.shape[1], weight.shape[0] // groups
        if width != out_width or (width != 8 and width % 16):
            raise ValueError(
                f"groups must leave 8 or a multiple of 16 channels a group on both sides, "
                f"but {groups} leaves {width} and {out_width}."
            )
    return convolve("grouped", input, weight, bias, stride, padding, dilation, groups, activation)
