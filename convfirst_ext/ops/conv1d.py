"""The front doors in one dimension: images of one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from convfirst_ext.ops.checks import as_int, check_groups, check_tensor, check_transposed_groups
from convfirst_ext.ops.conv2d import conv2d
from convfirst_ext.ops.conv_transpose2d import conv_transpose2d

IntOrSingle = int | Sequence[int]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrSingle = 1,
    padding: IntOrSingle | str = 0,
    dilation: IntOrSingle = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv1d`` with the same contract, through ``conv2d``.

    Args:
        input: (N, C, L) or (C, L), any dtype and device torch knows.
        weight: (O, C / groups, S), input's dtype.
        bias: (O,) or None.
        stride: one int, or a sequence of one.
        padding: one int, a sequence of one, "valid" or "same" (which needs stride 1).
        dilation: one int, or a sequence of one.
        groups: number of groups, a divisor of C and O.

    Returns:
        (N, O, L'); differentiable.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    if isinstance(input, Tensor) and input.dim() == 2:
        return conv1d(input.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    image, kernel = _one_row(input, weight)
    check_groups(groups, image.shape[1], weight)  # named in the shapes that the caller knows
    if isinstance(padding, str) and padding not in ("valid", "same"):
        raise ValueError(f"padding must be one int, 'valid' or 'same', but is {padding!r}.")
    sides = padding if isinstance(padding, str) else _along(padding, "padding", 0)
    window = _along(stride, "stride", 1), sides, _along(dilation, "dilation", 1)
    return conv2d(image, kernel, bias, *window, groups).squeeze(2)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrSingle = 1,
    padding: IntOrSingle = 0,
    output_padding: IntOrSingle = 0,
    groups: int = 1,
    dilation: IntOrSingle = 1,
) -> Tensor:
    """``torch.nn.functional.conv_transpose1d`` with the same contract, through ``conv_transpose2d``.

    Args:
        input: (N, C, L) or (C, L), any dtype and device torch knows.
        weight: (C, O / groups, S), input's dtype.
        bias: (O,) or None.
        stride: one int, or a sequence of one.
        padding: one int, or a sequence of one.
        output_padding: one int, or a sequence of one, smaller than stride or dilation.
        groups: number of groups, a divisor of C.
        dilation: one int, or a sequence of one.

    Returns:
        (N, O, L'); differentiable.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    if isinstance(input, Tensor) and input.dim() == 2:
        batch = input.unsqueeze(0)
        return conv_transpose1d(batch, weight, bias, stride, padding, output_padding, groups, dilation).squeeze(0)
    image, kernel = _one_row(input, weight)
    check_transposed_groups(groups, image.shape[1], weight)
    extra = _along(output_padding, "output_padding", 0)
    window = _along(stride, "stride", 1), _along(padding, "padding", 0), extra
    return conv_transpose2d(image, kernel, bias, *window, groups, _along(dilation, "dilation", 1)).squeeze(2)


def _one_row(input: object, weight: object) -> tuple[Tensor, Tensor]:
    image, kernel = check_tensor(input, "input", 3), check_tensor(weight, "weight", 3)
    if 0 in kernel.shape:
        raise ValueError(f"weight must have no empty dimension, but has shape {tuple(kernel.shape)}.")
    return image.unsqueeze(2), kernel.unsqueeze(2)


def _along(value: Any, argument: str, across: int) -> tuple[int, Any]:
    """The value for the row, beside what leaves the other direction alone."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 1:
            raise ValueError(f"{argument} must be one int, but is {tuple(value)!r}.")
        value = value[0]
    if as_int(value) is None:
        raise TypeError(f"{argument} must be one int, but is {value!r}.")
    return across, value
