"""What in a captured graph forbids fusing it: mutations that someone can see, batch statistics, autocast."""

from __future__ import annotations

import inspect
import operator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx

_SET_GRAD = torch._C._set_grad_enabled  # type: ignore[attr-defined]

# Calls whose result is memory of its own, so that writing into it is seen through that result only.
_FRESH: set[Any] = {torch.conv2d, F.batch_norm, F.linear, torch.cat, torch.add, torch.mul}
_FRESH |= {operator.add, operator.mul, operator.sub, operator.truediv}
_FRESH |= {F.adaptive_avg_pool2d, F.max_pool2d, F.avg_pool2d}

_IN_PLACE_OPERATORS = {
    getattr(operator, f"i{name}")
    for name in "add sub mul matmul truediv floordiv mod pow and or xor lshift rshift concat".split()
}

_LAYOUT_BOUND = ("as_strided", "as_strided_", "stride", "storage_offset", "data_ptr", "set_")


class GradModes(NamedTuple):
    """In which modes the layers of a graph run: that of the caller, or gradients switched on by the graph itself."""

    inherited: bool
    forced: bool


def grad_modes(graph: fx.Graph) -> GradModes:
    """Follows ``torch.no_grad`` and ``torch.enable_grad`` through the graph."""
    mode: bool | None = None
    seen: set[bool | None] = set()
    for node in graph.nodes:
        if node.op == "call_function" and node.target is _SET_GRAD:
            mode = bool(node.args[0])
        elif node.op.startswith("call"):
            seen.add(mode)
    return GradModes(inherited=None in seen, forced=True in seen)


def reason_to_keep(graph: fx.Graph) -> str | None:
    """Why the graph must run as it is, or None where the passes may change it."""
    for node in graph.nodes:
        name = _name(node)
        if node.op == "call_module":  # Dynamo without inlining: it holds weights that no argument shows
            return "the graph calls modules"
        if "autocast" in name:
            return "autocast inside the graph"
        if name in _LAYOUT_BOUND:
            return f"{name} depends on the memory format"
        if node.target is F.batch_norm and argument(node, "training") is not False:
            return "batch norm uses batch statistics"
        if writes(node) and not _unseen(node):
            return f"{name} changes a tensor that has other users"
    return None


def arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by name, where its target is a Python function; keyword arguments otherwise."""
    if not callable(node.target):
        return dict(node.kwargs)
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # builtins have no signature
        return dict(node.kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def argument(node: fx.Node, name: str) -> Any:
    """One argument of a call by name, or None."""
    return arguments(node).get(name)


def is_inactive_dropout(node: fx.Node) -> bool:
    """Whether the node is a dropout of torch or torchvision's stochastic depth outside training: the identity."""
    drops = node.op == "call_function" and ("dropout" in _name(node) or _name(node) == "stochastic_depth")
    return drops and argument(node, "training") is False


def writes(node: fx.Node) -> bool:
    """Whether the node writes into a tensor that it was given."""
    name = _name(node)
    if node.op == "call_method":
        return name.endswith("_") and not name.endswith("__")
    if node.op != "call_function" or is_inactive_dropout(node):
        return False
    if node.target in _IN_PLACE_OPERATORS or node.target is operator.setitem or node.kwargs.get("out") is not None:
        return True
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    return (name.endswith("_") and not name.endswith("__")) or bool(argument(node, "inplace"))


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _unseen(node: fx.Node) -> bool:
    """Whether nobody but the users of its result can tell that this node wrote into its first argument."""
    if node.target is operator.setitem or node.kwargs.get("out") is not None:
        return False
    written = node.args[0] if node.args else None
    while isinstance(written, fx.Node) and len(written.users) == 1:
        if written.target in _FRESH:
            return True
        if not written.op.startswith("call") or not writes(written) or not written.args:
            return False
        written = written.args[0]  # itself in place: the memory is that of what it wrote into
    return False
