"""Argument checks of the public functions: one sentence that names the argument, its value and what is allowed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

MAX_KERNEL_ROWS = 128  # taller kernels are left to torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

IntOrPair = int | Sequence[int]


class Window(NamedTuple):
    """Stride, padding and dilation in the form the operators take; padding is left, right, top, bottom."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]


def check_tensor(value: object, argument: str, dimensions: int) -> Tensor:
    """A tensor of the right rank, or TypeError / ValueError."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a Tensor, but is {type(value).__name__}.")
    if value.dim() != dimensions:
        raise ValueError(f"{argument} must have {dimensions} dimensions, but has shape {tuple(value.shape)}.")
    return value


def check_positive(**values: object) -> None:
    """Raises TypeError or ValueError for the first argument that is no int of at least 1."""
    for argument, value in values.items():
        number = as_int(value)
        if number is None:
            raise TypeError(f"{argument} must be an int, but is {value!r}.")
        if number < 1:
            raise ValueError(f"{argument} must be positive, but is {number}.")


def check_real(value: object, argument: str) -> float:
    """A real number of any kind, or TypeError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{argument} must be a number, but is {value!r}.")
    return float(value)


def check_same_kind(tensor: Tensor, argument: str, input: Tensor) -> None:
    """The dtype and device of input are those of every other tensor."""
    if tensor.dtype != input.dtype:
        raise TypeError(f"{argument} must have input's dtype {input.dtype}, but has {tensor.dtype}.")
    if tensor.device != input.device:
        raise ValueError(f"{argument} must be on input's device {input.device}, but is on {tensor.device}.")


def check_input(input: object) -> Tensor:
    """A 4-D image tensor of a supported dtype with at least one channel."""
    tensor = check_tensor(input, "input", 4)
    if tensor.dtype not in DTYPES:
        raise TypeError(f"input must have dtype float32, bfloat16 or float16, but has {tensor.dtype}.")
    if tensor.shape[1] == 0:
        raise ValueError(f"input must have at least one channel, but has shape {tuple(tensor.shape)}.")
    return tensor


def check_weight(weight: object, input: Tensor, argument: str = "weight") -> Tensor:
    """A 4-D weight of input's dtype and device with no empty dimension."""
    tensor = check_tensor(weight, argument, 4)
    check_same_kind(tensor, argument, input)
    if 0 in tensor.shape:
        raise ValueError(f"{argument} must have no empty dimension, but has shape {tuple(tensor.shape)}.")
    return tensor


def check_weight_size(weight_size: object) -> tuple[int, ...]:
    """The four positive sizes of a weight."""
    if not isinstance(weight_size, Sequence) or isinstance(weight_size, str):
        raise TypeError(f"weight_size must be four ints, but is {weight_size!r}.")
    sizes = [as_int(size) for size in weight_size]
    if None in sizes:
        raise TypeError(f"weight_size must be four ints, but is {tuple(weight_size)!r}.")
    if len(sizes) != 4 or min(sizes) < 1:  # type: ignore[type-var, operator]
        raise ValueError(f"weight_size must be four positive numbers, but is {tuple(weight_size)!r}.")
    return tuple(sizes)  # type: ignore[arg-type]


def check_kernel(weight: object, input: Tensor, argument: str = "weight") -> Tensor:
    """The weight of a spatial convolution, with no more rows than the kernels take."""
    tensor = check_weight(weight, input, argument)
    if tensor.shape[2] > MAX_KERNEL_ROWS:
        raise ValueError(f"{argument} must have at most {MAX_KERNEL_ROWS} rows, but has shape {tuple(tensor.shape)}.")
    return tensor


def check_bias(bias: object, channels: int, input: Tensor, argument: str = "bias") -> None:
    """None, or one value an output channel."""
    if bias is None:
        return
    tensor = check_tensor(bias, argument, 1)
    check_same_kind(tensor, argument, input)
    if tensor.shape[0] != channels:
        raise ValueError(f"{argument} must have {channels} elements, but has {tensor.shape[0]}.")


def check_groups(groups: object, in_channels: int, weight: Tensor) -> int:
    """Groups that divide both sides and agree with the weight."""
    count = as_int(groups)
    if count is None:
        raise TypeError(f"groups must be an int, but is {type(groups).__name__}.")
    if count <= 0 or in_channels % count or weight.shape[0] % count:
        raise ValueError(
            f"groups must be positive and divide the {in_channels} input and {weight.shape[0]} output channels, "
            f"but is {groups}."
        )
    if weight.shape[1] != in_channels // count:
        raise ValueError(
            f"weight must have {in_channels // count} input channels a group, "
            f"but has shape {tuple(weight.shape)} for {in_channels} channels in {groups} groups."
        )
    return count


def check_transposed_groups(groups: object, in_channels: int, weight: Tensor) -> int:
    """Groups that divide the input channels of a transposed convolution, whose weight is (C, O / groups, R, S)."""
    count = as_int(groups)
    if count is None:
        raise TypeError(f"groups must be an int, but is {type(groups).__name__}.")
    if count <= 0 or in_channels % count:
        raise ValueError(f"groups must be positive and divide the {in_channels} input channels, but is {groups}.")
    if weight.shape[0] != in_channels:
        raise ValueError(f"weight must have {in_channels} input channels, but has shape {tuple(weight.shape)}.")
    return count


def check_output_padding(output_padding: object, window: Window) -> tuple[int, int]:
    """Vertical and horizontal output padding, smaller than stride or dilation as torch wants it."""
    extra = _pair(output_padding, "output_padding", 0)
    for axis in (0, 1):
        if extra[axis] >= max(window.stride[axis], window.dilation[axis]):
            raise ValueError(
                f"output_padding must be smaller than stride {window.stride} or dilation {window.dilation}, "
                f"but is {extra}."
            )
    return extra


def check_residual(residual: object, shape: Sequence[int], input: Tensor) -> None:
    """None, or a tensor of the output's shape."""
    if residual is None:
        return
    tensor = check_tensor(residual, "residual", 4)
    check_same_kind(tensor, "residual", input)
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"residual must have the output's shape {tuple(shape)}, but has {tuple(tensor.shape)}.")


def check_window(stride: object, padding: object, dilation: object, argument: str = "stride") -> Window:
    """Stride, which messages call ``argument``, padding and dilation as tuples."""
    stride_hw = _pair(stride, argument, 1)
    dilation_hw = _pair(dilation, "dilation", 1)
    if isinstance(padding, Sequence) and not isinstance(padding, str) and len(padding) == 4:
        left, right, top, bottom = (_number(p, "padding", 0) for p in padding)
        return Window(stride_hw, (left, right, top, bottom), dilation_hw)
    pad_h, pad_w = _pair(padding, "padding", 0)
    return Window(stride_hw, (pad_w, pad_w, pad_h, pad_h), dilation_hw)


def output_size(input: Tensor, kernel: Sequence[int], window: Window) -> tuple[int, int]:
    """Height and width of a convolution's output, or ValueError where the padded input is too small."""
    left, right, top, bottom = window.padding
    sizes = []
    for axis, size, pad in ((0, input.shape[2], top + bottom), (1, input.shape[3], left + right)):
        span = window.dilation[axis] * (kernel[axis] - 1) + 1
        if size + pad < span:
            raise ValueError(
                f"input must be at least as large as the dilated kernel with its padding, but its padded "
                f"{'height' if axis == 0 else 'width'} is {size + pad} and the kernel spans {span}."
            )
        sizes.append((size + pad - span) // window.stride[axis] + 1)
    return sizes[0], sizes[1]


def check_transposed(
    input: Tensor,
    weight: Tensor,
    bias: object,
    stride: object,
    padding: object,
    output_padding: object,
    groups: object,
    dilation: object,
) -> tuple[Window, tuple[int, int], int]:
    """Window, output padding and groups of a transposed convolution whose arguments fit each other."""
    window = check_window(stride, padding, dilation)
    extra = check_output_padding(output_padding, window)
    count = check_transposed_groups(groups, input.shape[1], weight)
    check_bias(bias, weight.shape[1] * count, input)
    transposed_output_size(input, weight.shape[2:], window, extra)
    return window, extra, count


def transposed_size(
    input: Tensor, kernel: Sequence[int], window: Window, output_padding: Sequence[int]
) -> tuple[int, int]:
    """Height and width of a transposed convolution's output; negative where padding cuts off more than there is."""
    left, right, top, bottom = window.padding
    height, width = (
        (input.shape[2 + axis] - 1) * window.stride[axis]
        - cut
        + window.dilation[axis] * (kernel[axis] - 1)
        + 1
        + output_padding[axis]
        for axis, cut in ((0, top + bottom), (1, left + right))
    )
    return height, width


def transposed_output_size(
    input: Tensor, kernel: Sequence[int], window: Window, output_padding: Sequence[int]
) -> tuple[int, int]:
    """``transposed_size``, or ValueError where that is negative."""
    size = transposed_size(input, kernel, window, output_padding)
    for name, pixels in zip(("height", "width"), size, strict=True):
        if pixels < 0:
            raise ValueError(f"padding must leave an output of no negative size, but leaves a {name} of {pixels}.")
    return size


def as_int(value: object) -> int | None:
    """The value as an int, numpy's and symbolic ones included, or None where it is something else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, torch.SymInt)):
        return value  # type: ignore[return-value]
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _number(value: object, argument: str, least: int) -> int:
    number = as_int(value)
    if number is None:
        raise TypeError(f"{argument} must be made of ints, but has {value!r}.")
    if number < least:
        raise ValueError(f"{argument} must be at least {least}, but has {number}.")
    return number


def _pair(value: object, argument: str, least: int) -> tuple[int, int]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == 1:
            value = (value[0], value[0])
        if len(value) != 2:
            raise ValueError(f"{argument} must be one int or two, but is {tuple(value)!r}.")
        return _number(value[0], argument, least), _number(value[1], argument, least)
    if as_int(value) is None:
        raise TypeError(f"{argument} must be an int or a pair of ints, but is {value!r}.")
    number = _number(value, argument, least)
    return number, number
