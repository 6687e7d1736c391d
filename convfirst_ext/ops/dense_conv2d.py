"""Direct convolution over all channels."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext.ops.checks import IntOrPair
from convfirst_ext.ops.single import convolve


def dense_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    *,
    activation: str = "identity",
) -> Tensor:
    """Convolves all channels at once: ``activation(F.conv2d(...))``. The stem of a network, above all.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        weight: (O, C, R, S), input's dtype.
        bias: (O,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``.
        dilation: one int or (vertical, horizontal).
        activation: one of ``ACTIVATIONS``, applied to the fp32 sums before they are rounded.

    Returns:
        (N, O, H', W') in input's dtype and the memory format ``F.conv2d`` would give.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    return convolve("dense", input, weight, bias, stride, padding, dilation, 1, activation)
