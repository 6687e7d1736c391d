"""Pass: packed modules that follow each other become one ``PackedChain``."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from convfirst_ext.fusion.classifier import is_flatten
from convfirst_ext.fusion.folding import replace_module
from convfirst_ext.nn import (
    PackedBlurPool,
    PackedChain,
    PackedConvNeXtBlock,
    PackedLayerNorm,
    PackedLinear,
    PackedPool,
)
from convfirst_ext.nn.packed_chain import Link
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.ops.chain import MOST_CHANNELS, MOST_EXTENT

_LEAST_LINKS = 2


# What a graph does to a value without work for several threads.
_VIEWS = (getattr, operator.getitem, torch.flatten, torch.reshape, torch.squeeze)
_VIEW_METHODS = ("size", "dim", "view", "reshape", "flatten", "squeeze", "contiguous")


@dataclass
class _Run:
    """Nodes that can become one chain: packed modules, and flattenings of single pixels between them."""

    entry: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)

    def reads(self, node: object) -> bool:
        return node is self.entry or node in self.nodes


def chain_modules(graph_module: fx.GraphModule) -> None:
    """Replaces every run of packed modules by a chain that gives only its last value to the rest of the graph."""
    run: _Run | None = None
    runs = []
    for node in list(graph_module.graph.nodes):
        if not _can_follow(graph_module, node, run):
            if not _can_start(graph_module, node):
                continue
            run = _Run(node.args[0])
            runs.append(run)
        assert run is not None
        run.nodes.append(node)
    pieces = [piece for run in runs for piece in _pieces(run) if not _is_flat(graph_module, piece.entry)]
    for number, piece in reversed(list(enumerate(pieces))):  # a piece's entry may be the last node of the one before
        _emit(graph_module, piece, f"chain_{number}")
    graph_module.graph.eliminate_dead_code()


def share_threads(graph_module: fx.GraphModule) -> None:
    """Lets chains run on torch's threads where they are not all that a graph does.

    Torch's threads spin for milliseconds after each of its operators, and would take the cores from a chain's own.
    """
    chains = [module for module in graph_module.modules() if isinstance(module, PackedChain)]
    alone = len(chains) == 1 and not any(_works(graph_module, node) for node in graph_module.graph.nodes)
    for chain in chains:
        chain.own_threads = alone


def _works(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        passive = PackedChain, nn.Identity, nn.Flatten
        return not isinstance(graph_module.get_submodule(str(node.target)), passive)
    if node.op == "call_function":
        return node.target not in _VIEWS
    return node.op == "call_method" and node.target not in _VIEW_METHODS


def _packed(graph_module: fx.GraphModule, node: fx.Node) -> PackedModule | None:
    if node.op != "call_module" or node.kwargs:
        return None
    module = graph_module.get_submodule(str(node.target))
    return module if isinstance(module, PackedModule) and _fits(module) else None


def _fits(module: PackedModule) -> bool:
    window = module.window
    extents = (*window.kernel, *window.stride, *window.dilation, *(window.padding or ()))
    channels = [size for tensor in module.step().tensors for size in tensor.shape]
    return max(extents) < MOST_EXTENT and max(channels, default=0) < MOST_CHANNELS


def _can_start(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    module = _packed(graph_module, node)
    if module is None or isinstance(module, PackedLinear):  # a linear layer's input has two dimensions
        return False
    alone = len({id(argument) for argument in node.args}) == 1 and isinstance(node.args[0], fx.Node)
    return alone and _adds_alike(graph_module, node)


def _can_follow(graph_module: fx.GraphModule, node: fx.Node, run: _Run | None) -> bool:
    if run is None or not node.args or not all(run.reads(argument) for argument in _inputs(graph_module, node)):
        return False
    if is_flatten(graph_module, node):
        return _is_pixel(graph_module, node.args[0])
    module = _packed(graph_module, node)
    if isinstance(module, PackedLinear):
        return _is_pixel(graph_module, node.args[0]) and _is_flat(graph_module, node.args[0])
    return module is not None and not _is_flat(graph_module, node.args[0]) and _adds_alike(graph_module, node)


def _adds_alike(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what a module adds to its result certainly has the result's shape: in a chain nothing broadcasts."""
    if len(node.args) < 2:
        return True
    module, added = _packed(graph_module, node), node.args[1]
    assert module is not None
    if isinstance(module, PackedBlurPool):
        return _alike(graph_module, node.args[0], added)
    if added is node.args[0]:
        return module.in_channels == module.out_channels and module.window.keeps_size
    if not isinstance(added, fx.Node) or _channels(graph_module, added) != module.out_channels:
        return False
    return _extent(graph_module, node) == _extent(graph_module, added)


def _alike(graph_module: fx.GraphModule, first: object, second: object) -> bool:
    """Whether two values certainly have one shape."""
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return False
    channels = _channels(graph_module, first)
    same = channels is not None and channels == _channels(graph_module, second)
    return same and _extent(graph_module, first) == _extent(graph_module, second)


def _channels(graph_module: fx.GraphModule, node: fx.Node) -> int | None:
    """The channels of a value, for an input told by a module that reads it."""
    module = _packed(graph_module, node)
    if isinstance(module, PackedPool) and isinstance(node.args[0], fx.Node):
        return _channels(graph_module, node.args[0])
    if module is not None:
        return module.out_channels
    readers = [_packed(graph_module, user) for user in node.users if user.args and user.args[0] is node]
    return next((r.in_channels for r in readers if r is not None and hasattr(r, "in_channels")), None)


def _extent(graph_module: fx.GraphModule, node: fx.Node) -> tuple[object, ...]:
    """What decides height and width of a value: equal for two values only where these are equal."""
    windows: list[object] = []
    module = _packed(graph_module, node)
    while module is not None and not isinstance(module, PackedPool):
        if not module.window.keeps_size:
            windows.append(module.window.size_rule())
        node = node.args[0]  # type: ignore[assignment]
        module = _packed(graph_module, node)
    return (*windows, "pixel" if isinstance(module, PackedPool) else node)


def _inputs(graph_module: fx.GraphModule, node: fx.Node) -> tuple[object, ...]:
    return node.args[:1] if is_flatten(graph_module, node) else node.args


def _is_pixel(graph_module: fx.GraphModule, node: object) -> bool:
    """Whether a value has one pixel an image, whatever the input's size."""
    if not isinstance(node, fx.Node):
        return False
    if is_flatten(graph_module, node):
        return _is_pixel(graph_module, node.args[0])
    module = _packed(graph_module, node)
    if isinstance(module, PackedPool):
        return True
    keeps = isinstance(module, (PackedLinear, PackedLayerNorm)) or getattr(module, "kernel", "") == "pointwise"
    return keeps and _is_pixel(graph_module, node.args[0])


def _is_flat(graph_module: fx.GraphModule, node: object) -> bool:
    if not isinstance(node, fx.Node):
        return False
    return is_flatten(graph_module, node) or isinstance(_packed(graph_module, node), PackedLinear)


def _pieces(run: _Run) -> list[_Run]:
    """Cuts a run behind every value that the rest of the graph uses too, where what follows reads nothing earlier."""
    pieces = []
    rest = run
    while rest.nodes:
        members = set(rest.nodes)
        end = next(i for i, node in enumerate(rest.nodes) if i == len(rest.nodes) - 1 or set(node.users) - members)
        piece, rest = _Run(rest.entry, rest.nodes[: end + 1]), _Run(rest.nodes[end], rest.nodes[end + 1 :])
        inside = set(piece.nodes)
        if all(set(node.users) <= inside for node in piece.nodes[:-1]):
            pieces.append(piece)
    return [piece for piece in pieces if all(_reads_only(piece, node) for node in piece.nodes)]


def _reads_only(piece: _Run, node: fx.Node) -> bool:
    return all(piece.reads(source) for source in node.all_input_nodes)


def _emit(graph_module: fx.GraphModule, run: _Run, name: str) -> None:
    values: dict[fx.Node, int] = {run.entry: 0}
    links: list[Link] = []
    for node in run.nodes:
        module = _packed(graph_module, node)
        source = values[node.args[0]]  # type: ignore[index]
        if module is None:  # a flattening is another view of the same value
            values[node] = source
            continue
        residual = values[node.args[1]] if len(node.args) == 2 else -1  # type: ignore[index]
        if isinstance(module, PackedConvNeXtBlock) and module.adds_input:
            residual = source
        links.append(Link(module, source, residual))
        values[node] = len(links)
    last = run.nodes[-1]
    adds_first = getattr(links[0].module, "sum_activation", "identity") != "identity" if links else False
    if (len(links) < _LEAST_LINKS and not adds_first) or values[last] != len(links):
        return
    chain = PackedChain(links, _is_flat(graph_module, last))
    with graph_module.graph.inserting_after(last):
        call = graph_module.graph.call_module("", (run.entry,))
    replace_module(graph_module, call, name, chain)
    last.replace_all_uses_with(call)
    for node in reversed(run.nodes):
        graph_module.graph.erase_node(node)
