"""Layer normalisation over channels on packed weights."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import POINTWISE


class PackedLayerNorm(PackedModule):
    """Inference only: layer norm over dimension 1 of an image, in float32.

    Args:
        weight: (C,).
        bias: (C,).
        epsilon: added to the variance.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        super().__init__()
        self.window = POINTWISE
        self.in_channels = self.out_channels = weight.shape[0]
        self.epsilon = epsilon
        self.register_buffer("weight", ops.packed.pack_bias(weight, self.in_channels))
        self.register_buffer("bias", ops.packed.pack_bias(bias, self.in_channels))

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, channels_last."""
        if check_packed_image(input, self.in_channels):
            return of_one_image(self.forward, input)
        return ops.chain.run_step(input, self.step())

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``."""
        integers = (ops.chain.real_integer(self.epsilon),)
        return ops.chain.Step(ops.chain.LAYER_NORM, integers, (self.weight, self.bias))

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        return f"layer norm {self.in_channels}"

    extra_repr = describe
