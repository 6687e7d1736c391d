"""``optimize``: a fused inference copy of a model."""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any

import torch
from torch import fx, nn

from convfirst_ext.fusion import hazards, recognition
from convfirst_ext.fusion.blocks import fuse_blocks, pack_single_convolutions
from convfirst_ext.fusion.blur import pack_blur_pools
from convfirst_ext.fusion.boundary import add_boundary
from convfirst_ext.fusion.chains import chain_modules
from convfirst_ext.fusion.classifier import pack_classifier
from convfirst_ext.fusion.convfirst import pack_convfirst
from convfirst_ext.fusion.convnext import convnext_parts, is_image_layer_norm, pack_convnext
from convfirst_ext.fusion.cuda_fusion import optimize_for_cuda
from convfirst_ext.fusion.folding import bypass, fold_convolutions
from convfirst_ext.fusion.patching import swap_transposed
from convfirst_ext.fusion.transposed import fold_transposed, is_transposed
from convfirst_ext.nn import PackedChain
from convfirst_ext.ops.checks import DTYPES

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


def optimize(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the model for inference: batch norm folded, blocks fused, weights packed.

    The copy takes and gives what the model does: same arguments, dtypes and memory formats. Convolutions without a
    kernel of ours, and everything that is not a convolution, stay torch's. ``explain`` tells which is which. On a GPU
    ConvFirst and MBConv blocks become one operator, and single layers get ours where there is one.

    Args:
        model: any module; it is not changed. Traced with torch.fx, or module by module where that fails.
        dtype: torch.bfloat16 or torch.float16, None for the dtype of the input. Where the CPU multiplies float16
            numbers (AVX512-FP16), float16 models do: sums of at most 96 products are float16, sums of those float32.
            Otherwise products and sums are float32.

    Returns:
        A module in eval mode whose parameters want no gradient. It raises RuntimeError for an input that does.

    Raises:
        TypeError: model is not a module or dtype is none of float32, bfloat16, float16.
        ValueError: a batch norm keeps no running statistics, so that its eval mode depends on the batch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {type(model).__name__}.")
    if dtype is not None and dtype not in DTYPES:
        raise TypeError(f"dtype must be None, torch.float32, torch.bfloat16 or torch.float16, but is {dtype!r}.")
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is None:
            raise ValueError(f"model must keep running statistics in every batch norm, but {name!r} has none.")
    if any(parameter.is_cuda for parameter in model.parameters()):
        with torch.no_grad():
            return optimize_for_cuda(copy.deepcopy(model).eval(), dtype).requires_grad_(False)
    fused = copy.deepcopy(model).eval()
    # Of a model in double precision nothing is fused: kernels know no float64.
    if dtype is not None or all(
        p.dtype in DTYPES for p in model.parameters() if p.is_floating_point() or p.is_complex()
    ):
        with torch.no_grad():
            fused = _optimize(fused, dtype)
    swap_transposed(fused)
    if dtype is not None:
        fused = fused.to(dtype)
    if (dtype or next((p.dtype for p in model.parameters()), None)) == torch.float16:
        compute_in_half(fused)
    fused.eval()
    for parameter in fused.parameters():
        parameter.requires_grad_(False)
    return fused


class _Tracer(fx.Tracer):
    """Stops at what the passes look at whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if (
            isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d))
            or recognition.squeeze_excite_of(m) is not None
            or recognition.blur_pool_of(m) is not None
        ):
            return True
        if is_image_layer_norm(m) or convnext_parts(m) is not None:
            return True
        return super().is_leaf_module(m, module_qualified_name)


def _optimize(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    if not any(recognition.is_convolution(m) or is_transposed(m) for m in module.modules()):
        return module
    traced = _trace(module)
    if traced is None:
        _optimize_children(module, dtype)
        return module
    return _fuse(module, traced, dtype)


def _optimize_children(module: nn.Module, dtype: torch.dtype | None) -> None:
    for name, child in module.named_children():
        if _is_only_called(module, name):
            setattr(module, name, _optimize(child, dtype))
        else:
            _optimize_children(child, dtype)


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


def _fuse(module: nn.Module, traced: fx.GraphModule, dtype: torch.dtype | None) -> nn.Module:
    if not fuse_graph(traced):
        return module
    add_boundary(traced, dtype)
    finish(traced)
    _keep_attributes(module, traced)
    return traced


def fuse_graph(traced: fx.GraphModule) -> bool:
    """Runs every pass on a graph of module calls in eval mode, in place.

    Args:
        traced: layers are ``call_module`` nodes, activations may be function calls.

    Returns:
        Whether any convolution has a kernel of ours; if none has, there is nothing to gain from the graph. Call
        ``finish`` once no more nodes are added.
    """
    _drop_inference_identities(traced)
    if pack_convnext(traced) + fold_convolutions(traced) + fold_transposed(traced) == 0:
        return False
    pack_convfirst(traced)
    pack_blur_pools(traced)
    fuse_blocks(traced)
    pack_single_convolutions(traced)
    pack_classifier(traced)
    chain_modules(traced)
    return True


def compute_in_half(fused: nn.Module) -> None:
    """Lets every chain that can multiply float16 inputs in fp16 do so."""
    for module in fused.modules():
        if isinstance(module, PackedChain):
            module.compute_in_half()


def finish(traced: fx.GraphModule) -> None:
    """Makes a changed graph callable again and frees what it no longer calls."""
    traced.graph.lint()  # type: ignore[no-untyped-call]
    traced.delete_all_unused_submodules()
    traced.recompile()


def _drop_inference_identities(traced: fx.GraphModule) -> None:
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
