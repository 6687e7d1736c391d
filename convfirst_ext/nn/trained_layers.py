"""Rows of convolution, norm and activation modules that train as one operator, and else run one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convfirst_ext import ops
from convfirst_ext.nn.activation import activation_name
from convfirst_ext.nn.squeeze_excite import SqueezeExcite
from convfirst_ext.nn.trained_module import is_plain_norm, is_watched, takes, update_running
from convfirst_ext.ops.conv_norm_block import ConvNorm, conv_norm_block
from convfirst_ext.ops.layout import restore_layout
from convfirst_ext.ops.normed_activation import ACTIVATIONS


class Layer(NamedTuple):
    """A convolution without bias, its batch norm, and the activation behind it if that is a module of its own."""

    convolution: nn.Module
    norm: nn.Module
    activation: nn.Module | None = None


class Squeeze(NamedTuple):
    """Squeeze-excite: its convolutions, the activations behind them, and the index of the layer that it follows."""

    reduce: nn.Module
    expand: nn.Module
    activations: tuple[str, str]
    behind: int


def run_layers(
    input: Tensor,
    layers: Sequence[Layer],
    *,
    squeeze_excite: nn.Module | None = None,
    behind: int = -1,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(norm(convolution(...)))`` layer after layer, plus the residual; fused in training where that fits.

    Args:
        input: (N, C, H, W).
        layers: at least one.
        squeeze_excite: ``nn.SqueezeExcite`` that weights what a layer gives, or None.
        behind: index of that layer.
        residual: of the output's shape, or None.
    """
    output = _run_fused(input, layers, squeeze_excite, behind, residual) if takes(input) else None
    if output is not None:
        return output
    output = input
    for index, (convolution, norm, activation) in enumerate(layers):
        output = norm(convolution(output))
        output = output if activation is None else activation(output)
        if squeeze_excite is not None and index == behind:
            output = squeeze_excite(output)
    return output if residual is None else output + residual


def _run_fused(
    input: Tensor, layers: Sequence[Layer], squeeze_excite: nn.Module | None, behind: int, residual: Tensor | None
) -> Tensor | None:
    activations = [activation_name(layer.activation) for layer in layers]
    if any(name not in ACTIVATIONS for name in activations):
        return None
    squeeze = None
    if squeeze_excite is not None:
        if not isinstance(squeeze_excite, SqueezeExcite) or any(is_watched(m) for m in squeeze_excite.modules()):
            return None
        inner = activation_name(squeeze_excite.act1), activation_name(squeeze_excite.gate)
        has_biases = squeeze_excite.conv_reduce.bias is not None and squeeze_excite.conv_expand.bias is not None
        if None in inner or not has_biases:
            return None
        squeeze = Squeeze(squeeze_excite.conv_reduce, squeeze_excite.conv_expand, inner, behind)  # type: ignore[arg-type]
    return train_layers(input, layers, activations, squeeze=squeeze, residual=residual)  # type: ignore[arg-type]


def train_layers(
    input: Tensor,
    layers: Sequence[Layer],
    activations: Sequence[str],
    *,
    squeeze: Squeeze | None = None,
    residual: Tensor | None = None,
) -> Tensor | None:
    """The result by ``conv_norm_block``, or None where these layers, or this input, do not allow it.

    Args:
        input: one that ``takes`` accepts.
        layers: convolutions, each with its batch norm.
        activations: behind each norm, whether inside of its module or not; of ``normed_activation.ACTIVATIONS``.
        squeeze: squeeze-excite, or None.
        residual: added at the end.
    """
    sizes = _sizes(input, layers)
    if sizes is None:
        return None
    plan = []
    for (conv, norm, _), activation in zip(layers, activations, strict=True):
        vertical, horizontal = conv.padding  # type: ignore[misc]
        sides = (horizontal, horizontal, vertical, vertical)
        plan.append(ConvNorm(conv.stride, sides, conv.dilation, conv.groups, norm.eps, activation))  # type: ignore[arg-type]
    squeeze_excite = None
    if squeeze is not None:
        reduce, expand = squeeze.reduce, squeeze.expand
        weights = (reduce.weight, reduce.bias, expand.weight, expand.bias)
        squeeze_excite = ops.SqueezeExcite(*weights, *squeeze.activations)  # type: ignore[arg-type]
    output, statistics = conv_norm_block(
        input,
        plan,
        [layer.convolution.weight for layer in layers],  # type: ignore[misc]
        [layer.norm.weight for layer in layers],  # type: ignore[misc]
        [layer.norm.bias for layer in layers],  # type: ignore[misc]
        squeeze_excite=squeeze_excite,
        squeezed=-1 if squeeze is None else squeeze.behind,
        residual=residual,
    )
    for layer, pixels, (mean, variance) in zip(layers, sizes, statistics, strict=True):
        update_running(layer.norm, mean, variance, pixels)  # type: ignore[arg-type]
    return restore_layout(output, input, *(layer.convolution.weight for layer in layers))  # type: ignore[misc, arg-type]


def _sizes(input: Tensor, layers: Sequence[Layer]) -> list[int] | None:
    """The pixels that every layer gives, or None where one is not what the operator takes or gives a single pixel."""
    channels, size, pixels = input.shape[1], tuple(input.shape[2:]), []
    for conv, norm, activation in layers:
        if not _is_plain_convolution(conv) or not is_plain_norm(norm) or is_watched(conv) or is_watched(norm):
            return None
        if activation is not None and is_watched(activation):
            return None
        assert isinstance(conv, nn.Conv2d)
        if conv.in_channels != channels or norm.num_features != conv.out_channels:
            return None
        channels, size = conv.out_channels, _output_size(conv, size)
        pixels.append(input.shape[0] * size[0] * size[1])
        if min(size) < 1 or pixels[-1] < 2:
            return None
    return pixels


def _is_plain_convolution(conv: nn.Module) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and conv.weight.dtype == torch.float32
    )


def _output_size(conv: nn.Conv2d, size: tuple[int, ...]) -> tuple[int, int]:
    height, width = (
        (size[axis] + 2 * int(conv.padding[axis]) - conv.dilation[axis] * (conv.kernel_size[axis] - 1) - 1)
        // conv.stride[axis]
        + 1
        for axis in (0, 1)
    )
    return height, width
