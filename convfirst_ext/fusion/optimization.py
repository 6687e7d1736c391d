"""``optimize``: a fused inference copy of a model."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from convfirst_ext.fusion.blocks import fuse_blocks, pack_single_convolutions
from convfirst_ext.fusion.blur import pack_blur_pools
from convfirst_ext.fusion.boundary import add_boundary
from convfirst_ext.fusion.chains import chain_modules, share_threads
from convfirst_ext.fusion.classifier import pack_classifier
from convfirst_ext.fusion.convfirst import pack_convfirst
from convfirst_ext.fusion.convnext import pack_convnext
from convfirst_ext.fusion.cuda_fusion import optimize_for_cuda
from convfirst_ext.fusion.folding import fold_convolutions
from convfirst_ext.fusion.graphs import drop_inference_identities, rewrite
from convfirst_ext.fusion.patching import swap_transposed
from convfirst_ext.fusion.transposed import fold_transposed
from convfirst_ext.nn import PackedChain
from convfirst_ext.ops.checks import DTYPES


def optimize(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of the model for inference: batch norm folded, blocks fused, weights packed.

    The copy takes and gives what the model does: same arguments, dtypes and memory formats. Convolutions without a
    kernel of ours, and everything that is not a convolution, stay torch's. ``explain`` tells which is which. On a GPU
    ConvFirst blocks, inverted residuals and depthwise-separable pairs become one operator each, and single layers get
    ours where there is one.

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
            fused = rewrite(fused, lambda traced: fuse_graph(traced) and add_boundary(traced, dtype))
    if not isinstance(fused, fx.GraphModule):  # several graphs, with other layers between them
        for module in fused.modules():
            if isinstance(module, PackedChain):
                module.own_threads = False
    swap_transposed(fused)
    if dtype is not None:
        fused = fused.to(dtype)
    if (dtype or next((p.dtype for p in model.parameters()), None)) == torch.float16:
        compute_in_half(fused)
    fused.eval()
    for parameter in fused.parameters():
        parameter.requires_grad_(False)
    return fused


def fuse_graph(traced: fx.GraphModule) -> bool:
    """Runs every pass on a graph of module calls in eval mode, in place.

    Args:
        traced: layers are ``call_module`` nodes, activations may be function calls.

    Returns:
        Whether any convolution has a kernel of ours; if none has, there is nothing to gain from the graph. Call
        ``graphs.finish`` once no more nodes are added.
    """
    drop_inference_identities(traced)
    if pack_convnext(traced) + fold_convolutions(traced) + fold_transposed(traced) == 0:
        return False
    pack_convfirst(traced)
    pack_blur_pools(traced)
    fuse_blocks(traced)
    pack_single_convolutions(traced)
    pack_classifier(traced)
    chain_modules(traced)
    share_threads(traced)
    return True


def compute_in_half(fused: nn.Module) -> None:
    """Lets every chain that can multiply float16 inputs in fp16 do so."""
    for module in fused.modules():
        if isinstance(module, PackedChain):
            module.compute_in_half()
