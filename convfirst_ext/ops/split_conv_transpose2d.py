"""Transposed convolution split by stride phase (KS-deconv)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import gradients, packed
from convfirst_ext.ops.autocast import autocast
from convfirst_ext.ops.checks import (
    IntOrPair,
    Window,
    check_input,
    check_kernel,
    check_transposed,
    transposed_size,
)
from convfirst_ext.ops.cuda_blocks import skips_zeros
from convfirst_ext.ops.layout import restore_layout, to_channels_last
from convfirst_ext.ops.registration import empty_channels_last
from convfirst_ext.ops.single import LARGE, wants_gradient

_raw = torch.ops.convfirst
_plain = _raw.split_conv_transpose2d.default


def split_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """``F.conv_transpose2d`` as small convolutions, one a stride phase, without inserted or padded zeros.

    KS-deconv of C-K-S (arXiv 2306.15951). A zero that torch would insert never meets a weight: an infinite or NaN
    weight spreads only where it meets an input pixel.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        weight: (C, O / groups, R, S), input's dtype.
        bias: (O,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int or (vertical, horizontal): rows and columns cut off the full output on every side.
        output_padding: one int or (vertical, horizontal): added on the lower and right side.
        groups: 1, C, or any number that leaves a multiple of 16 output channels a group.
        dilation: one int or (vertical, horizontal).

    Returns:
        (N, O, H', W') in input's dtype and the memory format ``F.conv_transpose2d`` would give; differentiable.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    input, weight, bias = autocast(input, weight, bias)
    check_input(input)
    check_kernel(weight, input)
    window, extra, group_count = check_transposed(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    group_out = weight.shape[1]
    if group_count not in (1, input.shape[1]) and group_out % packed.LANES:
        raise ValueError(
            f"groups must be 1, the {input.shape[1]} input channels or leave a multiple of 16 output channels a group, "
            f"but leaves {group_out}."
        )
    return run_checked(input, weight, bias, window, extra, group_count)


def run_checked(
    input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, output_padding: tuple[int, int], groups: int
) -> Tensor:
    """``split_conv_transpose2d`` on arguments that are known to be right."""
    dense = to_channels_last(input)
    if input.is_cuda:
        output = _on_cuda(dense, weight, bias, window, output_padding, groups)
    elif weight.numel() >= LARGE or wants_gradient(input, weight, bias):
        output = _plain(dense, weight, bias, window.stride, window.padding, output_padding, window.dilation, groups)
    else:
        channels = weight.shape[1] * groups
        output = packed.conv_transpose2d(
            dense,
            packed.pack_transposed_weight(weight, groups),
            packed.pack_bias(bias, channels),
            *window,
            output_padding,
            groups,
            channels,
        )
    return restore_layout(output, input, weight)


def _on_cuda(
    input: Tensor, weight: Tensor, bias: Tensor | None, window: Window, output_padding: tuple[int, int], groups: int
) -> Tensor:
    """By the zero-skipping kernel, or by torch where there is none or padding is uneven."""
    left, right, top, bottom = window.padding
    if skips_zeros(input, weight, groups):
        weight = weight.contiguous(memory_format=torch.channels_last)
        return _plain(input, weight, bias, window.stride, window.padding, output_padding, window.dilation, groups)
    output = F.conv_transpose2d(input, weight, bias, window.stride, 0, output_padding, groups, window.dilation)
    return output[:, :, top : output.shape[2] - bottom, left : output.shape[3] - right]


def _fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    size = transposed_size(input, weight.shape[2:], Window(stride, padding, dilation), output_padding)  # type: ignore[arg-type]
    return empty_channels_last(input, weight.shape[1] * groups, size)


def _fake_packed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    out_channels: int,
    activation: str,
) -> Tensor:
    size = transposed_size(input, weight.shape[1:3], Window(stride, padding, dilation), output_padding)  # type: ignore[arg-type]
    return empty_channels_last(input, out_channels, size)


def _fake_pack(weight: Tensor, groups: int) -> Tensor:
    channels, group_out, rows, columns = weight.shape
    blocks = -(-group_out * groups // packed.LANES)
    return weight.new_empty((blocks, rows, columns, channels // groups, packed.LANES), dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, stride, padding, output_padding, dilation, groups = inputs
    ctx.save_for_backward(input, weight)
    ctx.bias_sizes = None if bias is None else [output.shape[1]]
    ctx.window = (stride, padding, output_padding, dilation, groups)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Depthwise by the zero-skipping kernels, the rest by torch; an uneven cut is undone first."""
    input, weight = ctx.saved_tensors
    stride, padding, output_padding, dilation, groups = ctx.window
    of_input = of_weight = None
    if groups > 1 and weight.shape[1] == 1:
        window = (stride, padding, dilation, groups)
        if ctx.needs_input_grad[0]:
            of_input = gradients.transposed_input_gradient(grad, weight, input.shape[2:], *window)
        if ctx.needs_input_grad[1] and max(output_padding) < min(stride):
            of_weight = gradients.weight_gradient(grad, input, weight.shape[2:], *window)
    wanted = [of_input is None, of_weight is None, True]
    wanted = [want and needed for want, needed in zip(wanted, ctx.needs_input_grad[:3], strict=True)]
    rest = _torch_backward(grad, input, weight, ctx, wanted)
    return rest[0] if of_input is None else of_input, rest[1] if of_weight is None else of_weight, rest[2], *[None] * 5


def _torch_backward(grad: Tensor, input: Tensor, weight: Tensor, ctx: Any, wanted: list[bool]) -> list[Tensor | None]:
    if not any(wanted):
        return [None, None, None]
    stride, (left, right, top, bottom), output_padding, dilation, groups = ctx.window
    if left != right or top != bottom:
        grad = F.pad(grad, (left, right, top, bottom))
        left = top = 0
    return list(
        torch.ops.aten.convolution_backward(
            grad, input, weight, ctx.bias_sizes, stride, [top, left], dilation, True, output_padding, groups, wanted
        )
    )


torch.library.register_fake("convfirst::split_conv_transpose2d", _fake)
torch.library.register_fake("convfirst::split_conv_transpose2d_packed", _fake_packed)
torch.library.register_fake("convfirst::pack_transposed_weight", _fake_pack)
torch.library.register_autograd("convfirst::split_conv_transpose2d", _backward, setup_context=_save)
