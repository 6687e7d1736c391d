"""Depthwise convolution."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext.ops.checks import IntOrPair
from convfirst_ext.ops.single import convolve


def depthwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    *,
    activation: str = "identity",
) -> Tensor:
    """Convolves every channel with its own filters: ``activation(F.conv2d(..., groups=C))``.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        weight: (C * M, 1, R, S) for a channel multiplier M, input's dtype.
        bias: (C * M,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``.
        dilation: one int or (vertical, horizontal).
        activation: one of ``ACTIVATIONS``, applied to the fp32 sums before they are rounded.

    Returns:
        (N, C * M, H', W') in input's dtype and the memory format ``F.conv2d`` would give.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.

    Source: the CS267 report's algorithm 1, channels-last and register-blocked.
    """
    groups = input.shape[1] if isinstance(input, Tensor) and input.dim() == 4 else 1
    return convolve("depthwise", input, weight, bias, stride, padding, dilation, groups, activation)
