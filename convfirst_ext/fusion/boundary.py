"""The edge of a fused region: one layout and one dtype inside, the caller's outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from convfirst_ext.nn import PackedChain


def enter(value: Any, dtype: torch.dtype | None, keeps_layout: bool = False) -> Any:
    """Brings an input into the region: channels_last unless keeps_layout, and dtype where one is given.

    Raises:
        RuntimeError: a gradient is wanted of it.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if value.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "input must not require a gradient: an optimized model serves inference; use convfirst_ext.patch to train."
        )
    if dtype is not None:
        value = value.to(dtype)
    if value.dim() != 4 or keeps_layout:
        return value
    return value.contiguous(memory_format=torch.channels_last)


def leave(value: Any, input: Any) -> Any:
    """Gives an output the dtype and memory format that stock layers would have given it for this input."""
    if isinstance(value, (list, tuple)):
        items = [leave(item, input) for item in value]
        return type(value)(items) if not hasattr(value, "_fields") else type(value)(*items)
    if isinstance(value, dict):
        return {key: leave(item, input) for key, item in value.items()}
    if not isinstance(value, Tensor) or not isinstance(input, Tensor) or not value.is_floating_point():
        return value
    if value.dtype != input.dtype:
        value = value.to(input.dtype)
    if value.dim() == 4 and input.dim() == 4 and input.is_contiguous():
        return value.contiguous()
    return value


def add_boundary(graph_module: fx.GraphModule, dtype: torch.dtype | None) -> bool:
    """Wraps the graph's inputs in ``enter`` and its output in ``leave``; True."""
    graph = graph_module.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if not inputs:
        return True
    last = inputs[-1]
    for node in reversed(inputs):
        with graph.inserting_after(last):
            entered = graph.call_function(enter, (node, dtype, _feeds_chain_only(graph_module, node)))
        node.replace_all_uses_with(entered, delete_user_cb=lambda user, new=entered: user is not new)
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        left = graph.call_function(leave, (output.args[0], inputs[0]))
    output.args = (left,)
    return True


def _feeds_chain_only(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether everything that reads an input converts its layout by itself."""
    return all(
        user.op == "call_module" and isinstance(graph_module.get_submodule(str(user.target)), PackedChain)
        for user in node.users
    )
