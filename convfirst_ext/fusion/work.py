"""Multiply-adds and bytes of one call of a block."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convfirst_ext.fusion.tiles import Tiles
from convfirst_ext.nn import PackedConv2d, PackedConvNeXtBlock, PackedLayerNorm, PackedLinear, PackedMBConv
from convfirst_ext.nn.fused_blocks import FusedConvFirst
from convfirst_ext.nn.packed_module import PackedModule

_LANES = 16
_FLOAT = 4


class Call(NamedTuple):
    """What a block got and gave."""

    input: Tensor
    residual: Tensor | None
    output: Tensor


class Work(NamedTuple):
    """Multiply-adds; bytes moved and bytes that cannot be avoided, as ``Record`` defines them."""

    macs: int
    bytes_moved: int
    bytes_bound: int


class _Layer(NamedTuple):
    """A matrix product inside a block: inputs of an output, output channels, positions where they are computed."""

    inputs: int
    outputs: int
    positions: int

    @property
    def macs(self) -> int:
        return self.inputs * self.outputs * self.positions

    @property
    def weight_bytes(self) -> int:
        """Weights and biases in bytes, without the padding to whole blocks."""
        return (self.inputs + 1) * self.outputs * _FLOAT


def packed_work(module: PackedModule, call: Call, tiles: Tiles | None) -> Work:
    """The work of a packed module; of one that multiplies nothing, such as pooling, its bytes only."""
    layers = _layers(module, call)
    buffers = sum(_size(buffer) for buffer in module.buffers())
    ends = _size(call.input) + _size(call.output)
    added = call.residual
    if isinstance(module, PackedConvNeXtBlock) and module.adds_input:
        added = call.input
    residual = 0 if added is None else _size(added)
    moved = ends + buffers + residual + _layout_copies(call)
    if tiles is not None and tiles.order == "strips, twice":
        moved += _size(call.input) + _first_half_bytes(module)
    # A residual that is the input need not be read again.
    apart = added is not None and added.data_ptr() != call.input.data_ptr()
    weights = sum(layer.weight_bytes for layer in layers) if layers else _norm_bytes(module)
    return Work(sum(layer.macs for layer in layers), moved, ends + weights + (residual if apart else 0))


def convolution_work(module: nn.Conv2d | nn.ConvTranspose2d, call: Call, ours: bool) -> Work:
    """The work of an unpacked convolution, by our kernel, which packs its weights in the call, or by torch's."""
    channels, products = module.out_channels, math.prod(module.kernel_size) * module.in_channels // module.groups
    if isinstance(module, nn.ConvTranspose2d):
        macs = call.input.numel() * math.prod(module.kernel_size) * channels // module.groups
    else:
        macs = call.output.numel() * products
    parameters = sum(_size(parameter) for parameter in module.parameters())
    bound = _size(call.input) + parameters + _size(call.output)
    if not ours:
        return Work(macs, bound, bound)
    packed = (products + 1) * -(-channels // _LANES) * _LANES * _FLOAT
    return Work(macs, bound + 2 * packed + _layout_copies(call), bound)


def fused_work(module: nn.Module, call: Call) -> Work:
    """The work of a fused block: every layer where it is computed, squeeze-excite once an image."""
    before, after = (tensor.numel() // tensor.shape[1] for tensor in (call.input, call.output))
    early = {"expand_weight", "conv_weight"} if getattr(module, "blur", False) else {"expand_weight"}
    if isinstance(module, FusedConvFirst):
        early = {"conv_weight"}
    macs = 0
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            positions = len(call.output) if name.startswith("se_") else before if name in early else after
            macs += positions * parameter.numel()
    bound = _size(call.input) + _size(call.output) + sum(_size(parameter) for parameter in module.parameters())
    return Work(macs, bound + _layout_copies(call), bound)


def _layers(module: PackedModule, call: Call) -> list[_Layer]:
    if isinstance(module, PackedConv2d):  # Winograd's transformed weights say nothing of the layer's products
        products = math.prod(module.window.kernel) * module.in_channels // module.groups
        return [_Layer(products, module.out_channels, call.output.numel() // module.out_channels)]
    if isinstance(module, PackedLinear):
        return [_layer(module.weight, module.out_channels, call.output.numel() // module.out_channels)]
    if isinstance(module, PackedConvNeXtBlock):
        pixels = call.output.numel() // module.out_channels
        return [
            _layer(module.depthwise_weight, module.in_channels, pixels),
            _layer(module.expand_weight, module.hidden_channels, pixels),
            _layer(module.project_weight, module.out_channels, pixels),
        ]
    if not isinstance(module, PackedMBConv):
        return []
    images, _, height, width = call.input.shape
    before, after = images * height * width, images * call.output.shape[2] * call.output.shape[3]
    layers = [
        _layer(module.convolution_weight, module.hidden_channels, after),
        _layer(module.project_weight, module.out_channels, after),
    ]
    if module.expand_weight is not None:
        layers.append(_layer(module.expand_weight, module.hidden_channels, before))
    if module.se_reduce_weight is not None and module.se_expand_weight is not None:
        squeezed = module.se_expand_weight.shape[3]  # the first layer's packed outputs are padded
        layers.append(_layer(module.se_reduce_weight, squeezed, images))
        layers.append(_layer(module.se_expand_weight, module.hidden_channels, images))
    return layers


def _layer(packed: Tensor, outputs: int, positions: int) -> _Layer:
    return _Layer(math.prod(packed.shape[1:4]), outputs, positions)


def _norm_bytes(module: PackedModule) -> int:
    """Scale and shift of a layer norm without the padding to whole blocks; nothing of other modules."""
    return 2 * module.in_channels * _FLOAT if isinstance(module, PackedLayerNorm) else 0


def _first_half_bytes(module: PackedModule) -> int:
    """Weights up to the hidden tensor, which squeeze-excite's second pass computes anew."""
    named = module.named_buffers()
    return sum(_size(buffer) for name, buffer in named if name.startswith(("expand_", "convolution_")))


def _layout_copies(call: Call) -> int:
    """Bytes read and written where a tensor is copied to channels_last, or an output from it."""
    ends = [tensor for tensor in (call.input, call.output) if tensor.dim() == 4]
    return sum(2 * _size(tensor) for tensor in ends if not tensor.is_contiguous(memory_format=torch.channels_last))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
