"""ConvNeXt's blocks and layer norms in a lifted graph, found by what they compute, as modules that the passes know."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from convfirst_ext.fusion import recognition, stand_ins
from convfirst_ext.fusion.convnext import convnext_parts
from convfirst_ext.fusion.folding import activation_at, module_of, only_user
from convfirst_ext.nn.activation import activation_module

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_PRODUCTS = (operator.mul, operator.imul, torch.mul)

Replace = Callable[[fx.Node, nn.Module, fx.Node, list[fx.Node]], None]


class _Scaled(NamedTuple):
    node: fx.Node
    scale: Tensor | None
    held: list[fx.Node]


def lift_convnext(graph_module: fx.GraphModule, constant: Callable[[Any], Tensor | None], replace: Replace) -> None:
    """Turns ConvNeXt blocks, and layer norms between permutations, into single modules.

    Args:
        graph_module: with convolutions, linear layers and layer norms as modules.
        constant: the weight that a node stands for, or None.
        replace: lets a module, called on a source, give a node's value; and is told which weights it holds.
    """
    for node in list(graph_module.graph.nodes):
        if isinstance(module_of(graph_module, node), nn.Conv2d):
            _lift_block(graph_module, node, constant, replace)
    graph_module.graph.eliminate_dead_code()
    for node in list(graph_module.graph.nodes):
        norm = module_of(graph_module, node)
        if type(norm) is not nn.LayerNorm or _permutation(node.args[0]) != _TO_LAST:
            continue
        last = only_user(node)
        if _permutation(last) == _TO_FIRST:
            before: Any = node.args[0]
            replace(last, stand_ins.LayerNorm2d(norm), before.args[0], [])  # type: ignore[arg-type]
    graph_module.graph.eliminate_dead_code()


def _lift_block(
    graph_module: fx.GraphModule, first: fx.Node, constant: Callable[[Any], Tensor | None], replace: Replace
) -> None:
    found = _layers_behind(graph_module, first)
    if found is None:
        return
    (depthwise, norm, expand, activation, project), end = found
    scaled = _scale_behind(end, constant)
    sum_node = only_user(scaled.node)
    source: Any = first.args[0]
    if sum_node is None or sum_node.target not in recognition.ADDITIONS or sum_node.kwargs:
        return
    if len(sum_node.args) != 2 or set(sum_node.args) != {scaled.node, source}:
        return
    block = stand_ins.ConvNeXtBlock(depthwise, norm, expand, activation, project, scaled.scale).eval()
    if convnext_parts(block) is not None:
        replace(sum_node, block, source, scaled.held)


_Found = tuple[tuple[nn.Conv2d, nn.LayerNorm, nn.Linear, nn.Module, nn.Linear], fx.Node]


def _layers_behind(graph_module: fx.GraphModule, first: fx.Node) -> _Found | None:
    """The layers from a depthwise convolution on, and the node, channels first again, where they end."""
    layers: list[nn.Module] = []
    node, channels_last = first, False
    while len(layers) < 4:
        following = only_user(node)
        if following is None:
            return None
        node = following
        axes = _permutation(node)
        if axes is not None:
            if axes != (_TO_FIRST if channels_last else _TO_LAST):
                return None
            channels_last = not channels_last
            continue
        layer = _layer_of(graph_module, node, len(layers), channels_last)
        if layer is None:
            return None
        layers.append(layer)
    end: fx.Node | None = node
    if channels_last:
        end = only_user(node)
        if _permutation(end) != _TO_FIRST:
            return None
    return ((module_of(graph_module, first), *layers), end)  # type: ignore[return-value]


def _layer_of(graph_module: fx.GraphModule, node: fx.Node, place: int, channels_last: bool) -> nn.Module | None:
    """The node's layer if it belongs at this place: layer norm, linear layer, activation, linear layer."""
    if place == 2:
        name = activation_at(graph_module, node)
        return None if name is None else activation_module(name)
    module = module_of(graph_module, node)
    if place == 0:
        return module if type(module) is nn.LayerNorm and channels_last else None
    if channels_last:
        return module if type(module) is nn.Linear else None
    if type(module) is not nn.Conv2d or not recognition.is_product(module):
        return None
    return stand_ins.linear(module.weight.flatten(1), module.bias)


def _scale_behind(end: fx.Node, constant: Callable[[Any], Tensor | None]) -> _Scaled:
    """The product with layer scale behind a node, or the node itself."""
    product = only_user(end)
    is_product = product is not None and (
        product.target in _PRODUCTS or product.op == "call_method" and product.target in ("mul", "mul_")
    )
    if product is None or not is_product or product.kwargs or len(product.args) != 2:
        return _Scaled(end, None, [])
    factor: Any = product.args[1] if product.args[0] is end else product.args[0]
    shaped = isinstance(factor, fx.Node) and factor.op == "call_method" and factor.target in ("reshape", "view")
    if shaped and factor.args[1:] in ((1, -1, 1, 1), ((1, -1, 1, 1),)):
        scale = constant(factor.args[0])
        return (
            _Scaled(product, scale, [factor.args[0]])
            if scale is not None and scale.dim() == 1
            else _Scaled(end, None, [])
        )
    scale = constant(factor)
    if scale is None or scale.dim() not in (3, 4) or scale.numel() != scale.shape[-3]:
        return _Scaled(end, None, [])
    return _Scaled(product, scale, [factor])


def _permutation(node: Any) -> tuple[int, ...] | None:
    """The axes of a permutation, or None for any other node."""
    if not isinstance(node, fx.Node) or node.kwargs or len(node.args) < 2:
        return None
    if node.target is not torch.permute and not (node.op == "call_method" and node.target == "permute"):
        return None
    axes = node.args[1:] if len(node.args) > 2 else node.args[1]
    if not isinstance(axes, (tuple, list)) or not all(isinstance(axis, int) for axis in axes):
        return None
    return tuple(axis % len(axes) for axis in axes)  # type: ignore[operator]
