"""What optimize does for models on a GPU: ConvFirst and MBConv blocks become one operator, other layers drop-ins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.patching import swap_layers
from convfirst_ext.nn import ConvFirst, MBConv
from convfirst_ext.nn.activation import activation_name
from convfirst_ext.nn.fused_blocks import FusedConvFirst, FusedMBConv
from convfirst_ext.ops.checks import DTYPES
from convfirst_ext.ops.cuda_blocks import GROUP_WIDTH


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
    if dtype is not None and dtype != own:
        model.to(dtype)
        _convert_at_the_boundary(model, dtype)
    swap_layers(model)
    return model


def fuse_block(block: nn.Module) -> nn.Module | None:
    """The block as one operator with batch norm folded, or None where it is no block of stride 1 that has one."""
    if any(recognition.has_hooks(module) for module in block.modules()):
        return None
    if any(parameter.dtype not in DTYPES for parameter in block.parameters()):
        return None
    if type(block) is ConvFirst:
        return _fuse_convfirst(block)
    return _fuse_mbconv(block) if type(block) is MBConv else None


def _fuse_convfirst(block: ConvFirst) -> FusedConvFirst | None:
    activation = activation_name(block.activation)
    stride = 1 if block.blur is None else block.blur.stride
    if activation is None or stride > 2 or not _is_plain(block.convolution):
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
    if not isinstance(block.expand, nn.Conv2d) or not isinstance(block.blur, nn.Identity):
        return None
    activation, other = activation_name(block.expand_activation), activation_name(block.convolution_activation)
    if activation is None or activation != other or not _is_plain(block.convolution):
        return None
    squeeze_excite = None
    if not isinstance(block.squeeze_excite, nn.Identity):
        squeeze_excite = recognition.squeeze_excite_of(block.squeeze_excite)
        if squeeze_excite is None:
            return None
    pairs = (
        (block.expand, block.expand_norm),
        (block.convolution, block.convolution_norm),
        (block.project, block.project_norm),
    )
    weights, biases = zip(*(_fold(conv, norm) for conv, norm in pairs), strict=True)  # type: ignore[arg-type]
    return FusedMBConv(weights, biases, squeeze_excite, activation, block.adds_input)


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is 3x3 of group width 8 with stride 1."""
    return conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.in_channels == GROUP_WIDTH * conv.groups


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution followed by batch norm, computed in float64."""
    scale, shift = recognition.affine_of(norm)
    bias = shift if conv.bias is None else conv.bias.detach().double() * scale + shift
    weight = conv.weight.detach().double() * scale[:, None, None, None]
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
