"""The front door: torch's conv2d with the fastest kernel that fits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops.autocast import autocast
from convfirst_ext.ops.checks import (
    IntOrPair,
    Window,
    check_bias,
    check_groups,
    check_same_kind,
    check_tensor,
    check_window,
    output_size,
)
from convfirst_ext.ops.selection import choose_kernel
from convfirst_ext.ops.single import run_checked


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d`` with the same contract, by the kernel that ``selection.choose_kernel`` names.

    Args:
        input: (N, C, H, W) or (C, H, W), any dtype and device torch knows.
        weight: (O, C / groups, R, S), input's dtype.
        bias: (O,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), "valid" or "same" (which needs stride 1).
        dilation: one int or (vertical, horizontal).
        groups: number of groups, a divisor of C and O.

    Returns:
        (N, O, H', W') in the memory format ``F.conv2d`` would give; differentiable.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    if isinstance(input, Tensor) and input.dim() == 3:
        return conv2d(input.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    input, weight, bias = autocast(input, weight, bias)
    check_tensor(input, "input", 4)
    check_tensor(weight, "weight", 4)
    check_same_kind(weight, "weight", input)
    if 0 in weight.shape:
        raise ValueError(f"weight must have no empty dimension, but has shape {tuple(weight.shape)}.")
    group_count = check_groups(groups, input.shape[1], weight)
    check_bias(bias, weight.shape[0], input)
    window = _window(weight, stride, padding, dilation)
    output_size(input, weight.shape[2:], window)
    choice = choose_kernel(
        weight.shape,
        groups=group_count,
        stride=window.stride,
        dilation=window.dilation,
        dtype=input.dtype,
        device_type=input.device.type,
        padded=any(window.padding),
    )
    if choice.kernel is None:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return run_checked(choice.kernel, input, weight, bias, window, group_count)


def _window(weight: Tensor, stride: object, padding: object, dilation: object) -> Window:
    if isinstance(padding, (tuple, list)) and len(padding) == 4:
        raise ValueError(f"padding must be one int, two, 'valid' or 'same', but is {padding!r}.")
    if not isinstance(padding, str):
        return check_window(stride, padding, dilation)
    window = check_window(stride, 0, dilation)
    if padding == "valid":
        return window
    if padding != "same":
        raise ValueError(f"padding must be an int, a pair of ints, 'valid' or 'same', but is {padding!r}.")
    if window.stride != (1, 1):
        raise ValueError(f"padding 'same' needs stride 1, but stride is {window.stride}.")
    # Torch puts the odd pixel of an even kernel on the right and bottom.
    total_h = window.dilation[0] * (weight.shape[2] - 1)
    total_w = window.dilation[1] * (weight.shape[3] - 1)
    sides = (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    return window._replace(padding=sides)
