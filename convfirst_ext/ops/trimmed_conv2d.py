"""Convolution with its filter trimmed to the taps that meet the image (ConvV2)."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext.ops.checks import IntOrPair
from convfirst_ext.ops.single import convolve


def trimmed_conv2d(
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
    """``activation(F.conv2d(...))`` without the products of padded zeros (ConvV2 of C-K-S, arXiv 2306.15951).

    Padding never meets a weight: where torch multiplies a padded zero with an infinite or NaN weight, and so gets NaN,
    this skips the product. Elsewhere NaN and infinity spread as in torch.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        weight: (O, C / groups, R, S), input's dtype.
        bias: (O,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``; may exceed the kernel.
        dilation: one int or (vertical, horizontal).
        groups: 1, C, or any number that leaves a multiple of 16 output channels a group.
        activation: one of ``ACTIVATIONS``, applied to the fp32 sums before they are rounded.

    Returns:
        (N, O, H', W') in input's dtype and the memory format ``F.conv2d`` would give.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    if isinstance(input, Tensor) and isinstance(weight, Tensor) and isinstance(groups, int) and groups > 0:
        if input.dim() == weight.dim() == 4 and groups not in (1, input.shape[1]) and weight.shape[0] // groups % 16:
            raise ValueError(
                f"groups must be 1, the input channels, or leave a multiple of 16 output channels a group, "
                f"but {groups} leaves {weight.shape[0] // groups}."
            )
    return convolve("trimmed", input, weight, bias, stride, padding, dilation, groups, activation)
