"""Pass: BlurPool becomes a packed module, two of them that are concatenated become one."""

from __future__ import annotations

import torch
from torch import fx

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import flat_name, module_of, replace_module
from convfirst_ext.nn import PackedBlurPool


def pack_blur_pools(graph_module: fx.GraphModule) -> None:
    """Replaces every BlurPool, and joins pairs whose results are put side by side."""
    for node in list(graph_module.graph.nodes):
        module = module_of(graph_module, node)
        shape = None if module is None or len(node.args) != 1 else recognition.blur_pool_of(module)
        if shape is not None:
            packed = PackedBlurPool(shape.channels, shape.stride)
            packed.source = str(node.target)
            replace_module(graph_module, node, flat_name(packed.source, "packed"), packed)
    for node in list(graph_module.graph.nodes):
        _join(graph_module, node)
    graph_module.graph.eliminate_dead_code()


def _join(graph_module: fx.GraphModule, node: fx.Node) -> None:
    if node.op != "call_function" or node.target not in (torch.cat, torch.concat, torch.concatenate):
        return
    values, dim = _concatenated(node)
    if len(values) != 2 or dim not in (1, -3):
        return
    pools = [_pool(graph_module, value) for value in values]
    first, second = pools
    if first is None or second is None or any(len(value.users) != 1 for value in values):
        return
    if (first.in_channels, first.window) != (second.in_channels, second.window):
        return
    packed = PackedBlurPool(first.in_channels, first.window.stride[0], images=2)
    packed.source = " ".join(dict.fromkeys((first.source, second.source)))
    with graph_module.graph.inserting_before(node):
        call = graph_module.graph.call_module("", tuple(value.args[0] for value in values))
    replace_module(graph_module, call, flat_name(first.source, "packed"), packed)
    node.replace_all_uses_with(call)
    graph_module.graph.erase_node(node)


def _concatenated(node: fx.Node) -> tuple[tuple[fx.Node, ...], object]:
    """The values of a concatenation and its dimension; none where they are not written out."""
    values = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, fx.Node) for value in values):
        return (), dim
    return tuple(values), dim  # type: ignore[arg-type]


def _pool(graph_module: fx.GraphModule, node: fx.Node) -> PackedBlurPool | None:
    module = module_of(graph_module, node)
    return module if isinstance(module, PackedBlurPool) and module.images == 1 else None
