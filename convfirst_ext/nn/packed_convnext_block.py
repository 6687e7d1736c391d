"""A ConvNeXt or ConvFirst block with norms and layer scale folded in, on packed weights."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_mbconv import FoldedLayer
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import FusedWindow


class PackedConvNeXtBlock(PackedModule):
    """Inference only: convolution, layer norm, expand, activation, project [+ input] in one call.

    ``project(activation(expand(normalize(depthwise(input)))))``, where normalize is layer norm without scale and
    shift: they belong to the expansion (``fold_layer_norm``), layer scale to the projection. Without layer norm it is
    ConvFirst's block, or any row of a convolution without activation and two products.

    Args:
        depthwise: (C, 1, R, S) layer, or (C, 8, R, S) in groups of eight channels.
        expand: (E, C) layer.
        project: (O, E) layer.
        window: of the depthwise convolution.
        activation: after the expansion.
        epsilon: of layer norm; None for no norm.
        adds_input: whether the block adds its input to its output.
    """

    depthwise_weight: Tensor
    depthwise_bias: Tensor
    expand_weight: Tensor
    expand_bias: Tensor
    project_weight: Tensor
    project_bias: Tensor

    def __init__(
        self,
        depthwise: FoldedLayer,
        expand: FoldedLayer,
        project: FoldedLayer,
        window: FusedWindow,
        activation: str,
        epsilon: float | None,
        adds_input: bool,
    ) -> None:
        super().__init__()
        self.window = window
        self.activation = activation
        self.epsilon = epsilon
        self.adds_input = adds_input
        self.in_channels = depthwise.weight.shape[0]
        self.groups = self.in_channels // depthwise.weight.shape[1]
        self.hidden_channels = expand.weight.shape[0]
        self.out_channels = project.weight.shape[0]
        for name, layer in (("depthwise", depthwise), ("expand", expand), ("project", project)):
            weight = layer.weight if layer.weight.dim() == 4 else layer.weight[:, :, None, None]
            self.register_buffer(f"{name}_weight", ops.packed.pack_weight(weight))
            self.register_buffer(f"{name}_bias", ops.packed.pack_bias(layer.bias, weight.shape[0]))

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W') in channels_last."""
        if check_packed_image(input, self.in_channels):
            return of_one_image(self.forward, input)
        return ops.chain.run_step(input, self.step(), self.adds_input)

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``."""
        integers = (
            self.hidden_channels,
            self.out_channels,
            *self.window.integers(),
            self.groups,
            ops.chain.activation_integer(self.activation),
            int(self.epsilon is not None),
            ops.chain.real_integer(self.epsilon or 0.0),
        )
        names = ("depthwise", "expand", "project")
        tensors = [self._buffers[f"{name}_{part}"] for name in names for part in ("weight", "bias")]
        return ops.chain.Step(ops.chain.CONVNEXT_BLOCK, integers, tuple(tensors))  # type: ignore[arg-type]

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        name = "convfirst block" if self.epsilon is None else "convnext block"
        kind = "" if self.groups == self.in_channels else " group width 8"
        return (
            f"{name}{kind} {self.window} {self.in_channels}->{self.hidden_channels}->{self.out_channels} "
            f"{self.activation}"
        )

    extra_repr = describe


def fold_layer_norm(scale: Tensor | None, shift: Tensor | None, layer: FoldedLayer) -> FoldedLayer:
    """The linear layer that does to a normalised input what ``layer`` does to one with scale and shift.

    Args:
        scale: (C,) or None.
        shift: (C,) or None.
        layer: weight (E, C) and bias (E,).
    """
    weight = layer.weight.detach().double()
    bias = torch.zeros(weight.shape[0], dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
    if shift is not None:
        bias = bias + weight @ shift.detach().double()
    if scale is not None:
        weight = weight * scale.detach().double()
    return FoldedLayer(weight.float(), bias.float())
