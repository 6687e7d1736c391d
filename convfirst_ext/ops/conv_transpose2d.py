"""The front door: torch's conv_transpose2d with the fastest kernel that fits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import split_conv_transpose2d as split
from convfirst_ext.ops.autocast import autocast
from convfirst_ext.ops.checks import (
    IntOrPair,
    check_same_kind,
    check_tensor,
    check_transposed,
)
from convfirst_ext.ops.selection import choose_transposed_kernel


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d`` with the same contract, by the kernel that ``selection`` names.

    Args:
        input: (N, C, H, W) or (C, H, W), any dtype and device torch knows.
        weight: (C, O / groups, R, S), input's dtype.
        bias: (O,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int or (vertical, horizontal).
        output_padding: one int or (vertical, horizontal), smaller than stride or dilation.
        groups: number of groups, a divisor of C.
        dilation: one int or (vertical, horizontal).

    Returns:
        (N, O, H', W') in the memory format ``F.conv_transpose2d`` would give; differentiable.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    if isinstance(input, Tensor) and input.dim() == 3:
        batch = input.unsqueeze(0)
        return conv_transpose2d(batch, weight, bias, stride, padding, output_padding, groups, dilation).squeeze(0)
    input, weight, bias = autocast(input, weight, bias)
    check_tensor(input, "input", 4)
    check_tensor(weight, "weight", 4)
    check_same_kind(weight, "weight", input)
    if 0 in weight.shape:
        raise ValueError(f"weight must have no empty dimension, but has shape {tuple(weight.shape)}.")
    if isinstance(padding, (tuple, list)) and len(padding) == 4:
        raise ValueError(f"padding must be one int or two, but is {padding!r}.")
    window, extra, group_count = check_transposed(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )
    choice = choose_transposed_kernel(
        weight.shape, groups=group_count, dtype=input.dtype, device_type=input.device.type
    )
    if choice.kernel is None:
        return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return split.run_checked(input, weight, bias, window, extra, group_count)
