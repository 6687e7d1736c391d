"""Torch's arithmetic in float64, together with how far the same arithmetic in fp32 may be from it.

A sum of n products in any order is off by at most gamma(n) = n u / (1 - n u) times the sum of the products' magnitudes,
with u = 2**-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). From layer to layer the errors of
the inputs are added as independent ones are, by their squares: the worst case would leave nothing to check after three
layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UNIT_ROUNDOFF = 2.0**-24

# Polynomials for exp and erf instead of libm: absolute and relative to the argument.
ACTIVATION_ERROR = 2.0**-21

# No activation is steeper than hardswish at 3.
STEEPEST = 1.5

EXACT_ACTIVATIONS = ("identity", "relu", "relu6")


class Bounded(NamedTuple):
    """A float64 tensor and, element by element, the largest error of an fp32 computation of it.

    Attributes:
        value: float64, of any shape.
        error: float64, of value's shape, absolute.
    """

    value: Tensor
    error: Tensor


def exact(tensor: Tensor) -> Bounded:
    """A stored tensor: widening it is exact."""
    value = tensor.double().contiguous()
    return Bounded(value, torch.zeros_like(value))


def convolve(
    x: Bounded,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int] = 1,
    sides: Sequence[int] = (0, 0, 0, 0),
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Bounded:
    """``F.conv2d`` on an input padded by ``sides`` (left, right, top, bottom)."""
    window = (_as_ints(stride), 0, _as_ints(dilation), groups)
    wide = weight.double().contiguous()
    wide_bias = None if bias is None else bias.double()
    wide_bias_magnitude = None if bias is None else bias.detach().double().abs()
    value = F.conv2d(F.pad(x.value, tuple(sides)), wide, wide_bias, *window)
    gamma = _gamma(weight[0].numel() + 1)
    with torch.no_grad():
        magnitude = x.value.abs() + x.error
        rounded = F.conv2d(F.pad(magnitude, tuple(sides)), wide.abs(), wide_bias_magnitude, *window) * gamma
        inherited = F.conv2d(F.pad(x.error.square(), tuple(sides)), wide.square(), None, *window).sqrt()
        error = rounded + inherited
    return Bounded(value, error)


def convolve_transposed(x: Bounded, weight: Tensor, bias: Tensor | None, **options: Any) -> Bounded:
    """``F.conv_transpose2d``; ``options`` are its other arguments."""
    wide, wide_bias = weight.double().contiguous(), None if bias is None else bias.double()
    value = F.conv_transpose2d(x.value, wide, wide_bias, **options)
    terms = weight.shape[0] // options.get("groups", 1) * weight.shape[2] * weight.shape[3] + 1
    with torch.no_grad():
        magnitude = None if wide_bias is None else wide_bias.abs()
        rounded = F.conv_transpose2d(x.value.abs() + x.error, wide.abs(), magnitude, **options) * _gamma(terms)
        inherited = F.conv_transpose2d(x.error.square(), wide.square(), None, **options).sqrt()
        error = rounded + inherited
    return Bounded(value, error)


def activate(x: Bounded, name: str) -> Bounded:
    """One of the operators' activations."""
    value = _ACTIVATIONS[name](x.value)
    if name in EXACT_ACTIVATIONS:
        return Bounded(value, x.error)
    return Bounded(value, STEEPEST * x.error + ACTIVATION_ERROR * (1 + x.value.detach().abs()))


def add(x: Bounded, y: Bounded) -> Bounded:
    """Elementwise sum."""
    value = x.value + y.value
    error = x.error + y.error
    return Bounded(value, error + UNIT_ROUNDOFF * (value.detach().abs() + error))


def multiply(x: Bounded, y: Bounded) -> Bounded:
    """Elementwise product."""
    value = x.value * y.value
    with torch.no_grad():
        error = x.error * y.value.abs() + (x.value.abs() + x.error) * y.error
        return Bounded(value, error + UNIT_ROUNDOFF * (value.abs() + error))


def mean_of_pixels(x: Bounded) -> Bounded:
    """Mean over height and width, kept as dimensions of size one."""
    pixels = x.value.shape[2] * x.value.shape[3]
    with torch.no_grad():
        rounded = _gamma(pixels + 2) * (x.value.abs() + x.error).mean((2, 3), keepdim=True)
        error = rounded + (x.error.square().mean((2, 3), keepdim=True) / pixels).sqrt()
    return Bounded(x.value.mean((2, 3), keepdim=True), error)


def rounding(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest error of rounding float64 values to ``dtype`` once."""
    if dtype == torch.float32:
        return torch.zeros_like(value)
    limits = torch.finfo(dtype)
    return value.abs().clamp(min=limits.smallest_normal) * (limits.eps / 2)


def assert_within(actual: Tensor, reference: Bounded) -> None:
    """Raises AssertionError unless every element is as close to the reference as its bound and dtype ask for."""
    _assert_shape(actual, reference.value)
    value = reference.value.detach()
    bound = reference.error + rounding(value.abs() + reference.error, actual.dtype)
    excess = (actual.detach().double() - value).abs() - bound
    worst = excess.nan_to_num(nan=float("inf")).flatten()
    if worst.numel() and worst.max() > 0:
        at = int(worst.argmax())
        raise AssertionError(
            f"{int((worst > 0).sum())} of {worst.numel()} elements are out of bounds; the worst is "
            f"{actual.flatten()[at]:.9g}, not {value.flatten()[at]:.9g} +- {bound.flatten()[at]:.2g}"
        )


def assert_exact(actual: Tensor, reference: Bounded) -> None:
    """Raises AssertionError unless every element is the reference, rounded once to the dtype of ``actual``."""
    _assert_shape(actual, reference.value)
    expected = reference.value.detach().to(actual.dtype)
    if not torch.equal(actual.detach(), expected):
        wrong = (actual.detach() != expected).nonzero()
        at = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{len(wrong)} of {expected.numel()} elements differ, the first at {at}: "
            f"{actual[at]:.9g}, not {expected[at]:.9g}"
        )


def _assert_shape(actual: Tensor, value: Tensor) -> None:
    if actual.shape != value.shape:
        raise AssertionError(f"the shape is {tuple(actual.shape)}, not {tuple(value.shape)}")


def _gamma(terms: int) -> float:
    return terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)


def _as_ints(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


_ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": F.sigmoid,
    "hardsigmoid": F.hardsigmoid,
}
