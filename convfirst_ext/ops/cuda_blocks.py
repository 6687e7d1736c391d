"""What has a kernel for CUDA tensors beside single layers, and how fused blocks are called; they know no gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convfirst_ext.ops import cuda
from convfirst_ext.ops.checks import Window
from convfirst_ext.ops.layout import to_channels_last
from convfirst_ext.ops.squeeze_excite import SqueezeExcite

GROUP_WIDTH = 8
MOST_CHANNELS = 128
SLICE = 64  # hidden channels of one thread block of a cluster
MOST_HIDDEN = 16 * SLICE
MOST_PIXELS = 256
MOST_SQUEEZED = 256
_raw = torch.ops.convfirst
_PLAIN_3X3 = Window((1, 1), (1, 1, 1, 1), (1, 1))


def convfirst_reason(input: Tensor, hidden: int, outputs: int, stride: int, conv_activation: str) -> str:
    """Why torch's layers run a ConvFirst block of so many hidden and output channels, or nothing."""
    if conv_activation not in ("identity", "relu"):
        return f"activation {conv_activation} behind the convolution"
    if max(stride * input.shape[1], outputs) > MOST_CHANNELS or outputs % GROUP_WIDTH:
        return f"more than {MOST_CHANNELS} channels, or output channels that are no multiple of {GROUP_WIDTH}"
    return _reason(input, hidden, GROUP_WIDTH)


def mbconv_reason(
    input: Tensor, weights: tuple[Tensor, Tensor, Tensor], window: Window, squeeze_excite: SqueezeExcite | None
) -> str:
    """Why single layers run an MBConv block of these expansion, convolution and projection weights, or nothing."""
    _, conv, project = weights
    if tuple(conv.shape[1:]) != (GROUP_WIDTH, 3, 3) or tuple(map(tuple, window)) != _PLAIN_3X3:
        return "the convolution is not 3x3 of group width 8 with stride 1 and padding 1"
    if (
        project.shape[0] != input.shape[1]
        or conv.shape[0] > MOST_HIDDEN
        or input.shape[2] * input.shape[3] > MOST_PIXELS
    ):
        return f"more than {MOST_HIDDEN} hidden channels or {MOST_PIXELS} pixels, or another number of output channels"
    if squeeze_excite is not None:
        if squeeze_excite.gate != "sigmoid" or squeeze_excite.reduce_weight.shape[0] > MOST_SQUEEZED:
            return f"squeeze-excite with another gate than sigmoid or more than {MOST_SQUEEZED} squeezed channels"
    reason = _reason(input, conv.shape[0], SLICE)
    if reason:
        return reason
    return "" if has_clusters(input) else "thread-block clusters need compute capability 9.0"


def skips_zeros(input: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether the zero-skipping kernels take a dense convolution of CUDA tensors, or a transposed one."""
    fits = input.is_cuda and not cuda.REASON_AGAINST and input.dtype in (torch.float16, torch.bfloat16)
    channels = (*weight.shape[:2], input.shape[1])
    return fits and groups == 1 and input.shape[1] > 1 and all(size % 8 == 0 for size in channels)


def device_reason(input: Tensor) -> str:
    """Why no kernel of fused blocks takes such a tensor, whatever the block, or nothing."""
    if not input.is_cuda:
        return f"no kernel for {input.device.type} tensors"
    if cuda.REASON_AGAINST:
        return cuda.REASON_AGAINST
    if input.dtype not in (torch.float16, torch.bfloat16):
        return "tensor cores need float16 or bfloat16"
    return "" if input.numel() else "an empty tensor"


def has_clusters(input: Tensor) -> bool:
    """Whether thread blocks of the tensor's device can share their memory."""
    return torch.cuda.get_device_capability(input.device) >= (9, 0)


def _reason(input: Tensor, hidden: int, multiple: int) -> str:
    reason = device_reason(input)
    if reason:
        return reason
    if input.shape[1] > MOST_CHANNELS or input.shape[1] % GROUP_WIDTH or hidden % multiple:
        return f"more than {MOST_CHANNELS} channels, or hidden channels that are no multiple of {multiple}"
    return ""


def run_convfirst(
    input: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    activations: tuple[str, str],
    stride: int,
    residual: bool,
) -> Tensor:
    """A block without ``convfirst_reason``; weights and biases of convolution, expansion and projection.

    The activations are those behind the convolution and behind the expansion.
    """
    layers = with_biases(weights, biases)
    return _raw.convfirst.default(to_channels_last(input), *layers, *activations, stride, residual)


def run_mbconv(
    input: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    squeeze_excite: SqueezeExcite | None,
    activation: str,
    residual: bool,
) -> Tensor:
    """A block without ``mbconv_reason``; weights and biases of expansion, convolution and projection."""
    layers, (squeeze, (inner, _)) = with_biases(weights, biases), squeeze_arguments(squeeze_excite)
    return _raw.mbconv.default(to_channels_last(input), *layers, *squeeze, activation, inner, residual)


def with_biases(weights: tuple[Tensor | None, ...], biases: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """A weight and its bias after the other, as the kernels take them."""
    layers: list[Tensor | None] = []
    for weight, bias in zip(weights, biases, strict=True):
        layers += [None if weight is None else weight.contiguous(), wide(bias)]
    return layers


def squeeze_arguments(squeeze_excite: SqueezeExcite | None) -> tuple[list[Tensor | None], tuple[str, str]]:
    """Weights and biases in float32 with the activation and the gate; any names where there is no squeeze-excite."""
    if squeeze_excite is None:
        return [None] * 4, ("relu", "sigmoid")
    return [wide(tensor) for tensor in squeeze_excite[:4]], (squeeze_excite.activation, squeeze_excite.gate)


def wide(tensor: Tensor | None) -> Tensor | None:
    """A parameter as the kernels add it, in float32."""
    return None if tensor is None else tensor.detach().float().contiguous()


def _fake_convfirst(input: Tensor, *rest: Any) -> Tensor:
    project_weight, stride = rest[4], rest[-2]
    height, width = (-(-size // stride) for size in input.shape[2:])
    return empty_channels_last(input, project_weight.shape[0], height, width)


def empty_channels_last(input: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An uninitialised batch of images of another size, as the kernels write it."""
    shape = (len(input), channels, height, width)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)


if not cuda.REASON_AGAINST:
    torch.library.register_fake("convfirst::convfirst", _fake_convfirst)
    torch.library.register_fake("convfirst::mbconv", lambda input, *rest: torch.empty_like(input))
