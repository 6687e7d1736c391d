"""The weight gradient of a convolution without inserted zeros (Sk-dilated)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from convfirst_ext.ops import cuda
from convfirst_ext.ops.checks import (
    IntOrPair,
    as_int,
    check_same_kind,
    check_tensor,
    check_weight_size,
    check_window,
    output_size,
)
from convfirst_ext.ops.layout import to_channels_last

_raw = torch.ops.convfirst


def strided_weight_grad(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.grad.conv2d_weight``, leaping over the image with the stride (Sk-dilated of C-K-S, arXiv 2306.15951).

    Sums are taken in the same order on any number of threads.

    Args:
        input: (N, C, H, W), float32.
        weight_size: (O, C / groups, R, S).
        grad_output: (N, O, H', W'), float32: the gradient of the convolution's output.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``.
        dilation: one int or (vertical, horizontal).
        groups: number of groups.

    Returns:
        A contiguous (O, C / groups, R, S) float32 tensor; differentiable.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    check_tensor(input, "input", 4)
    check_tensor(grad_output, "grad_output", 4)
    check_same_kind(grad_output, "grad_output", input)
    if input.dtype != torch.float32:
        raise TypeError(f"input must have dtype float32, but has {input.dtype}.")
    window = check_window(stride, padding, dilation)
    out_channels, group_in, *kernel = check_weight_size(weight_size)
    if as_int(groups) is None:
        raise TypeError(f"groups must be an int, but is {type(groups).__name__}.")
    if groups < 1 or group_in * groups != input.shape[1] or out_channels % groups:
        raise ValueError(
            f"groups must divide {out_channels} output channels and leave {group_in} of {input.shape[1]} input "
            f"channels, but is {groups}."
        )
    expected = (input.shape[0], out_channels, *output_size(input, kernel, window))
    if tuple(grad_output.shape) != expected:
        raise ValueError(f"grad_output must have the output's shape {expected}, but has {tuple(grad_output.shape)}.")
    if input.is_cuda and (cuda.REASON_AGAINST or group_in > 1 or input.numel() == 0):
        padded = F.pad(input, window.padding)
        return conv2d_weight(padded, weight_size, grad_output, window.stride, 0, window.dilation, groups)  # type: ignore[no-untyped-call]
    return run_checked(input, grad_output, kernel, *window, groups)


def run_checked(
    input: Tensor,
    grad: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """``strided_weight_grad`` on arguments that are known to be right; padding is left, right, top, bottom."""
    return _raw.strided_weight_grad.default(
        to_channels_last(input), to_channels_last(grad), kernel_size, stride, padding, dilation, groups
    )


def _fake(
    input: Tensor,
    grad: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return input.new_empty((grad.shape[1], input.shape[1] // groups, *kernel_size))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, grad, _, *window = inputs
    ctx.save_for_backward(input, grad)
    ctx.window = window


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    """The weight gradient is bilinear: in grad it is a convolution with upstream, in input a transposed one."""
    input, grad = ctx.saved_tensors
    stride, padding, dilation, groups = ctx.window
    of_input = of_grad = None
    if ctx.needs_input_grad[0]:
        padded = [input.shape[2] + padding[2] + padding[3], input.shape[3] + padding[0] + padding[1]]
        whole = conv2d_input([*input.shape[:2], *padded], upstream, grad, stride, 0, dilation, groups)  # type: ignore[no-untyped-call]
        of_input = whole[:, :, padding[2] : padding[2] + input.shape[2], padding[0] : padding[0] + input.shape[3]]
    if ctx.needs_input_grad[1]:
        of_grad = F.conv2d(F.pad(input, tuple(padding)), upstream, None, stride, 0, dilation, groups)
    return of_input, of_grad, None, None, None, None, None


torch.library.register_fake("convfirst::strided_weight_grad", _fake)
torch.library.register_autograd("convfirst::strided_weight_grad", _backward, setup_context=_save)
