"""Pass: ConvFirst blocks, and whatever else is a convolution without activation followed by two products."""

from __future__ import annotations

from typing import NamedTuple

from torch import fx

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import FoldedConv, flat_name, module_of, only_user, replace_module
from convfirst_ext.nn import PackedConvNeXtBlock
from convfirst_ext.nn.packed_mbconv import FoldedLayer


class _Match(NamedTuple):
    """The nodes of a block and its folded layers; ``addition`` adds the block's input, or is None."""

    nodes: tuple[fx.Node, fx.Node, fx.Node]
    layers: tuple[FoldedConv, FoldedConv, FoldedConv]
    addition: fx.Node | None


def pack_convfirst(graph_module: fx.GraphModule) -> None:
    """Replaces every such row by a ``PackedConvNeXtBlock`` without layer norm: its hidden tensor is never written."""
    for node in list(graph_module.graph.nodes):
        match = _match(graph_module, node)
        if match is not None:
            _emit(graph_module, match)
    graph_module.graph.eliminate_dead_code()


def _match(graph_module: fx.GraphModule, node: fx.Node) -> _Match | None:
    convolution = _folded(graph_module, node)
    if (
        convolution is None
        or convolution.activation != "identity"
        or convolution.kernel not in ("depthwise", "grouped")
    ):
        return None
    channels, group_width = convolution.weight.shape[:2]
    if channels != convolution.groups * group_width or group_width not in (1, 8) or channels == group_width:
        return None
    expand_node = only_user(node)
    project_node = None if expand_node is None else only_user(expand_node)
    expand, project = _folded(graph_module, expand_node), _folded(graph_module, project_node)
    if expand is None or project is None or expand_node is None or project_node is None:
        return None
    if expand.kernel != "pointwise" or project.kernel != "pointwise" or project.activation != "identity":
        return None
    if expand.weight.shape[0] <= channels:  # nothing to save: the hidden tensor is no larger than the input
        return None
    addition = only_user(project_node)
    if addition is not None and not _adds(addition, node.args[0], project_node):
        addition = None
    if project.weight.shape[0] != channels or not convolution.window.keeps_size:
        addition = None
    return _Match((node, expand_node, project_node), (convolution, expand, project), addition)


def _folded(graph_module: fx.GraphModule, node: fx.Node | None) -> FoldedConv | None:
    module = module_of(graph_module, node)
    return module if isinstance(module, FoldedConv) else None


def _adds(addition: fx.Node, start: object, value: fx.Node) -> bool:
    """Whether a node is the sum of two values."""
    if addition.kwargs or len(addition.args) != 2 or set(addition.args) != {start, value}:
        return False
    if addition.op == "call_method":
        return addition.target in ("add", "add_")
    return addition.op == "call_function" and addition.target in recognition.ADDITIONS


def _emit(graph_module: fx.GraphModule, match: _Match) -> None:
    convolution, expand, project = match.layers
    packed = PackedConvNeXtBlock(
        FoldedLayer(convolution.weight, convolution.bias),
        FoldedLayer(expand.weight, expand.bias),
        FoldedLayer(project.weight, project.bias),
        convolution.window,
        expand.activation,
        None,
        match.addition is not None,
    )
    packed.source = " ".join(layer.source for layer in match.layers)
    last = match.nodes[-1]
    last.args = (match.nodes[0].args[0],)
    replace_module(graph_module, last, flat_name(convolution.source, "fused"), packed)
    if match.addition is not None:
        match.addition.replace_all_uses_with(last)
        graph_module.graph.erase_node(match.addition)
    graph_module.graph.eliminate_dead_code()
