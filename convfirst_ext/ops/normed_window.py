"""Which convolutions the operators between two batch norms take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from convfirst_ext.ops.checks import MAX_KERNEL_ROWS


def has_kernel(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> bool:
    """Whether the operators take it: pointwise; depthwise or of group width 8 with as many channels out as in."""
    out_channels, group_in, rows, columns = weight.shape
    if groups == 1:
        return (rows, columns) == (1, 1) and max(stride) == 1 and max(padding) == 0
    return out_channels == group_in * groups and group_in in (1, 8) and rows <= MAX_KERNEL_ROWS
