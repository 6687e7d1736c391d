"""What optimize does for models on a GPU: whole blocks become one operator, other layers drop-ins."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.blocks import BlockMatch, fuse_residual, match_block, put_block
from convfirst_ext.fusion.folding import FoldedConv, flat_name, fold_convolutions, module_of, replace_module
from convfirst_ext.fusion.graphs import drop_inference_identities, rewrite
from convfirst_ext.fusion.patching import swap_layers
from convfirst_ext.nn import ConvFirst, MBConv, PackedConv2d
from convfirst_ext.nn.activation import activation_module, activation_name
from convfirst_ext.nn.fused_blocks import FusedConvFirst, FusedMBConv
from convfirst_ext.nn.window import FusedWindow
from convfirst_ext.ops.checks import DTYPES
from convfirst_ext.ops.cuda_blocks import GROUP_WIDTH
from convfirst_ext.ops.selection import choose_kernel


def optimize_for_cuda(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Fuses the blocks of a model in eval mode, in place, and lets it compute in ``dtype``."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            fused = fuse_block(child)
            if fused is not None:
                setattr(parent, name, fused)
    whole = fuse_block(model)
    model = model if whole is None else whole
    own = next((parameter.dtype for parameter in model.parameters()), None)
    if own in DTYPES:
        model = rewrite(model, partial(_fuse_graph, own=own, dtype=dtype or own))
    if dtype is not None and dtype != own:
        model.to(dtype)
        _convert_at_the_boundary(model, dtype)
    swap_layers(model)
    return model


def fuse_block(block: nn.Module) -> nn.Module | None:
    """The block as one operator with batch norm folded, or None where it is none or has none."""
    if any(recognition.has_hooks(module) for module in block.modules()):
        return None
    if any(parameter.dtype not in DTYPES for parameter in block.parameters()):
        return None
    if type(block) is ConvFirst:
        return _fuse_convfirst(block)
    return _fuse_mbconv(block) if type(block) is MBConv else None


def _fuse_convfirst(block: ConvFirst) -> FusedConvFirst | None:
    activation, conv = activation_name(block.activation), block.convolution
    stride = 1 if block.blur is None else block.blur.stride
    plain = conv.kernel_size == (3, 3) and conv.in_channels == GROUP_WIDTH * conv.groups
    if activation is None or stride > 2 or not plain:
        return None
    pairs = (
        (block.convolution, block.convolution_norm),
        (block.expand, block.expand_norm),
        (block.project, block.project_norm),
    )
    folded = [_fold(conv, norm) for conv, norm in pairs]
    weights, biases = zip(*folded, strict=True)
    return FusedConvFirst(weights, biases, activation, stride, block.adds_input)


def _fuse_mbconv(block: MBConv) -> FusedMBConv | None:
    expands, blurs = isinstance(block.expand, nn.Conv2d), not isinstance(block.blur, nn.Identity)
    activation, conv = activation_name(block.convolution_activation), block.convolution
    if activation is None or (expands and activation != activation_name(block.expand_activation)):
        return None
    if conv.in_channels not in (conv.groups, GROUP_WIDTH * conv.groups) or (blurs and block.blur.stride != 2):
        return None
    squeeze_excite = None
    if not isinstance(block.squeeze_excite, nn.Identity):
        squeeze_excite = recognition.squeeze_excite_of(block.squeeze_excite)
        if squeeze_excite is None:
            return None
    pairs = [(conv, block.convolution_norm), (block.project, block.project_norm)]
    folded: list[tuple[Tensor | None, Tensor | None]] = [_fold(*pair) for pair in pairs]
    folded.insert(0, _fold(block.expand, block.expand_norm) if expands else (None, None))  # type: ignore[arg-type]
    weights, biases = zip(*folded, strict=True)
    window = recognition.window_of(conv)
    return FusedMBConv(weights, biases, squeeze_excite, activation, block.adds_input, window=window, blur=blurs)


def _fuse_graph(traced: fx.GraphModule, own: torch.dtype, dtype: torch.dtype) -> bool:
    """Batch norms are folded, inverted residuals become one operator each, other convolutions get our kernels."""
    drop_inference_identities(traced)
    if fold_convolutions(traced, _kernel_of) == 0:
        return False
    for node in list(traced.graph.nodes):
        match = match_block(traced, node)
        if match is not None:
            _emit_block(traced, match, own)
    for node in list(traced.graph.nodes):
        conv = module_of(traced, node)
        if isinstance(conv, FoldedConv):
            _emit_layer(traced, node, conv, dtype)
    for module in traced.modules():
        if isinstance(module, nn.Conv2d):  # folding computes in float32
            module.to(own)
    traced.graph.eliminate_dead_code()
    return True


def _kernel_of(conv: nn.Conv2d) -> str | None:
    """What a convolution is in a fused block, or the kernel that it has alone."""
    if recognition.is_product(conv):
        return "pointwise"
    if conv.in_channels == conv.out_channels and conv.groups > 1:
        if conv.in_channels == conv.groups:
            return "depthwise"
        if conv.in_channels == GROUP_WIDTH * conv.groups:
            return "grouped"
    return recognition.choose_for(conv).kernel


def _emit_block(traced: fx.GraphModule, match: BlockMatch, own: torch.dtype) -> None:
    nodes = (match.expand, match.convolution, match.project)
    layers = [None if node is None else module_of(traced, node) for node in nodes]
    conv, project = layers[1], layers[2]
    assert isinstance(conv, FoldedConv) and isinstance(project, FoldedConv)
    gate = None if match.squeeze_excite is None else module_of(traced, match.squeeze_excite)
    squeeze_excite = None if gate is None else recognition.squeeze_excite_of(gate)
    weights = [None if layer is None else layer.weight.to(own) for layer in layers]  # type: ignore[union-attr, operator]
    biases = [None if layer is None else _to(layer.bias, own) for layer in layers]
    fused = FusedMBConv(
        weights,  # type: ignore[arg-type]
        biases,
        squeeze_excite,
        conv.activation,
        False,
        window=conv.window,
        output_activation=project.activation,
    )
    put_block(traced, match.start, match.project, flat_name(conv.source, "fused"), fused)


def _emit_layer(traced: fx.GraphModule, node: fx.Node, conv: FoldedConv, dtype: torch.dtype) -> None:
    """A convolution that no block took: ours with its activation, or torch's and its activation behind it."""
    window: FusedWindow = conv.window
    shape = conv.weight.shape
    options = {"groups": conv.groups, "stride": window.stride, "dilation": window.dilation, "dtype": dtype}
    kernel = choose_kernel(shape, device_type=conv.weight.device.type, **options).kernel  # type: ignore[arg-type]
    if conv.weight.is_cuda and kernel is not None:
        bias = None if conv.bias is None else conv.bias.cpu()
        packed = PackedConv2d(kernel, conv.weight.cpu(), bias, window, conv.groups, conv.activation)
        packed.source = conv.source
        replace_module(traced, node, flat_name(conv.source, "fused"), packed.to(conv.weight.device))
        fuse_residual(traced, node)
        return
    if conv.activation != "identity":
        with traced.graph.inserting_after(node):
            activated = traced.graph.call_module("", (node,))
        node.replace_all_uses_with(activated, delete_user_cb=lambda user: user is not activated)
        replace_module(traced, activated, flat_name(conv.source, "activation"), activation_module(conv.activation))
    replace_module(traced, node, flat_name(conv.source, "torch"), conv.to_torch())


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    weight, bias = recognition.fold_norm(conv, norm)
    assert bias is not None  # batch norm shifts
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _convert_at_the_boundary(model: nn.Module, dtype: torch.dtype) -> None:
    """Arguments are converted on their way in, and results back to the dtype of the first floating argument."""
    given: list[torch.dtype] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        values = [*args, *kwargs.values()]
        given[:] = [value.dtype for value in values if _is_floating(value)][:1]
        return tuple(_to(value, dtype) for value in args), {name: _to(value, dtype) for name, value in kwargs.items()}

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        return _to(output, given[0]) if given else output

    model.register_forward_pre_hook(enter, with_kwargs=True)
    model.register_forward_hook(leave)


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _to(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_to(part, dtype) for part in value)
    return value.to(dtype) if _is_floating(value) else value
