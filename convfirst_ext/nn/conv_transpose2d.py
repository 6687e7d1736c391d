"""A trainable drop-in for ``torch.nn.ConvTranspose2d``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.ops.checks import check_window, transposed_output_size
from convfirst_ext.ops.layout import restore_layout, to_channels_last


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` through ``convfirst_ext.ops.conv_transpose2d``.

    Same arguments, parameters, state_dict keys and ``output_size``. Where no gradient is wanted, weights are packed
    once and kept beside the parameters until these change; writes through ``tensor.data`` are not seen.

    Attributes:
        activation: one of ``ops.ACTIVATIONS``, applied to the result; "identity" but where ``optimize`` sets it.
    """

    activation: str = "identity"

    @staticmethod
    def matches(module: torch.nn.Module) -> bool:
        """Whether the module computes exactly what this class computes: ConvTranspose2d itself, not a subclass."""
        return type(module) is torch.nn.ConvTranspose2d

    @classmethod
    def from_torch(cls, module: torch.nn.ConvTranspose2d) -> ConvTranspose2d:
        """Turns a ``torch.nn.ConvTranspose2d`` into this class in place: parameters and hooks stay the same objects.

        Raises:
            TypeError: module is not a plain ``torch.nn.ConvTranspose2d``.
        """
        if not cls.matches(module):
            raise TypeError(f"module must be a torch.nn.ConvTranspose2d, but is {type(module).__name__}.")
        module.__class__ = cls
        return module  # type: ignore[return-value]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) or (C, H, W) to the transposed convolution; output_size chooses among the possible sizes."""
        extra = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        packed = self._packed(input)
        if packed is None:
            output = ops.conv_transpose2d(
                input,
                self.weight,
                self.bias,
                self.stride,
                self.padding,  # type: ignore[arg-type]
                extra,
                self.groups,
                self.dilation,
            )
            return ops.activation.apply_activation(self.activation, output)
        window = check_window(self.stride, self.padding, self.dilation)
        transposed_output_size(input, self.kernel_size, window, extra)
        dense = to_channels_last(input)
        output = ops.packed.conv_transpose2d(
            dense, *packed, *window, extra, self.groups, self.out_channels, self.activation
        )  # type: ignore[arg-type]
        return restore_layout(output, input, self.weight)

    def _packed(self, input: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weight and bias packed once, while they stay the same tensors unchanged and nobody wants a gradient."""
        weight, bias = self.weight, self.bias
        if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not isinstance(input, Tensor):
            return None
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (input, weight, bias)):
            return None
        if input.dim() != 4 or input.shape[1] != self.in_channels or input.dtype != weight.dtype or not input.numel():
            return None
        if weight.is_inference() or input.device != weight.device or weight.is_meta:
            return None
        stamp = [(t.data_ptr(), t._version, t.dtype, t.shape) for t in (weight, bias) if t is not None]
        kept: Any = self.__dict__.get("_kept")
        if kept is None or kept[0] != stamp:
            choice = ops.selection.choose_transposed_kernel(
                weight.shape, groups=self.groups, dtype=weight.dtype, device_type=weight.device.type
            )
            tensors = None
            if choice.kernel is not None:
                whole = ops.packed.pack_transposed_weight(weight, self.groups)
                tensors = whole, ops.packed.pack_bias(bias, self.out_channels)
            kept = self.__dict__["_kept"] = stamp, tensors
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_kept"}  # type: ignore[no-untyped-call]
