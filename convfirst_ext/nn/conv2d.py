"""A trainable drop-in for ``torch.nn.Conv2d``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext import ops


class Conv2d(torch.nn.Conv2d):
    """``torch.nn.Conv2d`` through ``convfirst_ext.ops.conv2d``: same arguments, parameters and state_dict keys."""

    @staticmethod
    def matches(module: torch.nn.Module) -> bool:
        """Whether the module computes exactly what this class computes: Conv2d itself, not a subclass of it."""
        return type(module) is torch.nn.Conv2d

    @classmethod
    def from_torch(cls, module: torch.nn.Conv2d) -> Conv2d:
        """Turns a ``torch.nn.Conv2d`` into this class in place: parameters, hooks and flags stay the same objects.

        Raises:
            TypeError: module is not a plain ``torch.nn.Conv2d``.
        """
        if not cls.matches(module):
            raise TypeError(f"module must be a torch.nn.Conv2d, but is {type(module).__name__}.")
        module.__class__ = cls
        return module  # type: ignore[return-value]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            padded = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return ops.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)
        return ops.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
