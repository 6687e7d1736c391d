"""The edge of a fused region: one layout and one dtype inside, the caller's outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def enter(value: Any, dtype: torch.dtype | None) -> Any:
    """Brings an input into the region: channels_last, and dtype where one is given.

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
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


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


def add_boundary(graph: fx.Graph, dtype: torch.dtype | None) -> None:
    """Wraps the graph's inputs in ``enter`` and its output in ``leave``."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if not inputs:
        return
    last = inputs[-1]
    for node in reversed(inputs):
        with graph.inserting_after(last):
            entered = graph.call_function(enter, (node, dtype))
        node.replace_all_uses_with(entered, delete_user_cb=lambda user, new=entered: user is not new)
    output = next(node for node in graph.nodes if node.op == "output")
    with graph.inserting_before(output):
        left = graph.call_function(leave, (output.args[0], inputs[0]))
    output.args = (left,)
