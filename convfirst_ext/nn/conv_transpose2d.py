"""A trainable drop-in for ``torch.nn.ConvTranspose2d``."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext import ops


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` through ``convfirst_ext.ops.conv_transpose2d``.

    Same arguments, parameters, state_dict keys and ``output_size``.
    """

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
        return ops.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            extra,
            self.groups,
            self.dilation,
        )
