"""A linear layer on packed weights: a 1x1 convolution of single pixels."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from convfirst_ext import ops
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import POINTWISE


class PackedLinear(PackedModule):
    """Inference only: ``activation(F.linear(input, weight, bias))``, its weights read by all threads.

    Args:
        weight: (out_features, in_features).
        bias: (out_features,) or None.
        activation: one of ``ops.ACTIVATIONS``.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str = "identity") -> None:
        super().__init__()
        self.activation = activation
        self.window = POINTWISE
        self.out_channels, self.in_channels = weight.shape
        self.register_buffer("weight", ops.packed.pack_weight(weight[:, :, None, None]))
        self.register_buffer("bias", ops.packed.pack_bias(bias, self.out_channels))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if not isinstance(input, (Tensor, fx.Proxy)):
            raise TypeError(f"input must be a Tensor, but is {type(input).__name__}.")
        if isinstance(input, Tensor) and (input.dim() == 0 or input.shape[-1] != self.in_channels):
            raise ValueError(f"input must have {self.in_channels} features, but has shape {tuple(input.shape)}.")
        rows = input.reshape(-1, self.in_channels, 1, 1).contiguous(memory_format=torch.channels_last)
        window = self.window
        output = ops.packed.conv2d(
            "pointwise",
            rows,
            self.weight,
            self.bias,
            None,
            window.stride,
            window.padding_for(rows),
            window.dilation,
            1,
            self.out_channels,
            self.activation,
        )
        return output.reshape(*input.shape[:-1], self.out_channels)

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``, on images of one pixel."""
        window = self.window.integers()
        return ops.chain.convolution("pointwise", self.weight, self.bias, window, 1, self.out_channels, self.activation)

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        text = f"linear {self.in_channels}->{self.out_channels}"
        return text if self.activation == "identity" else f"{text} {self.activation}"

    extra_repr = describe
