"""What ConvFirst and MBConv share: the checks of their arguments and the convolution of fixed group width."""

from __future__ import annotations

from torch import nn

from convfirst_ext.nn.drop_path import DropPath, check_probability
from convfirst_ext.ops.checks import check_positive


def check_block(in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int) -> None:
    """Raises TypeError or ValueError for arguments that no block allows."""
    check_positive(in_channels=in_channels, out_channels=out_channels, expansion=expansion, kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, but is {kernel_size}.")
    check_positive(stride=stride)
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, but is {stride}.")


def grouped_conv2d(
    channels: int, kernel_size: int, stride: int, group_width: int, bias: bool, argument: str
) -> nn.Conv2d:
    """A convolution of groups of ``group_width`` channels, padded by half of its odd kernel.

    Raises:
        ValueError: channels, which the message calls ``argument``, is not a multiple of group_width.
    """
    check_positive(group_width=group_width)
    if channels % group_width:
        raise ValueError(f"{argument} must be a multiple of group_width {group_width}, but is {channels}.")
    return nn.Conv2d(
        channels, channels, kernel_size, stride, kernel_size // 2, groups=channels // group_width, bias=bias
    )


def stochastic_depth(drop_path: float) -> nn.Module:
    """``DropPath``, or the identity where nothing is dropped.

    Raises:
        TypeError: drop_path is no number.
        ValueError: drop_path is out of range.
    """
    check_probability(drop_path, "drop_path")
    return DropPath(drop_path) if drop_path != 0.0 else nn.Identity()
