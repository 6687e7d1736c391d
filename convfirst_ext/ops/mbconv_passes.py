"""Inverted residuals of CUDA tensors in passes, for images of any size: what they take and how they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convfirst_ext.ops import cuda, cuda_blocks
from convfirst_ext.ops.checks import Window
from convfirst_ext.ops.layout import to_channels_last
from convfirst_ext.ops.squeeze_excite import SqueezeExcite

KERNELS = {1: (3, 5), 8: (3,)}  # sizes of square kernels by channels of a group
MOST_NUMBERS = 12 << 10  # hidden and squeezed channels together
_raw = torch.ops.convfirst


def passes_reason(
    input: Tensor,
    weights: tuple[Tensor | None, Tensor, Tensor],
    window: Window,
    blur: bool,
    squeeze_excite: SqueezeExcite | None,
) -> str:
    """Why single layers run a block of these expansion, convolution and projection weights, or nothing."""
    _, conv, project = weights
    hidden, width, rows, columns = conv.shape
    if rows != columns or rows not in KERNELS.get(width, ()):
        return f"no {rows}x{columns} kernel for groups of {width} channels"
    reason = _window_reason(rows, width, window) or cuda_blocks.device_reason(input)
    if reason:
        return reason
    if any(channels % 8 for channels in (input.shape[1], hidden, project.shape[0])):
        return "channels that are no multiple of 8"
    if blur and (width != 8 or min(input.shape[2:]) < 2):
        return "BlurPool behind a depthwise convolution, or of less than 2x2 pixels"
    if squeeze_excite is not None and hidden + squeeze_excite.reduce_weight.shape[0] > MOST_NUMBERS:
        return f"more than {MOST_NUMBERS} hidden and squeezed channels"
    return ""


def _window_reason(kernel: int, width: int, window: Window) -> str:
    stride = window.stride[0]
    if tuple(window.stride) != (stride, stride) or stride not in (1, 2) or tuple(window.dilation) != (1, 1):
        return "stride is neither 1 nor 2, or there is dilation"
    if width == 8 and (stride != 1 or tuple(window.padding) != (1, 1, 1, 1)):
        return "group width 8 with another stride or padding than 1"
    return "padding as large as the kernel" if max(window.padding) >= kernel else ""


def run_passes(
    input: Tensor,
    weights: tuple[Tensor | None, Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    window: Window,
    blur: bool,
    squeeze_excite: SqueezeExcite | None,
    activations: tuple[str, str],
    residual: Tensor | None,
) -> Tensor:
    """A block without ``passes_reason``; weights and biases of expansion, convolution and projection.

    The activations are those behind expansion and convolution, and behind the projection.
    """
    squeeze, inner = cuda_blocks.squeeze_arguments(squeeze_excite)
    return _raw.mbconv_passes.default(
        to_channels_last(input),
        *cuda_blocks.with_biases(weights, biases),
        None if residual is None else to_channels_last(residual),
        *squeeze,
        window.stride[0],
        list(window.padding),
        blur,
        *activations,
        *inner,
    )


def passes_size(size: Sequence[int], kernel: int, stride: int, padding: Sequence[int], blur: bool) -> tuple[int, int]:
    """Height and width of the output for those of the input."""
    left, right, top, bottom = padding
    sides = (size[0] + top + bottom, size[1] + left + right)
    height, width = ((side - kernel) // stride + 1 for side in sides)
    return ((height + 1) // 2, (width + 1) // 2) if blur else (height, width)


def _fake(input: Tensor, *rest: Any) -> Tensor:
    conv_weight, project_weight, (stride, padding, blur) = rest[2], rest[4], rest[11:14]
    height, width = passes_size(input.shape[2:], conv_weight.shape[2], stride, padding, blur)
    return cuda_blocks.empty_channels_last(input, project_weight.shape[0], height, width)


if not cuda.REASON_AGAINST:
    torch.library.register_fake("convfirst::mbconv_passes", _fake)
