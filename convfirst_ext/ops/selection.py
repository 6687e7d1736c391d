"""Which kernel a convolution gets, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from convfirst_ext.ops import cuda
from convfirst_ext.ops.checks import DTYPES, MAX_KERNEL_ROWS

CUDA_GROUPED_KERNELS = {8: (3, 5), 16: (3,)}  # by group width
CUDA_MOST_STEM_CHANNELS = 256
STEM_CHANNELS = 4  # direct convolution over more input channels is no faster than torch's
# Transforms of fewer channels, or for fewer products, cost more than they save.
WINOGRAD_CHANNELS, WINOGRAD_PRODUCTS = 8, 128
LEAST_TRAINED_CHANNELS = 16  # of either side, where weights are transformed in every call
# Transformed weights of 4x4 tiles are four times as large as those they come from: 144 MiB for so many.
MOST_TILE_4_PRODUCTS = 1 << 20


class Choice(NamedTuple):
    """The kernel that a convolution gets.

    Attributes:
        kernel: its name, or None where torch runs the layer.
        reason: why, in words.
    """

    kernel: str | None
    reason: str


def choose_transposed_kernel(
    weight_shape: Sequence[int],
    *,
    groups: int,
    dtype: torch.dtype = torch.float32,
    device_type: str = "cpu",
) -> Choice:
    """Picks the kernel for a 2-D transposed convolution.

    Args:
        weight_shape: (C, O / groups, R, S).
        groups: number of groups.
        dtype: dtype of input and weight.
        device_type: "cpu", "cuda", ...

    Returns:
        The choice; ``kernel`` is "split" or None.
    """
    channels, group_out, rows, _ = weight_shape
    excluded = _reason_against(device_type, dtype, rows)
    if excluded:
        return Choice(None, excluded)
    if groups == channels and groups > 1:
        return Choice("split", "one input channel a group")
    if groups == 1 or group_out % 16 == 0:
        return Choice("split", "stride phases without inserted zeros")
    return Choice(
        None, f"groups of {group_out} output channels: only 1 group, C groups and multiples of 16 have a kernel"
    )


def choose_kernel(
    weight_shape: Sequence[int],
    *,
    groups: int,
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
    dtype: torch.dtype = torch.float32,
    device_type: str = "cpu",
    padded: bool = False,
    packed: bool = False,
) -> Choice:
    """Picks the kernel for a 2-D convolution.

    Args:
        weight_shape: (O, C / groups, R, S).
        groups: number of groups.
        stride: vertical and horizontal stride.
        dilation: vertical and horizontal dilation.
        dtype: dtype of input and weight.
        device_type: "cpu", "cuda", ...
        padded: whether the convolution pads its input.
        packed: whether the weights are packed once for many calls, as in inference modules.

    Returns:
        The choice; ``kernel`` is "depthwise", "pointwise", "grouped", "dense", "winograd" or None, of packed weights
        "winograd2" or "winograd4" instead of "winograd".
    """
    out_channels, group_in, rows, columns = weight_shape
    if device_type == "cuda" and not cuda.REASON_AGAINST:
        if packed:
            return Choice(None, "packed weights are for the CPU")
        return _choose_cuda_kernel(weight_shape, groups, stride, dilation, dtype)
    excluded = _reason_against(device_type, dtype, rows)
    if excluded:
        return Choice(None, excluded)
    if group_in == 1 and groups > 1:
        return Choice("depthwise", "one input channel a group")
    if groups == 1:
        if rows == columns == 1 and tuple(stride) == (1, 1) and not padded:
            return Choice("pointwise", "1x1 kernel")
        if group_in <= STEM_CHANNELS:
            return Choice("dense", f"at most {STEM_CHANNELS} input channels")
        if packed:
            return _choose_packed_dense(weight_shape, stride, dilation)
        if _is_winograds(weight_shape, stride, dilation) and dtype == torch.float32:
            if min(out_channels, group_in) >= LEAST_TRAINED_CHANNELS:
                return Choice("winograd", "3x3 kernel with stride 1")
        return Choice(None, f"dense {rows}x{columns} over {group_in} channels: torch's kernel is as fast")
    group_out = out_channels // groups
    if group_in == group_out and (group_in == 8 or group_in % 16 == 0):
        return Choice("grouped", f"group width {group_in}")
    return Choice(None, f"group width {group_in} to {group_out}: only 8 and multiples of 16 have a kernel")


def _choose_packed_dense(weight_shape: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Choice:
    if _is_winograds(weight_shape, stride, dilation):
        return Choice(winograd_kernel(*weight_shape[:2]), "3x3 kernel with stride 1")
    return Choice("dense", "direct convolution: as fast as torch's, and part of a chain")


def _is_winograds(weight_shape: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> bool:
    out_channels, channels, rows, columns = weight_shape
    plain = rows == columns == 3 and tuple(stride) == tuple(dilation) == (1, 1)
    return plain and channels >= WINOGRAD_CHANNELS and out_channels * channels >= WINOGRAD_PRODUCTS


def winograd_kernel(out_channels: int, in_channels: int) -> str:
    """The tile that suits a 3x3 layer whose weights are packed once: "winograd2" or "winograd4"."""
    return "winograd4" if out_channels * in_channels <= MOST_TILE_4_PRODUCTS else "winograd2"


def _choose_cuda_kernel(
    weight_shape: Sequence[int], groups: int, stride: Sequence[int], dilation: Sequence[int], dtype: torch.dtype
) -> Choice:
    """The same for CUDA tensors: what csrc/cuda has a kernel for."""
    out_channels, group_in, rows, columns = weight_shape
    if dtype not in DTYPES:
        return Choice(None, f"no kernel for {dtype}")
    if group_in == 1 and groups > 1:
        return Choice("depthwise", "one input channel a group")
    plain = groups == 1 and tuple(dilation) == (1, 1)
    if plain and tuple(weight_shape[1:]) == (3, 3, 3) and tuple(stride) == (2, 2):
        if out_channels % 8 or out_channels > CUDA_MOST_STEM_CHANNELS:
            return Choice(None, f"a stem of {out_channels} channels: multiples of 8 up to 256 have a kernel")
        return Choice("dense", "3x3 stem of 3 channels")
    if groups == 1 or group_in not in CUDA_GROUPED_KERNELS or out_channels // groups != group_in:
        return Choice(None, f"group width {group_in}: on CUDA only depthwise, 8 and 16 have a kernel")
    if dtype == torch.float32:
        return Choice(None, f"group width {group_in} in float32: tensor cores need float16 or bfloat16")
    square = rows == columns and rows in CUDA_GROUPED_KERNELS[group_in]
    if not square or tuple(stride) not in ((1, 1), (2, 2)) or tuple(dilation) != (1, 1):
        sizes = " and ".join(f"{size}x{size}" for size in CUDA_GROUPED_KERNELS[group_in])
        return Choice(None, f"group width {group_in}: on CUDA only {sizes} with stride 1 or 2 have a kernel")
    return Choice("grouped", f"group width {group_in} on tensor cores")


def _reason_against(device_type: str, dtype: torch.dtype, rows: int) -> str:
    """Why no kernel of ours takes such tensors, or nothing."""
    if device_type == "cuda":
        return cuda.REASON_AGAINST or "no kernel for cuda tensors"
    if device_type != "cpu":
        return f"no kernel for {device_type} tensors"
    if dtype not in DTYPES:
        return f"no kernel for {dtype}"
    return f"the kernel has more than {MAX_KERNEL_ROWS} rows" if rows > MAX_KERNEL_ROWS else ""
