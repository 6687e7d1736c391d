"""Pass: a convolution, its batch norm and its activation become one folded convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.nn.window import FusedWindow

Choose = Callable[[nn.Conv2d], str | None]


class FoldedConv(nn.Module):
    """A stage between the passes: a convolution that has a kernel, with all that follows it folded in."""

    def __init__(self, source: str, conv: nn.Conv2d, kernel: str, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.source = source
        self.kernel = kernel
        self.weight = weight
        self.bias = bias
        self.window: FusedWindow = recognition.window_of(conv)
        self.groups = conv.groups
        self.activation = "identity"
        self._stock = [conv]  # in a list, so that it is no submodule

    def to_torch(self) -> nn.Conv2d:
        """The folded convolution as torch's layer, without the activation."""
        return _torch_convolution(self._stock[0], self.weight, self.bias)


def only_user(node: fx.Node) -> fx.Node | None:
    """The single node that takes this node's result, or None."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def module_of(graph_module: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    """The module a node calls with its one argument, or None."""
    if node is None or node.op != "call_module" or node.kwargs:
        return None
    return graph_module.get_submodule(str(node.target))


def activation_at(graph_module: fx.GraphModule, node: fx.Node | None) -> str | None:
    """The activation that a node computes, or None."""
    if node is None:
        return None
    if node.op == "call_module":
        module = module_of(graph_module, node)
        return recognition.activation_of_module(module) if module is not None else None
    if node.op == "call_function":
        return recognition.activation_of_call(node.target, node.args, node.kwargs)
    if node.op == "call_method":
        return recognition.activation_of_method(str(node.target), node.args)
    return None


def replace_module(graph_module: fx.GraphModule, node: fx.Node, name: str, module: nn.Module) -> None:
    """Lets a node call another module, kept under a name of its own."""
    unique = name
    count = 1
    while hasattr(graph_module, unique):
        count += 1
        unique = f"{name}_{count}"
    graph_module.add_submodule(unique, module)
    node.target = unique


def flat_name(source: str, stage: str) -> str:
    """A dotted module name as the attribute name of what stands for it after a stage."""
    return f"{stage}_{source.replace('.', '_')}"


def fold_convolutions(graph_module: fx.GraphModule, choose: Choose | None = None) -> int:
    """Folds batch norms and activations into the convolutions before them.

    Args:
        graph_module: of module calls in eval mode.
        choose: names a convolution's kernel; None for the CPU's on packed weights.

    Returns:
        How many convolutions have a kernel of ours; those nodes now call a ``FoldedConv``.
    """
    folded = 0
    for node in list(graph_module.graph.nodes):
        conv = module_of(graph_module, node)
        if conv is not None and recognition.is_convolution(conv):
            folded += _fold(graph_module, node, conv, choose or _choose_packed)  # type: ignore[arg-type]
    return folded


def _choose_packed(conv: nn.Conv2d) -> str | None:
    return recognition.choose_for(conv, packed=True).kernel


def _fold(graph_module: fx.GraphModule, node: fx.Node, conv: nn.Conv2d, choose: Choose) -> bool:
    source = str(node.target)
    norm = absorb_norm(graph_module, node, source)
    exact_weight, exact_bias = recognition.fold_norm(conv, norm)
    weight, bias = exact_weight.float(), None if exact_bias is None else exact_bias.float()
    kernel = choose(conv)
    if kernel is None:
        if norm is not None:
            replace_module(graph_module, node, flat_name(source, "torch"), _torch_convolution(conv, weight, bias))
        return False
    folded = FoldedConv(source, conv, kernel, weight, bias)
    folded.activation = absorb_activation(graph_module, node)
    replace_module(graph_module, node, flat_name(source, "folded"), folded)
    return True


def absorb_norm(graph_module: fx.GraphModule, node: fx.Node, source: str) -> nn.BatchNorm2d | None:
    """Takes the batch norm behind a node out of the graph, for its caller to fold; leaves the activation inside it.

    Args:
        graph_module: of the node.
        node: whose result only the batch norm takes, if there is one.
        source: name of the node's layer.
    """
    follower = only_user(node)
    norm = module_of(graph_module, follower)
    if follower is None or not isinstance(norm, nn.BatchNorm2d) or not recognition.is_batch_norm(norm):
        return None
    if recognition.activation_inside(norm) == "identity":
        bypass(graph_module, follower)
    else:
        replace_module(graph_module, follower, flat_name(source, "activation"), norm.get_submodule("act"))
    return norm


def absorb_activation(graph_module: fx.GraphModule, node: fx.Node) -> str:
    """Takes the activation behind a node out of the graph and names it; "identity" where there is none."""
    follower = only_user(node)
    activation = activation_at(graph_module, follower)
    if follower is None or activation is None:
        return "identity"
    bypass(graph_module, follower)
    return activation


def _torch_convolution(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    replacement = copy.copy(conv)
    replacement._parameters = dict(conv._parameters)
    replacement.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    replacement.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return replacement


def bypass(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Removes a node; its users take its first argument."""
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    graph_module.graph.erase_node(node)
