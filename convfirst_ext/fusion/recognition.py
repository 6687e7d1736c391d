"""What a module is, told from its type, attributes and name; timm and torchvision are never imported."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convfirst_ext import ops
from convfirst_ext.fusion.stand_ins import PaddedConv2d
from convfirst_ext.nn import BlurPool, Conv2d
from convfirst_ext.nn.window import FusedWindow

_ACTIVATION_CLASSES = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
    "Swish": "silu",
    "Hardswish": "hardswish",
    "HardSwish": "hardswish",
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "hardsigmoid",
    "HardSigmoid": "hardsigmoid",
    "Identity": "identity",
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
}

_ACTIVATION_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.hardswish: "hardswish",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    F.hardsigmoid: "hardsigmoid",
}

_ACTIVATION_METHODS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid"}

ADDITIONS: tuple[Callable[..., Any], ...] = (operator.add, operator.iadd, torch.add)


class Affine(NamedTuple):
    """y = x * scale + shift per channel: what batch norm is in eval mode."""

    scale: Tensor
    shift: Tensor


def has_hooks(module: nn.Module) -> bool:
    """Whether users observe or change calls of this module, so that it must stay."""
    return bool(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations"))


def activation_of_module(module: nn.Module) -> str | None:
    """The fused activation that a module computes, or None."""
    if has_hooks(module):
        return None
    if isinstance(module, nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):
        return "relu6" if (module.min_val, module.max_val) == (0, 6) else None
    return _ACTIVATION_CLASSES.get(type(module).__name__)


def activation_of_call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The fused activation that a function call computes, or None."""
    if target is F.gelu:
        if len(args) != 1:
            return None
        return "gelu_tanh" if kwargs.get("approximate", "none") == "tanh" else "gelu"
    if target is F.hardtanh:
        bounds = (*args[1:3], *(kwargs[name] for name in ("min_val", "max_val") if name in kwargs))
        return "relu6" if bounds == (0, 6) else None
    # A second positional argument of these functions is inplace.
    if set(kwargs) - {"inplace"} or len(args) != 1 and not (len(args) == 2 and isinstance(args[1], bool)):
        return None
    return _ACTIVATION_FUNCTIONS.get(target)


def activation_of_method(name: str, args: tuple[Any, ...]) -> str | None:
    """The fused activation that a tensor method computes, or None."""
    return _ACTIVATION_METHODS.get(name) if len(args) == 1 else None


def is_convolution(module: nn.Module) -> bool:
    """Whether the module computes what torch.nn.Conv2d does, or timm's Conv2dSame."""
    if not isinstance(module, nn.Conv2d) or has_hooks(module) or module.padding_mode != "zeros":
        return False
    if type(module) in (nn.Conv2d, Conv2d, PaddedConv2d) or type(module).__name__ == "Conv2dSame":
        return True
    kind = type(module)
    return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward


def window_of(conv: nn.Conv2d) -> FusedWindow:
    """The window of a convolution that ``is_convolution`` accepted."""
    kernel = (conv.kernel_size[0], conv.kernel_size[1])
    stride = (conv.stride[0], conv.stride[1])
    dilation = (conv.dilation[0], conv.dilation[1])
    padding: tuple[int, int, int, int] | None
    if isinstance(conv, PaddedConv2d):
        return FusedWindow(kernel, stride, dilation, conv.sides)
    if type(conv).__name__ == "Conv2dSame":
        padding = None
    elif isinstance(conv.padding, str):
        total_h, total_w = (dilation[axis] * (kernel[axis] - 1) for axis in (0, 1))
        if conv.padding == "valid":
            total_h = total_w = 0
        padding = (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    else:
        padding = (conv.padding[1], conv.padding[1], conv.padding[0], conv.padding[0])
    return FusedWindow(kernel, stride, dilation, padding)


def is_product(conv: nn.Conv2d) -> bool:
    """Whether a convolution that ``is_convolution`` accepted multiplies every pixel by one matrix, no more."""
    return conv.kernel_size == (1, 1) and window_of(conv).keeps_size and conv.groups == 1


def choose_for(conv: nn.Conv2d, packed: bool = False) -> ops.selection.Choice:
    """The kernel for a convolution, on the CPU in float32; packed: with weights packed once for many calls."""
    window = window_of(conv)
    return ops.selection.choose_kernel(
        conv.weight.shape,
        groups=conv.groups,
        stride=window.stride,
        dilation=window.dilation,
        dtype=conv.weight.dtype if conv.weight.is_cuda else torch.float32,
        device_type=conv.weight.device.type,
        padded=window.padding is None or any(window.padding),
        packed=packed,
    )


def choose_transposed_for(conv: nn.ConvTranspose2d) -> ops.selection.Choice:
    """The kernel for a transposed convolution on the CPU in float32."""
    return ops.selection.choose_transposed_kernel(
        conv.weight.shape, groups=conv.groups, device_type=conv.weight.device.type
    )


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the module is batch norm over images, with or without an activation of its own."""
    return isinstance(module, nn.BatchNorm2d) and not has_hooks(module)


def affine_of(norm: nn.BatchNorm2d) -> Affine:
    """Batch norm in eval mode as one multiplication and addition, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return Affine(scale, shift)


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution and the batch norm behind it, in float64."""
    weight = conv.weight.detach().double()
    bias = None if conv.bias is None else conv.bias.detach().double()
    if norm is None:
        return weight, bias
    scale, shift = affine_of(norm)
    return weight * scale.view(-1, 1, 1, 1), shift if bias is None else bias * scale + shift


def activation_inside(norm: nn.Module) -> str | None:
    """The activation that a batch norm applies itself (timm's BatchNormAct2d); "identity" for plain batch norm."""
    inner = getattr(norm, "act", None)
    return activation_of_module(inner) if isinstance(inner, nn.Module) else "identity"


def squeeze_excite_of(module: nn.Module) -> ops.SqueezeExcite | None:
    """The weights of a squeeze-excite module of timm's EfficientNet or of torchvision, or None."""
    if has_hooks(module):
        return None
    timm_names = ("conv_reduce", "act1", "conv_expand", "gate")
    torchvision_names = ("fc1", "activation", "fc2", "scale_activation")
    if type(module).__name__ == "SqueezeExcite" and all(hasattr(module, name) for name in timm_names):
        names = timm_names
    elif type(module).__name__ == "SqueezeExcitation" and all(hasattr(module, name) for name in torchvision_names):
        names = torchvision_names
    else:
        return None
    reduce, activation, expand, gate = (getattr(module, name) for name in names)
    if not (_is_pointwise(reduce) and _is_pointwise(expand)):
        return None
    names_of = activation_of_module(activation), activation_of_module(gate)
    if None in names_of:
        return None
    return ops.SqueezeExcite(
        reduce.weight.detach().float(),
        None if reduce.bias is None else reduce.bias.detach().float(),
        expand.weight.detach().float(),
        None if expand.bias is None else expand.bias.detach().float(),
        *names_of,  # type: ignore[arg-type]
    )


class BlurShape(NamedTuple):
    """What a BlurPool takes: channels, and the stride of its subsampling."""

    channels: int
    stride: int


def blur_pool_of(module: nn.Module) -> BlurShape | None:
    """The shape of a ``BlurPool``, or of timm's ``BlurPool2d`` with its usual filter and edges; None of another."""
    if has_hooks(module):
        return None
    if type(module) is BlurPool:
        return BlurShape(module.channels, module.stride)
    if type(module).__name__ != "BlurPool2d":
        return None
    names = ("channels", "filt_size", "stride", "pad_mode")
    channels, size, stride, edges = (getattr(module, name, None) for name in names)
    if size != 3 or edges != "reflect" or not isinstance(channels, int) or not isinstance(stride, int):
        return None
    return BlurShape(channels, stride)


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
