"""Pass: what follows the last block of a classifier: global average pooling and linear layers.

At small batches a linear layer only reads its weights once, which torch does in one thread.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import activation_at, bypass, flat_name, module_of, only_user, replace_module
from convfirst_ext.nn import PackedLinear, PackedPool
from convfirst_ext.nn.packed_module import PackedModule


def pack_classifier(graph_module: fx.GraphModule) -> None:
    """Replaces global pooling of packed modules' results, and the linear layers behind them or at the output."""
    for node in list(graph_module.graph.nodes):
        if is_global_pool(graph_module, node) and isinstance(module_of_first(graph_module, node), PackedModule):
            _pack_pool(graph_module, node)
    for node in list(graph_module.graph.nodes):
        linear = _linear_at(graph_module, node)
        if linear is not None and (_is_output(node) or _reads_packed(graph_module, node)):
            _pack_linear(graph_module, node, *linear)
    graph_module.graph.eliminate_dead_code()


def is_global_pool(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node averages every channel over height and width and keeps both dimensions."""
    if node.op == "call_module":
        module = module_of(graph_module, node)
        if type(module) is not nn.AdaptiveAvgPool2d or recognition.has_hooks(module):
            return False
        return module.output_size in (1, (1, 1))
    if node.op == "call_function" and node.target is F.adaptive_avg_pool2d:
        size = node.args[1] if len(node.args) == 2 else node.kwargs.get("output_size")
        return size in (1, (1, 1), [1, 1])
    return _mean_axes(node) == (2, 3) and node.kwargs.get("keepdim") is True


def is_flatten(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node turns (N, C, 1, 1) into (N, C)."""
    if node.op == "call_module":
        module = module_of(graph_module, node)
        plain = type(module) is nn.Flatten and not recognition.has_hooks(module)
        return plain and (module.start_dim, module.end_dim) in ((1, -1), (1, 3))  # type: ignore[union-attr,operator]
    if (node.op == "call_function" and node.target is torch.flatten) or (
        node.op == "call_method" and node.target == "flatten"
    ):
        return node.args[1:] in ((1,), (1, -1), (1, 3)) and not node.kwargs
    return False


def module_of_first(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module whose result is a node's first argument, or None."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return None
    return graph_module.get_submodule(str(source.target))


def _mean_axes(node: fx.Node) -> tuple[int, ...] | None:
    if node.op != "call_method" or node.target != "mean" or len(node.args) != 2 or set(node.kwargs) - {"keepdim"}:
        return None
    axes = node.args[1]
    if not isinstance(axes, (tuple, list)) or not all(isinstance(axis, int) for axis in axes):
        return None
    return tuple(sorted(axis % 4 for axis in axes))  # type: ignore[operator]


def _pack_pool(graph_module: fx.GraphModule, node: fx.Node) -> None:
    pool = PackedPool()
    pool.source = node.name if node.op != "call_module" else str(node.target)
    with graph_module.graph.inserting_before(node):
        packed = graph_module.graph.call_module("", (node.args[0],))
    replace_module(graph_module, packed, flat_name(pool.source, "fused"), pool)
    node.replace_all_uses_with(packed)
    graph_module.graph.erase_node(node)


def _linear_at(graph_module: fx.GraphModule, node: fx.Node) -> tuple[str, Tensor, Tensor | None] | None:
    """Name, weight and bias of the linear layer that a node computes, or None."""
    linear = module_of(graph_module, node)
    if type(linear) is nn.Linear and not recognition.has_hooks(linear):
        return str(node.target), linear.weight, linear.bias
    if node.op != "call_function" or node.target is not F.linear:
        return None
    weight, bias = [*node.args[1:], *node.kwargs.values(), None][:2]
    constants = [isinstance(n, fx.Node) and n.op == "get_attr" for n in (weight, bias)]
    if not constants[0] or not (constants[1] or bias is None) or set(node.kwargs) - {"weight", "bias"}:
        return None
    if len(node.args) + len(node.kwargs) > 3 or "weight" in node.kwargs and len(node.args) > 1:
        return None
    tensors = [None if n is None else _attribute(graph_module, str(n.target)) for n in (weight, bias)]  # type: ignore[union-attr]
    return str(weight.target).removesuffix(".weight"), *tensors  # type: ignore[union-attr,return-value]


def _attribute(graph_module: fx.GraphModule, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    value = getattr(graph_module.get_submodule(owner), leaf)
    assert isinstance(value, Tensor)
    return value


def _is_output(node: fx.Node) -> bool:
    user = only_user(node)
    return user is not None and user.op == "output"


def _reads_packed(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    source = node.args[0]
    while isinstance(source, fx.Node) and is_flatten(graph_module, source):
        source = source.args[0]
    return isinstance(source, fx.Node) and isinstance(module_of(graph_module, source), PackedModule)


def _pack_linear(graph_module: fx.GraphModule, node: fx.Node, source: str, weight: Tensor, bias: Tensor | None) -> None:
    follower = only_user(node)
    activation = activation_at(graph_module, follower)
    if follower is not None and activation is not None:
        bypass(graph_module, follower)
    packed = PackedLinear(weight.detach(), None if bias is None else bias.detach(), activation or "identity")
    packed.source = source
    with graph_module.graph.inserting_before(node):
        call = graph_module.graph.call_module("", (node.args[0],))
    replace_module(graph_module, call, flat_name(source, "fused"), packed)
    node.replace_all_uses_with(call)
    graph_module.graph.erase_node(node)
