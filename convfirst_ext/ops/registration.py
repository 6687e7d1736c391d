"""Fake kernels and gradients of the raw operators: what torch.compile, torch.export and autograd need to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
CONVOLUTIONS = ("depthwise_conv2d", "grouped_conv2d", "pointwise_conv2d", "dense_conv2d")


def _output_size(
    input: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int]:
    left, right, top, bottom = padding
    height = (input.shape[2] + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (input.shape[3] + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return height, width


def _empty_output(input: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
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
    size = _output_size(input, weight.shape[2:], stride, padding, dilation)
    return _empty_output(input, weight.shape[0], size)


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
    return _empty_output(input, out_channels, _output_size(input, weight.shape[1:3], stride, padding, dilation))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, stride, padding, dilation, groups = inputs
    ctx.save_for_backward(input, weight)
    ctx.bias_sizes = None if bias is None else [weight.shape[0]]
    ctx.window = (stride, padding, dilation, groups)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Torch's own convolution gradient; asymmetric padding is cut off the gradient of an explicitly padded input."""
    input, weight = ctx.saved_tensors
    stride, (left, right, top, bottom), dilation, groups = ctx.window
    asymmetric = left != right or top != bottom
    padded = F.pad(input, (left, right, top, bottom)) if asymmetric else input
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]]
    grads = torch.ops.aten.convolution_backward(
        grad,
        padded,
        weight,
        ctx.bias_sizes,
        stride,
        [0, 0] if asymmetric else [top, left],
        dilation,
        False,
        [0, 0],
        groups,
        wanted,
    )
    grad_input = grads[0]
    if asymmetric and grad_input is not None:
        grad_input = grad_input[:, :, top : top + input.shape[2], left : left + input.shape[3]]
    return grad_input, grads[1], grads[2], None, None, None, None


def _fake_pack_weight(weight: Tensor) -> Tensor:
    out_channels, group_in, rows, columns = weight.shape
    blocks = (out_channels + LANES - 1) // LANES
    return weight.new_empty((blocks, rows, columns, group_in, LANES), dtype=torch.float32)


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
    return _empty_output(input, out_channels, _output_size(input, conv_weight.shape[1:3], stride, padding, dilation))


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
    return _empty_output(input, out_channels, _output_size(input, conv_weight.shape[1:3], stride, padding, dilation))


for _name in CONVOLUTIONS:
    torch.library.register_fake(f"convfirst::{_name}", _fake_plain)
    torch.library.register_fake(f"convfirst::{_name}_packed", _fake_packed)
    torch.library.register_autograd(f"convfirst::{_name}", _backward, setup_context=_save)
torch.library.register_fake("convfirst::pack_weight", _fake_pack_weight)
torch.library.register_fake("convfirst::depthwise_separable_packed", _fake_depthwise_separable)
torch.library.register_fake("convfirst::mbconv_packed", _fake_mbconv)
