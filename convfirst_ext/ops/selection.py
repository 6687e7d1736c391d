"""Which kernel a convolution gets, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from convfirst_ext.ops.checks import DTYPES, MAX_KERNEL_ROWS

STEM_CHANNELS = 4  # direct convolution over more input channels is no faster than torch's


class Choice(NamedTuple):
    """A kernel's name, or None where torch runs the layer, and the reason in words."""

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
        The choice; ``kernel`` is "depthwise", "pointwise", "grouped", "dense" or None.
    """
    out_channels, group_in, rows, columns = weight_shape
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
        if packed and not padded and tuple(stride) == (rows, columns) and tuple(dilation) == (1, 1):
            return Choice("dense", "patches that do not overlap")
        return Choice(None, f"dense {rows}x{columns} over {group_in} channels: torch's kernel is as fast")
    group_out = out_channels // groups
    if group_in == group_out and (group_in == 8 or group_in % 16 == 0):
        return Choice("grouped", f"group width {group_in}")
    return Choice(None, f"group width {group_in} to {group_out}: only 8 and multiples of 16 have a kernel")


def _reason_against(device_type: str, dtype: torch.dtype, rows: int) -> str:
    """Why no kernel of ours takes such tensors, or nothing."""
    if device_type != "cpu":
        return f"no kernel for {device_type} tensors"
    if dtype not in DTYPES:
        return f"no kernel for {dtype}"
    return f"the kernel has more than {MAX_KERNEL_ROWS} rows" if rows > MAX_KERNEL_ROWS else ""
