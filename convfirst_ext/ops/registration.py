"""Fake kernels and gradients of the raw operators: what torch.compile, torch.export and autograd need to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import gradients

LANES = 16
CONVOLUTIONS = (
    *("depthwise_conv2d", "grouped_conv2d", "pointwise_conv2d", "dense_conv2d", "trimmed_conv2d"),
    "winograd_conv2d",
)


def output_size(
    input: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    """Height and width of a convolution's output; padding is left, right, top, bottom."""
    left, right, top, bottom = padding
    height = (input.shape[2] + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (input.shape[3] + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return height, width


def empty_channels_last(input: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """An uninitialised (N, channels, *size) tensor like input, in channels_last."""
    return input.new_empty_strided(
        (input.shape[0], channels, *size), (size[0] * size[1] * channels, 1, size[1] * channels, channels)
    )


def _fake_plain(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    size = output_size(input, weight.shape[2:], stride, padding, dilation)
    return empty_channels_last(input, weight.shape[0], size)


def _fake_packed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    out_channels: int,
    activation: str,
) -> Tensor:
    return empty_channels_last(input, out_channels, output_size(input, weight.shape[1:3], stride, padding, dilation))


def _fake_winograd(input: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Its kernels are 3x3, of whatever size the packed ones are."""
    return _fake_packed(input, weight[:, :3, :3], *rest, **options)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, stride, padding, dilation, groups = inputs
    ctx.save_for_backward(input, weight)
    ctx.bias_sizes = None if bias is None else [weight.shape[0]]
    ctx.window = (stride, padding, dilation, groups)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Our own gradients where they pay, torch's otherwise."""
    input, weight = ctx.saved_tensors
    window = ctx.window
    wants_input, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    if gradients.has_cuda_kernels(grad, weight, window[0], *window[2:]):
        of_all = gradients.cuda_gradients(grad, input, weight, window, ctx.needs_input_grad[:3])
        return *of_all, None, None, None, None
    of_input: Tensor | None = None
    of_weight: Tensor | None = None
    of_bias: Tensor | None = None
    if wants_weight and gradients.has_both(grad, input, weight, *window):
        of_input, of_weight = gradients.both(grad, input, weight, window, wants_input)
        of_bias = gradients.bias_gradient(grad) if wants_bias else None
        return of_input, of_weight, of_bias, None, None, None, None
    if wants_input and gradients.pays_for_input(weight, *window[2:]):
        of_input = gradients.input_gradient(grad, weight, input.shape[2:], *window)
    if wants_weight and gradients.pays_for_weight(weight, window[0], *window[2:]):
        of_weight = gradients.weight_gradient(input, grad, weight.shape[2:], *window)
    wanted = [wants_input and of_input is None, wants_weight and of_weight is None, wants_bias]
    rest = torch_backward(grad, input, weight, ctx.bias_sizes, window, wanted)
    of_input = rest[0] if of_input is None else of_input
    return of_input, rest[1] if of_weight is None else of_weight, rest[2], None, None, None, None


def torch_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    window: tuple[Any, ...],
    wanted: list[bool],
) -> list[Tensor | None]:
    """Torch's own convolution gradient, that of the input by Winograd's kernel where there is one.

    Asymmetric padding is cut off the gradient of an explicitly padded input.
    """
    if wanted[0] and gradients.filters_input(grad, weight, window):
        rest = torch_backward(grad, input, weight, bias_sizes, window, [False, *wanted[1:]])
        return [gradients.filtered_input(grad, weight, window[1]), *rest[1:]]
    if not any(wanted):
        return [None, None, None]
    stride, (left, right, top, bottom), dilation, groups = window
    asymmetric = left != right or top != bottom
    padded = F.pad(input, (left, right, top, bottom)) if asymmetric else input
    padding = [0, 0] if asymmetric else [top, left]
    of_input, of_weight, of_bias = torch.ops.aten.convolution_backward(
        grad, padded, weight, bias_sizes, stride, padding, dilation, False, [0, 0], groups, wanted
    )
    if asymmetric and of_input is not None:
        of_input = of_input[:, :, top : top + input.shape[2], left : left + input.shape[3]]
    return [of_input, of_weight, of_bias]


def _fake_pack_weight(weight: Tensor) -> Tensor:
    out_channels, group_in, rows, columns = weight.shape
    blocks = (out_channels + LANES - 1) // LANES
    return weight.new_empty((blocks, rows, columns, group_in, LANES), dtype=torch.float32)


def _fake_pack_winograd_weight(weight: Tensor, tile: int) -> Tensor:
    return _fake_pack_weight(weight.new_empty((*weight.shape[:2], tile + 2, tile + 2)))


def _fake_depthwise_separable(
    input: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out_channels: int,
    activation: str,
    output_activation: str,
) -> Tensor:
    return empty_channels_last(
        input, out_channels, output_size(input, conv_weight.shape[1:3], stride, padding, dilation)
    )


def _fake_mbconv(
    input: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    hidden_channels: int,
    out_channels: int,
    *rest: Any,
) -> Tensor:
    return empty_channels_last(
        input, out_channels, output_size(input, conv_weight.shape[1:3], stride, padding, dilation)
    )


for _name in CONVOLUTIONS:
    torch.library.register_fake(f"convfirst::{_name}", _fake_plain)
    if _name != "winograd_conv2d":
        torch.library.register_fake(f"convfirst::{_name}_packed", _fake_packed)
    torch.library.register_autograd(f"convfirst::{_name}", _backward, setup_context=_save)
torch.library.register_fake("convfirst::winograd_conv2d_packed", _fake_winograd)
torch.library.register_fake("convfirst::pack_weight", _fake_pack_weight)
torch.library.register_fake("convfirst::pack_winograd_weight", _fake_pack_winograd_weight)
torch.library.register_fake("convfirst::depthwise_separable_packed", _fake_depthwise_separable)
torch.library.register_fake("convfirst::mbconv_packed", _fake_mbconv)
