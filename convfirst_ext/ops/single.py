"""How every single convolution is called: checked, laid out, then through the operator with or without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import packed, registration
from convfirst_ext.ops.activation import apply_activation, check_activation
from convfirst_ext.ops.autocast import autocast
from convfirst_ext.ops.checks import (
    Window,
    check_bias,
    check_groups,
    check_input,
    check_kernel,
    check_residual,
    check_window,
    output_size,
)
from convfirst_ext.ops.cuda_blocks import skips_zeros
from convfirst_ext.ops.layout import restore_layout, to_channels_last
from convfirst_ext.ops.selection import choose_kernel

_PLAIN: dict[str, Callable[..., Tensor]] = {
    name.removesuffix("_conv2d"): getattr(torch.ops.convfirst, name).default for name in registration.CONVOLUTIONS
}


# Elements of a weight from which on the memory of a packed copy costs more than the trip through autograd.
LARGE = 1 << 16


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of any of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def convolve(
    kernel: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(conv2d(...)) + residual`` by the kernel of that name, in the layout torch would give."""
    input, weight, bias, residual = autocast(input, weight, bias, residual)
    check_input(input)
    check_kernel(weight, input)
    window = check_window(stride, padding, dilation)
    group_count = check_groups(groups, input.shape[1], weight)
    check_bias(bias, weight.shape[0], input)
    check_activation(activation, "activation")
    size = output_size(input, weight.shape[2:], window)
    check_residual(residual, (input.shape[0], weight.shape[0], *size), input)
    return run_checked(kernel, input, weight, bias, window, group_count, activation, residual)


def run_checked(
    kernel: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    groups: int,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """``convolve`` on arguments that are known to be right."""
    dense = to_channels_last(input)
    large = weight.numel() >= LARGE and activation == "identity" and residual is None
    if input.is_cuda or large or kernel == "winograd" or wants_gradient(input, weight, bias, residual):
        run = partial(_on_cuda, kernel) if input.is_cuda else _PLAIN[kernel]
        output = run(dense, weight, bias, *window, groups)
        output = apply_activation(activation, output)
        output = output if residual is None else output + residual
    else:
        output = packed.conv2d(
            kernel,
            dense,
            packed.pack_weight(weight),
            packed.pack_bias(bias, weight.shape[0]),
            None if residual is None else to_channels_last(residual),
            *window,
            groups,
            weight.shape[0],
            activation,
        )
    return restore_layout(output, input, weight)


def _on_cuda(
    kernel: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """A convolution of CUDA tensors by the kernel for it, or by torch where there is none; padding is as in F.pad."""
    if kernel == "trimmed" and skips_zeros(input, weight, groups):
        weight = weight.contiguous(memory_format=torch.channels_last)
        return _PLAIN[kernel](input, weight, bias, stride, padding, dilation, groups)
    choice = choose_kernel(
        weight.shape, groups=groups, stride=stride, dilation=dilation, dtype=input.dtype, device_type="cuda"
    ).kernel
    if choice is not None:
        return _PLAIN[choice](input, weight.contiguous(), bias, stride, padding, dilation, groups)
    left, right, top, bottom = padding
    if left != right or top != bottom:
        input, top, left = F.pad(input, (left, right, top, bottom)), 0, 0
    return F.conv2d(input, weight, bias, tuple(stride), (top, left), tuple(dilation), groups)
