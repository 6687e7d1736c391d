"""An inverted residual (or depthwise-separable pair) with folded batch norm, on packed weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import FusedWindow


class FoldedLayer(NamedTuple):
    """A layer's weight and bias with batch norm folded in."""

    weight: Tensor
    bias: Tensor | None


class PackedMBConv(PackedModule):
    """Inference only: expand, convolve, squeeze-excite, project in one call; see ``ops.mbconv``.

    Args:
        expand: 1x1 layer, or None.
        convolution: depthwise, or group width 8.
        project: 1x1 layer.
        window: of the convolution.
        groups: of the convolution.
        activation: after expand and after the convolution.
        output_activation: after project.
        squeeze_excite: weights of the gate, or None.
    """

    expand_weight: Tensor | None
    expand_bias: Tensor | None
    convolution_weight: Tensor
    convolution_bias: Tensor
    project_weight: Tensor
    project_bias: Tensor
    se_reduce_weight: Tensor | None
    se_reduce_bias: Tensor | None
    se_expand_weight: Tensor | None
    se_expand_bias: Tensor | None

    def __init__(
        self,
        expand: FoldedLayer | None,
        convolution: FoldedLayer,
        project: FoldedLayer,
        window: FusedWindow,
        groups: int,
        activation: str,
        output_activation: str = "identity",
        squeeze_excite: ops.SqueezeExcite | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.groups = groups
        self.hidden_channels = convolution.weight.shape[0]
        self.in_channels = expand.weight.shape[1] if expand else self.hidden_channels
        self.out_channels = project.weight.shape[0]
        self.activation = activation
        self.output_activation = output_activation
        self.squeezes = squeeze_excite is not None
        self.se_activation = squeeze_excite.activation if squeeze_excite else "relu"
        self.se_gate = squeeze_excite.gate if squeeze_excite else "sigmoid"
        self._pack("expand", expand)
        self._pack("convolution", convolution)
        self._pack("project", project)
        reduce = FoldedLayer(*squeeze_excite[:2]) if squeeze_excite else None
        excite = FoldedLayer(*squeeze_excite[2:4]) if squeeze_excite else None
        self._pack("se_reduce", reduce)
        self._pack("se_expand", excite)

    def _pack(self, name: str, layer: FoldedLayer | None) -> None:
        weight = ops.packed.pack_weight(layer.weight) if layer else None
        bias = ops.packed.pack_bias(layer.bias, layer.weight.shape[0]) if layer else None
        self.register_buffer(f"{name}_weight", weight)
        self.register_buffer(f"{name}_bias", bias)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Runs on a (N, C, H, W) tensor; the output is channels_last."""
        if check_packed_image(input, self.in_channels):
            return of_one_image(self.forward, input, residual)
        dense = input.contiguous(memory_format=torch.channels_last)
        fused = self.fusable(residual, input, dense)
        packed = self._buffers  # a module's own lookup of a buffer costs more than the rest of this call
        output = ops.packed.mbconv(
            dense,
            packed["expand_weight"],
            packed["expand_bias"],
            packed["convolution_weight"],  # type: ignore[arg-type]
            packed["convolution_bias"],  # type: ignore[arg-type]
            self._squeeze_excite() if self.squeezes else None,
            packed["project_weight"],  # type: ignore[arg-type]
            packed["project_bias"],  # type: ignore[arg-type]
            fused,
            self.window.stride,
            self.window.padding_for(input),
            self.window.dilation,
            self.groups,
            self.hidden_channels,
            self.out_channels,
            self.activation,
            self.output_activation,
            self.se_activation,
            self.se_gate,
        )
        return output if residual is None or fused is not None else output + residual

    def _squeeze_excite(self) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        if self.se_reduce_weight is None or self.se_reduce_bias is None:
            return None
        assert self.se_expand_weight is not None and self.se_expand_bias is not None
        return self.se_reduce_weight, self.se_reduce_bias, self.se_expand_weight, self.se_expand_bias

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``."""
        names = ["expand"] if self.expand_weight is not None else []
        names += ["convolution", "project"] + (["se_reduce", "se_expand"] if self.squeezes else [])
        tensors = [self._buffers[f"{name}_{part}"] for name in names for part in ("weight", "bias")]
        gate: tuple[int, ...] = ()
        if self.se_expand_weight is not None:
            names_of_gate = (self.se_activation, self.se_gate)
            gate = (self.se_expand_weight.shape[3], *map(ops.chain.activation_integer, names_of_gate))
        activations = (self.activation, self.output_activation)
        integers = (
            int(self.expand_weight is not None),
            int(self.squeezes),
            self.hidden_channels,
            self.out_channels,
            *self.window.integers(),
            self.groups,
            *(ops.chain.activation_integer(name) for name in activations),
            *gate,
        )
        return ops.chain.Step(ops.chain.FUSED_BLOCK, integers, tuple(tensors))  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The block's usual name."""
        if self.expand_weight is None and self.se_reduce_weight is None:
            return "depthwise separable"
        return "mbconv" if self.se_reduce_weight is None else "mbconv + squeeze-excite"

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        kind = "" if self.groups == self.hidden_channels else " group width 8"
        channels = [self.in_channels, self.hidden_channels, self.out_channels]
        if self.expand_weight is None:
            channels = channels[1:]
        return f"{self.name}{kind} {self.window} {'->'.join(map(str, channels))} {self.activation}"

    extra_repr = describe
