"""Pass: ConvNeXt blocks and the layer norms between stages, of timm and of torchvision."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import flat_name, module_of, replace_module
from convfirst_ext.nn import PackedConvNeXtBlock, PackedLayerNorm
from convfirst_ext.nn.packed_convnext_block import fold_layer_norm
from convfirst_ext.nn.packed_mbconv import FoldedLayer


class ConvNeXtParts(NamedTuple):
    """The layers of a block: depthwise, layer norm, expand, activation, project, layer scale."""

    depthwise: nn.Conv2d
    norm: nn.LayerNorm
    expand: nn.Module
    activation: str
    project: nn.Module
    scale: Tensor | None


def pack_convnext(graph_module: fx.GraphModule) -> int:
    """Replaces every ConvNeXt block and every layer norm over the channels of an image by its packed form.

    Returns:
        How many blocks were replaced.
    """
    blocks = 0
    for node in list(graph_module.graph.nodes):
        module = module_of(graph_module, node)
        if module is None:
            continue
        source, parts = str(node.target), convnext_parts(module)
        packed: PackedConvNeXtBlock | PackedLayerNorm
        if parts is not None:
            packed = _packed_block(parts)
            blocks += 1
        elif is_image_layer_norm(module):
            packed = _packed_norm(module)  # type: ignore[arg-type]
        else:
            continue
        packed.source = source
        replace_module(graph_module, node, flat_name(source, "fused"), packed)
    return blocks


def convnext_parts(module: nn.Module) -> ConvNeXtParts | None:
    """The layers of a ConvNeXt block that the kernel can express, or None."""
    name = type(module).__name__
    if name == "ConvNeXtBlock":
        found = _timm_layers(module)
    elif name == "CNBlock":
        found = _torchvision_layers(module)
    else:
        return None
    if found is None or any(recognition.has_hooks(part) for part in module.modules()):
        return None
    depthwise, norm, expand, activation, project, scale = found
    kind = recognition.activation_of_module(activation)
    fits = (
        isinstance(depthwise, nn.Conv2d)
        and recognition.is_convolution(depthwise)
        and depthwise.groups == depthwise.in_channels == depthwise.out_channels > 1
        and recognition.window_of(depthwise).keeps_size
        and isinstance(norm, nn.LayerNorm)
        and norm.normalized_shape == (depthwise.out_channels,)
        and _is_linear(expand)
        and _is_linear(project)
        and kind is not None
    )
    return ConvNeXtParts(depthwise, norm, expand, kind, project, scale) if fits else None  # type: ignore[arg-type]


def is_image_layer_norm(module: nn.Module) -> bool:
    """Whether the module is timm's or torchvision's layer norm over the channels of an image."""
    return (
        type(module).__name__ == "LayerNorm2d"
        and isinstance(module, nn.LayerNorm)
        and len(module.normalized_shape) == 1
        and not recognition.has_hooks(module)
    )


_Layers = tuple[nn.Module, nn.Module, nn.Module, nn.Module, nn.Module, Tensor | None]


def _timm_layers(block: nn.Module) -> _Layers | None:
    mlp = getattr(block, "mlp", None)
    names = ("conv_dw", "norm", "gamma", "shortcut")
    if type(mlp).__name__ != "Mlp" or not all(hasattr(block, name) for name in names):
        return None
    assert mlp is not None
    if not isinstance(block.shortcut, nn.Identity) or not isinstance(getattr(mlp, "norm", None), nn.Identity):
        return None
    return block.conv_dw, block.norm, mlp.fc1, mlp.act, mlp.fc2, block.gamma  # type: ignore[return-value]


def _torchvision_layers(block: nn.Module) -> _Layers | None:
    layers = getattr(block, "block", None)
    if not isinstance(layers, nn.Sequential) or len(layers) != 7 or not hasattr(block, "layer_scale"):
        return None
    permutations = [getattr(layers[i], "dims", None) for i in (1, 6)]
    if permutations != [[0, 2, 3, 1], [0, 3, 1, 2]]:
        return None
    return layers[0], layers[2], layers[3], layers[4], layers[5], block.layer_scale  # type: ignore[return-value]


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return True
    return isinstance(module, nn.Conv2d) and recognition.is_convolution(module) and recognition.is_product(module)


def _layer(module: nn.Module) -> FoldedLayer:
    weight = module.weight.detach().double()  # type: ignore[operator,union-attr]
    bias = None if module.bias is None else module.bias.detach().double()  # type: ignore[operator,union-attr]
    return FoldedLayer(weight.flatten(1), bias)  # type: ignore[arg-type,operator]


def _packed_block(parts: ConvNeXtParts) -> PackedConvNeXtBlock:
    project = _layer(parts.project)
    if parts.scale is not None:
        scale = parts.scale.detach().double().flatten()
        bias = None if project.bias is None else project.bias * scale
        project = FoldedLayer(project.weight * scale[:, None], bias)
    depthwise, norm = parts.depthwise, parts.norm
    return PackedConvNeXtBlock(
        FoldedLayer(depthwise.weight.detach(), depthwise.bias),
        fold_layer_norm(norm.weight, norm.bias, _layer(parts.expand)),
        FoldedLayer(project.weight.float(), None if project.bias is None else project.bias.float()),
        recognition.window_of(depthwise),
        parts.activation,
        norm.eps,
        True,
    )


def _packed_norm(norm: nn.LayerNorm) -> PackedLayerNorm:
    channels = norm.normalized_shape[0]
    weight = torch.ones(channels) if norm.weight is None else norm.weight.detach()
    bias = torch.zeros(channels) if norm.bias is None else norm.bias.detach()
    return PackedLayerNorm(weight, bias, norm.eps)
