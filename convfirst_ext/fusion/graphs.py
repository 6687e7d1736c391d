"""Models as graphs of module calls: traced whole where that works, else module by module, and rewritten in place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from convfirst_ext.fusion import hazards, recognition
from convfirst_ext.fusion.convnext import convnext_parts, is_image_layer_norm
from convfirst_ext.fusion.folding import bypass
from convfirst_ext.fusion.transposed import is_transposed
from convfirst_ext.nn.fused_blocks import FusedConvFirst, FusedMBConv

Rewrite = Callable[[fx.GraphModule], bool]

# Attributes of a model that its users read; tracing keeps only what the graph calls.
_KEPT_ATTRIBUTES = (
    "num_classes",
    "num_features",
    "head_hidden_size",
    "feature_info",
    "default_cfg",
    "pretrained_cfg",
    "global_pool",
)


class _Tracer(fx.Tracer):
    """Stops at what the passes look at whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if (
            isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d))
            or recognition.squeeze_excite_of(m) is not None
            or recognition.blur_pool_of(m) is not None
        ):
            return True
        if isinstance(m, (FusedConvFirst, FusedMBConv)) or is_image_layer_norm(m) or convnext_parts(m) is not None:
            return True
        return super().is_leaf_module(m, module_qualified_name)


def rewrite(module: nn.Module, change: Rewrite) -> nn.Module:
    """Lets ``change`` rewrite a module's graph, or those of its children where it cannot be traced whole.

    Args:
        module: in eval mode; changed in place.
        change: whether it changed the graph that it got; if not, the module stays.

    Returns:
        The rewritten graph, or the module.
    """
    if not any(recognition.is_convolution(m) or is_transposed(m) for m in module.modules()):
        return module
    traced = _trace(module)
    if traced is None:
        _rewrite_children(module, change)
        return module
    if not change(traced):
        return module
    finish(traced)
    _keep_attributes(module, traced)
    return traced


def _rewrite_children(module: nn.Module, change: Rewrite) -> None:
    for name, child in module.named_children():
        if _is_only_called(module, name):
            setattr(module, name, rewrite(child, change))
        else:
            _rewrite_children(child, change)


def _is_only_called(parent: nn.Module, name: str) -> bool:
    """Whether a module uses its child by calling it and in no other way, so that a fused module can stand there.

    Indexing, iterating and reading attributes would find another structure; told from the source of the class.
    """
    if isinstance(parent, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return True
    try:
        source = inspect.getsource(type(parent))
    except (OSError, TypeError):
        return False
    outside_init = re.sub(r"def __init__.*?(?=\n    def |\Z)", "", source, flags=re.DOTALL)
    uses = re.findall(rf"\bself\.{re.escape(name)}\b\s*(\(?)", outside_init)
    return bool(uses) and all(uses)


def _trace(module: nn.Module) -> fx.GraphModule | None:
    """The module as a graph, or None where its control flow or containers cannot be traced."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return None
    if recognition.is_convolution(module) or is_transposed(module):
        wrapper = nn.Sequential(module)
        return fx.GraphModule(wrapper, _Tracer().trace(wrapper))
    try:
        return fx.GraphModule(module, _Tracer().trace(module))
    except Exception:  # tracing runs the user's forward on proxies: anything can be raised
        return None


def finish(traced: fx.GraphModule) -> None:
    """Makes a changed graph callable again and frees what it no longer calls."""
    traced.graph.lint()  # type: ignore[no-untyped-call]
    traced.delete_all_unused_submodules()
    traced.recompile()


def drop_inference_identities(traced: fx.GraphModule) -> None:
    """Removes dropout and identity modules, which hide chains of layers from the passes."""
    for node in list(traced.graph.nodes):
        if hazards.is_inactive_dropout(node):
            bypass(traced, node)
            continue
        if node.op == "call_module" and len(node.args) == 1:
            target = traced.get_submodule(str(node.target))
            if isinstance(target, (nn.Identity, nn.modules.dropout._DropoutNd)) and not recognition.has_hooks(target):
                node.replace_all_uses_with(node.args[0])
                traced.graph.erase_node(node)


def _keep_attributes(module: nn.Module, traced: fx.GraphModule) -> None:
    for name in _KEPT_ATTRIBUTES:
        value: Any = getattr(module, name, None)
        if value is not None and not isinstance(value, (nn.Module, torch.Tensor)) and not hasattr(traced, name):
            setattr(traced, name, value)
