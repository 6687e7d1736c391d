"""A convolution with folded batch norm, activation and residual, on packed weights."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import FusedWindow


class PackedConv2d(PackedModule):
    """Inference only: ``activation(conv2d(input)) + residual``.

    Args:
        kernel: "depthwise", "grouped", "pointwise" or "dense".
        weight: (O, C / groups, R, S), batch norm folded in.
        bias: (O,) or None.
        window: stride, padding, dilation.
        groups: number of groups.
        activation: one of ``ops.ACTIVATIONS``.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        kernel: str,
        weight: Tensor,
        bias: Tensor | None,
        window: FusedWindow,
        groups: int,
        activation: str = "identity",
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.window = window
        self.groups = groups
        self.in_channels = weight.shape[1] * groups
        self.out_channels = weight.shape[0]
        self.activation = activation
        self.register_buffer("weight", ops.packed.pack_weight(weight))
        self.register_buffer("bias", ops.packed.pack_bias(bias, self.out_channels))

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Runs on a (N, C, H, W) tensor; the output is channels_last."""
        if check_packed_image(input, self.in_channels):
            return of_one_image(self.forward, input, residual)
        dense = input.contiguous(memory_format=torch.channels_last)
        fused = self.fusable(residual, input, dense)
        output = ops.packed.conv2d(
            self.kernel,
            dense,
            self.weight,
            self.bias,
            fused,
            self.window.stride,
            self.window.padding_for(input),
            self.window.dilation,
            self.groups,
            self.out_channels,
            self.activation,
        )
        return output if residual is None or fused is not None else output + residual

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``."""
        return ops.chain.convolution(
            self.kernel,
            self.weight,
            self.bias,
            self.window.integers(),
            self.groups,
            self.out_channels,
            self.activation,
        )

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        text = f"{self.kernel} {self.window} {self.in_channels}->{self.out_channels}"
        return text if self.activation == "identity" else f"{text} {self.activation}"

    extra_repr = describe
