"""A trainable row of convolutions with bias and activation: what fused operators run where a gradient is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convfirst_ext.ops import normed_activation
from convfirst_ext.ops.activation import apply_activation
from convfirst_ext.ops.checks import Window
from convfirst_ext.ops.conv_norm_block import ConvNorm, conv_norm_block
from convfirst_ext.ops.normed_window import has_kernel
from convfirst_ext.ops.single import run_checked
from convfirst_ext.ops.squeeze_excite import SqueezeExcite


class BiasLayer(NamedTuple):
    """A convolution and the activation behind it.

    Attributes:
        kernel: "pointwise", "depthwise" or "grouped".
        weight: (O, C / groups, R, S); pointwise, depthwise or of group width 8.
        bias: (O,) or None.
        window: stride, padding, dilation.
        groups: number of groups.
        activation: one of ``ops.ACTIVATIONS``.
    """

    kernel: str
    weight: Tensor
    bias: Tensor | None
    window: Window
    groups: int
    activation: str


def conv_bias_block(
    input: Tensor, layers: Sequence[BiasLayer], squeeze_excite: SqueezeExcite | None, residual: Tensor | None
) -> Tensor:
    """Layer after layer, squeeze-excite before the last one, plus the residual.

    As one operator that keeps the convolutions' outputs only, in float32 and with activations whose slope the kernels
    know; else layer by layer.

    Args:
        input: (N, C, H, W).
        layers: checked; the last is pointwise where squeeze-excite is given.
        squeeze_excite: checked, or None.
        residual: of the output's shape, or None.
    """
    if _is_fused(input, layers, squeeze_excite):
        plan = [
            ConvNorm(*layer.window, layer.groups, activation=layer.activation, batch_norm=False)  # type: ignore[arg-type]
            for layer in layers
        ]
        return conv_norm_block(
            input,
            plan,
            [layer.weight for layer in layers],
            [None] * len(layers),
            [_bias_of(layer) for layer in layers],
            squeeze_excite=squeeze_excite,
            squeezed=-1 if squeeze_excite is None else len(layers) - 2,
            residual=residual,
        ).output
    output = input
    for index, layer in enumerate(layers):
        if squeeze_excite is not None and index == len(layers) - 1:
            output = output * gate_of(output, squeeze_excite)
        output = _run(output, layer)
    return output if residual is None else output + residual


def _is_fused(input: Tensor, layers: Sequence[BiasLayer], squeeze_excite: SqueezeExcite | None) -> bool:
    if torch.compiler.is_compiling() or input.dtype != torch.float32 or input.device.type != "cpu":
        return False
    if input.numel() == 0 or any(layer.weight.numel() == 0 for layer in layers):
        return False
    if squeeze_excite is not None and None in squeeze_excite[:4]:
        return False
    fits = (has_kernel(layer.weight, *layer.window, layer.groups) for layer in layers)
    return all(fits) and all(layer.activation in normed_activation.ACTIVATIONS for layer in layers)


def _bias_of(layer: BiasLayer) -> Tensor:
    return layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias


def _run(input: Tensor, layer: BiasLayer) -> Tensor:
    kernel, weight, bias, window, groups, activation = layer
    return run_checked(kernel, input, weight, bias, window, groups, activation)


def gate_of(hidden: Tensor, se: SqueezeExcite) -> Tensor:
    """What squeeze-excite multiplies each channel of each image by, (N, C, 1, 1)."""
    plain = Window((1, 1), (0, 0, 0, 0), (1, 1))
    mean = hidden.mean((2, 3), keepdim=True)
    squeezed = run_checked("pointwise", mean, se.reduce_weight, se.reduce_bias, plain, 1, se.activation)
    return apply_activation(se.gate, run_checked("pointwise", squeezed, se.expand_weight, se.expand_bias, plain, 1))
