"""Pass: folded convolutions become inverted residuals and depthwise-separable pairs, with their residual additions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx, nn

from convfirst_ext import ops
from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import (
    FoldedConv,
    absorb_activation,
    activation_at,
    flat_name,
    module_of,
    only_user,
    replace_module,
)
from convfirst_ext.nn import PackedConv2d, PackedMBConv
from convfirst_ext.nn.packed_mbconv import FoldedLayer
from convfirst_ext.nn.window import POINTWISE


class BlockMatch(NamedTuple):
    """The nodes of an inverted residual; those that it lacks are None."""

    expand: fx.Node | None
    convolution: fx.Node
    squeeze_excite: fx.Node | None
    project: fx.Node

    @property
    def start(self) -> fx.Node:
        """The node that reads the block's input."""
        return self.convolution if self.expand is None else self.expand


def fuse_blocks(graph_module: fx.GraphModule) -> None:
    """Replaces every inverted residual that the fused kernel can express by a ``PackedMBConv``."""
    for node in list(graph_module.graph.nodes):
        match = match_block(graph_module, node)
        if match is not None:
            _emit(graph_module, match)
    for node in list(graph_module.graph.nodes):
        _fuse_gated_projection(graph_module, node)
    graph_module.graph.eliminate_dead_code()


def pack_single_convolutions(graph_module: fx.GraphModule) -> None:
    """Turns every folded convolution that no block took into a ``PackedConv2d``."""
    for node in list(graph_module.graph.nodes):
        conv = module_of(graph_module, node)
        if isinstance(conv, FoldedConv):
            packed = PackedConv2d(conv.kernel, conv.weight, conv.bias, conv.window, conv.groups, conv.activation)
            packed.source = conv.source
            replace_module(graph_module, node, flat_name(conv.source, "fused"), packed)
            _absorb_sum_activation(graph_module, fuse_residual(graph_module, node), packed)
    graph_module.graph.eliminate_dead_code()


def put_block(graph_module: fx.GraphModule, start: fx.Node, end: fx.Node, name: str, block: nn.Module) -> None:
    """Puts one module where the nodes from `start` to `end` are, and lets it add the residual behind them."""
    end.args = (start.args[0],)
    replace_module(graph_module, end, name, block)
    fuse_residual(graph_module, end)
    graph_module.graph.eliminate_dead_code()


def _absorb_sum_activation(graph_module: fx.GraphModule, node: fx.Node | None, packed: PackedConv2d) -> None:
    """Takes the clamp behind a sum out of the graph, where a convolution adds that sum."""
    if node is None or activation_at(graph_module, only_user(node)) not in ("relu", "relu6"):
        return
    packed.sum_activation = absorb_activation(graph_module, node)


def fuse_residual(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Lets a packed module add what the graph adds to its result, where nothing else uses that result.

    Returns:
        The node that now calls it with both, or None where nothing is added.
    """
    addition = only_user(node)
    if addition is None or len(addition.args) != 2 or addition.kwargs:
        return None
    if addition.op == "call_function":
        if addition.target not in recognition.ADDITIONS:
            return None
    elif addition.op != "call_method" or addition.target not in ("add", "add_"):
        return None
    first, second = addition.args
    other = second if first is node else first
    if not isinstance(other, fx.Node) or other is node:
        return None
    with graph_module.graph.inserting_before(addition):
        fused = graph_module.graph.call_module(str(node.target), (node.args[0], other))
    addition.replace_all_uses_with(fused)
    graph_module.graph.erase_node(addition)
    graph_module.graph.erase_node(node)
    return fused


def _folded(graph_module: fx.GraphModule, node: object, *kernels: str) -> FoldedConv | None:
    module = module_of(graph_module, node) if isinstance(node, fx.Node) else None
    return module if isinstance(module, FoldedConv) and module.kernel in kernels else None


def match_block(graph_module: fx.GraphModule, node: fx.Node) -> BlockMatch | None:
    """The inverted residual whose convolution a node calls, or None."""
    convolution = _folded(graph_module, node, "depthwise", "grouped")
    if convolution is None:
        return None
    channels, group_width = convolution.weight.shape[:2]
    if channels != convolution.groups * group_width or group_width not in (1, 8):
        return None
    follower = only_user(node)
    squeeze_excite = None
    gate = module_of(graph_module, follower)
    if follower is not None and gate is not None and recognition.squeeze_excite_of(gate) is not None:
        squeeze_excite, follower = follower, only_user(follower)
    if follower is None or _folded(graph_module, follower, "pointwise") is None:
        return None
    source = node.args[0]
    expansion = _folded(graph_module, source, "pointwise")
    expands = (
        expansion is not None
        and isinstance(source, fx.Node)
        and len(source.users) == 1
        and expansion.activation == convolution.activation
    )
    return BlockMatch(source if expands else None, node, squeeze_excite, follower)  # type: ignore[arg-type]


def _fuse_gated_projection(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """A squeeze-excite that no block took and the 1x1 convolution behind it: a block that convolves nothing."""
    gate_module, follower = module_of(graph_module, node), only_user(node)
    gate = None if gate_module is None else recognition.squeeze_excite_of(gate_module)
    projection = _folded(graph_module, follower, "pointwise")
    if gate is None or projection is None or follower is None or projection.groups != 1:
        return
    channels = projection.weight.shape[1]
    packed = PackedMBConv(
        None,
        FoldedLayer(torch.ones(channels, 1, 1, 1), None),
        FoldedLayer(projection.weight, projection.bias),
        POINTWISE,
        channels,
        "identity",
        projection.activation,
        gate,
    )
    packed.source = projection.source
    put_block(graph_module, node, follower, flat_name(projection.source, "fused"), packed)


def _emit(graph_module: fx.GraphModule, match: BlockMatch) -> None:
    def conv(node: fx.Node) -> FoldedConv:
        module = module_of(graph_module, node)
        assert isinstance(module, FoldedConv)
        return module

    expansion = conv(match.expand) if match.expand is not None else None
    convolution, projection = conv(match.convolution), conv(match.project)
    gate: ops.SqueezeExcite | None = None
    if match.squeeze_excite is not None:
        gate_module = module_of(graph_module, match.squeeze_excite)
        assert gate_module is not None
        gate = recognition.squeeze_excite_of(gate_module)
    packed = PackedMBConv(
        FoldedLayer(expansion.weight, expansion.bias) if expansion else None,
        FoldedLayer(convolution.weight, convolution.bias),
        FoldedLayer(projection.weight, projection.bias),
        convolution.window,
        convolution.groups,
        convolution.activation,
        projection.activation,
        gate,
    )
    sources = [c.source for c in (expansion, convolution, projection) if c is not None]
    packed.source = " ".join(sources)
    put_block(graph_module, match.start, match.project, flat_name(convolution.source, "fused"), packed)
