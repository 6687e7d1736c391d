"""A convolution with folded batch norm, activation and residual, on packed weights."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import FusedWindow
from convfirst_ext.ops.activation import apply_activation


class PackedConv2d(PackedModule):
    """Inference only: ``sum_activation(activation(conv2d(input)) + residual)``.

    Args:
        kernel: one of ``ops.packed.KERNELS``.
        weight: (O, C / groups, R, S), batch norm folded in.
        bias: (O,) or None.
        window: stride, padding, dilation.
        groups: number of groups.
        activation: one of ``ops.ACTIVATIONS``.

    ``sum_activation`` is "identity" until it is set to "relu" or "relu6"; it is left out where there is no residual.
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
        self.sum_activation = "identity"
        self.register_buffer("weight", ops.packed.pack_weight_for(kernel, weight))
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
        if residual is None:
            return output
        output = output if fused is not None else output + residual
        return apply_activation(self.sum_activation, output)

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
            self.sum_activation,
        )

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        text = f"{self.kernel} {self.window} {self.in_channels}->{self.out_channels}"
        text = text if self.activation == "identity" else f"{text} {self.activation}"
        return text if self.sum_activation == "identity" else f"{text}, added {self.sum_activation}"

    extra_repr = describe
