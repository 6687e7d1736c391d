"""3x3 convolution by Winograd's minimal filtering: fewer products for the same sums."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import packed
from convfirst_ext.ops.activation import apply_activation, check_activation
from convfirst_ext.ops.autocast import autocast
from convfirst_ext.ops.checks import (
    IntOrPair,
    check_bias,
    check_input,
    check_kernel,
    check_residual,
    check_window,
    output_size,
)
from convfirst_ext.ops.layout import restore_layout, to_channels_last
from convfirst_ext.ops.selection import winograd_kernel
from convfirst_ext.ops.single import run_checked, wants_gradient

TILES = (2, 4)


def winograd_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: IntOrPair = 0,
    *,
    tile: int | None = None,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(F.conv2d(input, weight, bias, padding=padding)) + residual`` for 3x3 kernels, with fewer products.

    A tile of m x m outputs takes (m + 2)^2 products a pair of channels instead of 9 m^2: 2.25 times fewer for m = 2, 4
    times for m = 4. Computed in float32, with errors like those of a direct convolution's longer sums. An infinite or
    NaN pixel makes all outputs of the tiles that read it NaN.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        weight: (O, C, 3, 3), input's dtype.
        bias: (O,) or None.
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``.
        tile: m, 2 or 4; None for what suits the number of channels.
        activation: one of ``ACTIVATIONS``, applied to the fp32 sums before they are rounded.
        residual: (N, O, H', W') or None, added last.

    Returns:
        (N, O, H', W') in input's dtype and the memory format ``F.conv2d`` would give. Where a gradient is wanted tiles
        are 4x4, and fewer than 48 of them, half precision and other devices than the CPU get a direct convolution.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.

    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, equation 8.
    """
    input, weight, bias, residual = autocast(input, weight, bias, residual)
    check_input(input)
    check_kernel(weight, input)
    if tuple(weight.shape[1:]) != (input.shape[1], 3, 3):
        raise ValueError(f"weight must have shape (O, {input.shape[1]}, 3, 3), but has shape {tuple(weight.shape)}.")
    if tile is not None and tile not in TILES:
        raise ValueError(f"tile must be 2, 4 or None, but is {tile!r}.")
    window = check_window(1, padding, 1)
    check_bias(bias, weight.shape[0], input)
    check_activation(activation, "activation")
    size = output_size(input, (3, 3), window)
    check_residual(residual, (input.shape[0], weight.shape[0], *size), input)
    if input.device.type != "cpu":
        output = apply_activation(activation, F.conv2d(F.pad(input, window.padding), weight, bias))
        return output if residual is None else output + residual
    if wants_gradient(input, weight, bias, residual):
        return run_checked("winograd", input, weight, bias, window, 1, activation, residual)
    kernel = winograd_kernel(*weight.shape[:2]) if tile is None else "winograd2" if tile == 2 else "winograd4"
    output = packed.conv2d(
        kernel,
        to_channels_last(input),
        packed.pack_weight_for(kernel, weight),
        packed.pack_bias(bias, weight.shape[0]),
        None if residual is None else to_channels_last(residual),
        *window,
        1,
        weight.shape[0],
        activation,
    )
    return restore_layout(output, input, weight)
