"""Depthwise-separable convolution as one operator."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext.ops import packed
from convfirst_ext.ops.activation import check_activation
from convfirst_ext.ops.autocast import autocast
from convfirst_ext.ops.checks import (
    IntOrPair,
    check_bias,
    check_input,
    check_kernel,
    check_residual,
    check_weight,
    check_window,
    output_size,
)
from convfirst_ext.ops.conv_bias_block import BiasLayer, conv_bias_block
from convfirst_ext.ops.layout import restore_layout, to_channels_last
from convfirst_ext.ops.single import wants_gradient


def depthwise_separable(
    input: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor | None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    *,
    depthwise_activation: str = "identity",
    pointwise_activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """Depthwise, activation, pointwise, activation, residual; the tensor in between stays in the cache.

    ``h = depthwise_activation(conv2d(input, depthwise_weight, depthwise_bias, ..., groups=C))``;
    ``pointwise_activation(conv2d(h, pointwise_weight, pointwise_bias)) + residual``.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        depthwise_weight: (C, 1, R, S).
        depthwise_bias: (C,) or None.
        pointwise_weight: (O, C, 1, 1).
        pointwise_bias: (O,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``.
        dilation: one int or (vertical, horizontal).
        depthwise_activation: after the depthwise convolution.
        pointwise_activation: after the pointwise convolution.
        residual: (N, O, H', W') or None, added last.

    Returns:
        (N, O, H', W') in input's dtype and the memory format of ``F.conv2d``. Where a gradient is wanted only what the
        two convolutions give is written and kept.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.

    Source: the CS267 report, section 4.3, with tiles that its fused kernel lacked.
    """
    input, depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias, residual = autocast(
        input, depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias, residual
    )
    check_input(input)
    channels = input.shape[1]
    window = check_window(stride, padding, dilation)
    check_kernel(depthwise_weight, input, "depthwise_weight")
    if tuple(depthwise_weight.shape[:2]) != (channels, 1):
        raise ValueError(
            f"depthwise_weight must have shape ({channels}, 1, R, S), but has shape {tuple(depthwise_weight.shape)}."
        )
    check_bias(depthwise_bias, channels, input, "depthwise_bias")
    check_weight(pointwise_weight, input, "pointwise_weight")
    if tuple(pointwise_weight.shape[1:]) != (channels, 1, 1):
        raise ValueError(
            f"pointwise_weight must have shape (O, {channels}, 1, 1), but has shape {tuple(pointwise_weight.shape)}."
        )
    out_channels = pointwise_weight.shape[0]
    check_bias(pointwise_bias, out_channels, input, "pointwise_bias")
    check_activation(depthwise_activation, "depthwise_activation")
    check_activation(pointwise_activation, "pointwise_activation")
    size = output_size(input, depthwise_weight.shape[2:], window)
    check_residual(residual, (input.shape[0], out_channels, *size), input)

    parameters = (depthwise_weight, depthwise_bias, pointwise_weight, pointwise_bias)
    if input.is_cuda or wants_gradient(input, *parameters, residual):
        layers = [
            BiasLayer("depthwise", depthwise_weight, depthwise_bias, window, channels, depthwise_activation),
            BiasLayer("pointwise", pointwise_weight, pointwise_bias, check_window(1, 0, 1), 1, pointwise_activation),
        ]
        output = conv_bias_block(input, layers, None, residual)
    else:
        output = packed.mbconv(
            to_channels_last(input),
            None,
            None,
            packed.pack_weight(depthwise_weight),
            packed.pack_bias(depthwise_bias, channels),
            None,
            packed.pack_weight(pointwise_weight),
            packed.pack_bias(pointwise_bias, out_channels),
            None if residual is None else to_channels_last(residual),
            *window,
            channels,
            channels,
            out_channels,
            depthwise_activation,
            pointwise_activation,
        )
    return restore_layout(output, input, depthwise_weight)
