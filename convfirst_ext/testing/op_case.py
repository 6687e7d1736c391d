"""One call of a public operator: its data, the call itself and what torch makes of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.testing.bounded import (
    EXACT_ACTIVATIONS,
    Bounded,
    activate,
    add,
    convolve,
    convolve_transposed,
    exact,
    mean_of_pixels,
    multiply,
)
from convfirst_ext.testing.winograd import winograd_bound

Tensors = Mapping[str, Tensor]
Values = Literal["integers", "normal"]

_SE = "squeeze_excite."
_SINGLE = ("input", "weight", "bias")
_ARGUMENTS = {
    "conv2d": _SINGLE,
    "depthwise_conv2d": _SINGLE,
    "grouped_conv2d": _SINGLE,
    "dense_conv2d": _SINGLE,
    "trimmed_conv2d": _SINGLE,
    "split_conv_transpose2d": _SINGLE,
    "winograd_conv2d": (*_SINGLE, "residual"),
    "pointwise_conv2d": (*_SINGLE, "residual"),
    "depthwise_separable": (
        "input",
        "depthwise_weight",
        "depthwise_bias",
        "pointwise_weight",
        "pointwise_bias",
        "residual",
    ),
    "mbconv": (
        "input",
        "expand_weight",
        "expand_bias",
        "conv_weight",
        "conv_bias",
        "project_weight",
        "project_bias",
        "residual",
    ),
}


@dataclass(frozen=True)
class OpCase:
    """A call of ``convfirst_ext.ops.<op>``.

    Attributes:
        op: the operator's name.
        name: what is special about this call; unique in its operator's list.
        shapes: of the tensors that are given; those of squeeze-excite are ``squeeze_excite.reduce_weight`` and so on.
        options: the other arguments, by name; ``squeeze_excite`` holds its activation and gate.
    """

    op: str
    name: str
    shapes: dict[str, tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    @property
    def is_exact(self) -> bool:
        """Whether small integers give small integers, so that fp32 has nothing to round."""
        names = [value for key, value in self.options.items() if key.endswith("activation")]
        if self.op == "winograd_conv2d":
            return False
        return "squeeze_excite" not in self.options and all(name in EXACT_ACTIVATIONS for name in names)

    def make(self, dtype: torch.dtype = torch.float32, values: Values = "integers", seed: int = 0) -> dict[str, Tensor]:
        """Fresh tensors, all contiguous, the same ones for the same arguments.

        "integers" are so small that every sum is exact in fp32; "normal" are normally distributed, weights scaled so
        that activations keep their size.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(str(self).encode()) + seed)
        fill = _integers if values == "integers" else _normal
        return {name: fill(name, shape, generator).to(dtype) for name, shape in self.shapes.items()}

    def run(self, tensors: Tensors) -> Tensor:
        """The operator's result."""
        arguments: dict[str, Any] = {name: tensors.get(name) for name in _ARGUMENTS[self.op]}
        arguments |= self.options
        if "squeeze_excite" in self.options:
            arguments["squeeze_excite"] = ops.SqueezeExcite(
                tensors[_SE + "reduce_weight"],
                tensors.get(_SE + "reduce_bias"),
                tensors[_SE + "expand_weight"],
                tensors.get(_SE + "expand_bias"),
                *self.options["squeeze_excite"],
            )
        function: Callable[..., Tensor] = getattr(ops, self.op)
        return function(**arguments)

    def reference(self, tensors: Tensors) -> Bounded:
        """The same from ``torch.nn.functional`` in float64, differentiable, with the error that fp32 may have."""
        steps = {
            "depthwise_separable": self._depthwise_separable,
            "mbconv": self._mbconv,
            "split_conv_transpose2d": self._transposed,
        }
        output = steps.get(self.op, self._single)(tensors)
        return add(output, exact(tensors["residual"])) if "residual" in tensors else output

    def _window(self, kernel: Sequence[int]) -> tuple[Any, Sequence[int], Any]:
        stride, dilation = self.options.get("stride", 1), self.options.get("dilation", 1)
        return stride, padding_sides(self.options.get("padding", 0), kernel, dilation), dilation

    def _single(self, tensors: Tensors) -> Bounded:
        weight = tensors["weight"]
        groups = self.options.get("groups", 1)
        if self.op == "depthwise_conv2d":
            groups = tensors["input"].shape[1]
        window = self._window(weight.shape[2:])
        output = convolve(exact(tensors["input"]), weight, tensors.get("bias"), *window, groups)
        if self.op == "winograd_conv2d":
            output = winograd_bound(output, tensors["input"], weight, window[1], self.options["tile"])
        return activate(output, self.options.get("activation", "identity"))

    def _transposed(self, tensors: Tensors) -> Bounded:
        return convolve_transposed(exact(tensors["input"]), tensors["weight"], tensors.get("bias"), **self.options)

    def _depthwise_separable(self, tensors: Tensors) -> Bounded:
        weight, options = tensors["depthwise_weight"], self.options
        x = exact(tensors["input"])
        x = convolve(x, weight, tensors.get("depthwise_bias"), *self._window(weight.shape[2:]), x.value.shape[1])
        x = activate(x, options.get("depthwise_activation", "identity"))
        x = convolve(x, tensors["pointwise_weight"], tensors.get("pointwise_bias"))
        return activate(x, options.get("pointwise_activation", "identity"))

    def _mbconv(self, tensors: Tensors) -> Bounded:
        weight, options = tensors["conv_weight"], self.options
        activation = options.get("activation", "relu6")
        x = exact(tensors["input"])
        if "expand_weight" in tensors:
            x = activate(convolve(x, tensors["expand_weight"], tensors.get("expand_bias")), activation)
        groups = options.get("groups") or weight.shape[0]
        x = convolve(x, weight, tensors.get("conv_bias"), *self._window(weight.shape[2:]), groups)
        x = activate(x, activation)
        if "squeeze_excite" in options:
            x = multiply(x, self._gate(x, tensors))
        x = convolve(x, tensors["project_weight"], tensors.get("project_bias"))
        return activate(x, options.get("output_activation", "identity"))

    def _gate(self, x: Bounded, tensors: Tensors) -> Bounded:
        activation, gate = self.options["squeeze_excite"]
        y = convolve(mean_of_pixels(x), tensors[_SE + "reduce_weight"], tensors.get(_SE + "reduce_bias"))
        y = activate(y, activation)
        y = convolve(y, tensors[_SE + "expand_weight"], tensors.get(_SE + "expand_bias"))
        return activate(y, gate)


def padding_sides(padding: Any, kernel: Sequence[int], dilation: Any) -> tuple[int, int, int, int]:
    """Padding in any of the accepted forms as (left, right, top, bottom).

    Args:
        padding: an int, (vertical, horizontal), the four sides, "valid" or "same".
        kernel: height and width of the window.
        dilation: an int, or (vertical, horizontal).

    Returns:
        Pixels on each side.
    """
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        dilation_h, dilation_w = (dilation, dilation) if isinstance(dilation, int) else dilation
        total_h, total_w = dilation_h * (kernel[0] - 1), dilation_w * (kernel[1] - 1)
        return total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if len(padding) == 2:
        return padding[1], padding[1], padding[0], padding[0]
    left, right, top, bottom = padding
    return left, right, top, bottom


def _integers(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    largest = 3 if name in ("input", "residual") or name.endswith("bias") else 2 if name == "weight" else 1
    return torch.randint(-largest, largest + 1, shape, generator=generator)


def _normal(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    drawn = torch.randn(shape, generator=generator)
    fan_in = shape[1] * shape[2] * shape[3] if name.endswith("weight") else 1
    return drawn * (1.5 / fan_in**0.5)
