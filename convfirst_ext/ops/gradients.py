"""Which gradients of convolutions the zero-skipping kernels take, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convfirst_ext.ops import strided_weight_grad as strided
from convfirst_ext.ops.channel_sums import channel_sums
from convfirst_ext.ops.checks import DTYPES
from convfirst_ext.ops.layout import to_channels_last
from convfirst_ext.ops.normed_window import has_kernel as normed_has_kernel
from convfirst_ext.ops.packed import LANES
from convfirst_ext.ops.selection import choose_kernel

# The smallest depthwise kernel whose weight gradient torch leaves to a generic loop.
LARGE_DEPTHWISE = 4
_raw = torch.ops.convfirst

Sides = Sequence[int]


def has_both(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sides,
    dilation: Sequence[int],
    groups: int,
) -> bool:
    """Whether ``both`` takes a convolution: pointwise, depthwise or of group width 8, once differentiable.

    Under ``create_graph`` torch's own gradients, which can be differentiated again, must do.
    """
    tensors = (grad, input, weight)
    plain = all(t.dtype == input.dtype and t.device.type == "cpu" and t.numel() > 0 for t in tensors)
    if not plain or input.dtype not in DTYPES or torch.is_grad_enabled():
        return False
    if input.dtype != torch.float32 and not _pays_for_half(input.dtype, weight, dilation, groups):
        return False
    return normed_has_kernel(weight, stride, padding, dilation, groups)


def _pays_for_half(dtype: torch.dtype, weight: Tensor, dilation: Sequence[int], groups: int) -> bool:
    """Whether float32 gradients of widened tensors are faster than torch's, 7 to 35 times where they are.

    Torch multiplies bfloat16 where the CPU can, but for the windows that it leaves to generic loops, and float16 in
    those only.
    """
    if groups == 1 or dtype == torch.float16:
        return groups > 1
    return weight.shape[1] == 1 and (max(dilation) > 1 or max(weight.shape[2:]) >= LARGE_DEPTHWISE)


def both(
    grad: Tensor, input: Tensor, weight: Tensor, window: tuple[Any, ...], wants_input: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of a convolution's input (None where unwanted) and weight, in one pass over grad and input.

    ``window`` is stride, padding, dilation and groups. Computed in float32, whatever the dtype.
    """
    values = (to_channels_last(grad).float(), None, None, to_channels_last(input).float(), None, None, None, None)
    of_input, of_weight, _, _ = _raw.normed_conv2d_backward.default(
        *values, "identity", weight.float(), *window, wants_input
    )
    return of_input.to(input.dtype) if wants_input else None, of_weight.to(weight.dtype)


def bias_gradient(grad: Tensor) -> Tensor:
    """The sum of every channel of an (N, C, H, W) tensor, added in float32."""
    return channel_sums(grad.float()).to(grad.dtype)


def has_cuda_kernels(grad: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Whether both gradients of a convolution of CUDA tensors have kernels of ours, which are differentiable once."""
    if not grad.is_cuda or grad.numel() == 0 or torch.is_grad_enabled():
        return False
    kernel = choose_kernel(
        weight.shape, groups=groups, stride=stride, dilation=dilation, dtype=grad.dtype, device_type="cuda"
    ).kernel
    return kernel in ("depthwise", "grouped")


def cuda_gradients(
    grad: Tensor, input: Tensor, weight: Tensor, window: tuple[Any, ...], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of the input, weight and bias that are wanted, of CUDA tensors; window as for ``both``."""
    stride, padding, dilation, groups = window
    dense = to_channels_last(grad)
    gradients: list[Tensor | None] = [None, None, None]
    if wanted[0]:
        rest = _output_padding(grad, weight, input.shape[2:], stride, padding, dilation)
        gradients[0] = _raw.split_conv_transpose2d.default(
            dense, weight.contiguous(), None, stride, padding, rest, dilation, groups
        )
    if wanted[1]:
        gradients[1] = strided.run_checked(input, dense, weight.shape[2:], stride, padding, dilation, groups)
    if wanted[2]:
        gradients[2] = grad.sum((0, 2, 3))
    return gradients


def filters_input(grad: Tensor, weight: Tensor, window: tuple[Any, ...]) -> bool:
    """Whether the gradient of a convolution's input is a convolution for Winograd's kernel; window as for ``both``."""
    stride, padding, dilation, groups = window
    if grad.dtype != torch.float32 or grad.device.type != "cpu" or not grad.numel() or max(padding) > 2:
        return False
    turned = weight.shape[1], weight.shape[0], *weight.shape[2:]
    return choose_kernel(turned, groups=groups, stride=stride, dilation=dilation).kernel == "winograd"


def filtered_input(grad: Tensor, weight: Tensor, padding: Sides) -> Tensor:
    """That gradient: 3x3 kernels turned around, inputs and outputs exchanged."""
    turned = weight.flip(2, 3).transpose(0, 1)
    sides = [2 - side for side in padding]
    return _raw.winograd_conv2d.default(to_channels_last(grad), turned, None, [1, 1], sides, [1, 1], 1)


def pays_for_input(weight: Tensor, dilation: Sequence[int], groups: int) -> bool:
    """Whether ``input_gradient`` is faster than torch's: dilated depthwise, which torch leaves to a generic loop."""
    return groups > 1 and weight.shape[1] == 1 and max(dilation) > 1


def pays_for_weight(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Whether ``weight_gradient`` is faster than torch's: strided or dilated layers and large depthwise kernels."""
    skips = max(*stride, *dilation) > 1
    if groups == 1:
        return skips
    if weight.shape[1] > 1 or weight.shape[0] != groups:
        return False
    return max(dilation) > 1 or max(weight.shape[2:]) >= LARGE_DEPTHWISE


def input_gradient(
    grad: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sides,
    dilation: Sequence[int],
    groups: int,
) -> Tensor | None:
    """The gradient of a convolution's (N, C, *size) input, or None where no kernel fits.

    Args:
        grad: of the output.
        weight: (O, C / groups, R, S).
        size: height and width of the input.
        stride: vertical, horizontal.
        padding: left, right, top, bottom.
        dilation: vertical, horizontal.
        groups: number of groups.
    """
    if not _fits(grad, weight, groups, weight.shape[1]):
        return None
    extra = _output_padding(grad, weight, size, stride, padding, dilation)
    dense = to_channels_last(grad)
    return _raw.split_conv_transpose2d.default(dense, weight, None, stride, padding, extra, dilation, groups)


def _output_padding(
    grad: Tensor, weight: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sides, dilation: Sequence[int]
) -> list[int]:
    """What a transposed convolution of ``grad`` adds below and on the right to reach height and width ``size``."""
    left, right, top, bottom = padding
    cut = (top + bottom, left + right)
    return [
        size[axis]
        + cut[axis]
        - (grad.shape[2 + axis] - 1) * stride[axis]
        - dilation[axis] * (weight.shape[2 + axis] - 1)
        - 1
        for axis in (0, 1)
    ]


def transposed_input_gradient(
    grad: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sides,
    dilation: Sequence[int],
    groups: int,
) -> Tensor | None:
    """The gradient of a transposed convolution's (N, C, *size) input; weight is (C, O / groups, R, S)."""
    if not _fits(grad, weight, groups, weight.shape[0] // groups):
        return None
    dense = to_channels_last(grad)
    whole = _raw.trimmed_conv2d.default(dense, weight, None, stride, padding, dilation, groups)
    return whole[:, :, : size[0], : size[1]]


def weight_gradient(
    input: Tensor,
    grad: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sides,
    dilation: Sequence[int],
    groups: int,
) -> Tensor | None:
    """The gradient of a convolution's (O, C / groups, *kernel_size) weight, or None where no kernel fits."""
    if input.dtype != torch.float32 or grad.dtype != torch.float32 or input.device.type != "cpu":
        return None
    return strided.run_checked(input, grad, kernel_size, stride, padding, dilation, groups)


def _fits(grad: Tensor, weight: Tensor, groups: int, group_out: int) -> bool:
    """Whether the zero-skipping kernels take a convolution of ``grad`` with so many output channels a group."""
    if grad.dtype != torch.float32 or grad.device.type != "cpu":
        return False
    return groups in (1, grad.shape[1]) or group_out % LANES == 0
