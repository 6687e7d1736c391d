"""A trainable depthwise-separable convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.ops.activation import check_activation
from convfirst_ext.ops.checks import check_positive, check_window


class DepthwiseSeparableConv2d(torch.nn.Module):
    """Depthwise, activation, pointwise, activation: ``ops.depthwise_separable`` with its own parameters.

    state_dict keys: ``depthwise.weight``, ``depthwise.bias``, ``pointwise.weight``, ``pointwise.bias``.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        padding: of the depthwise convolution, one int or (vertical, horizontal).
        dilation: of the depthwise convolution.
        bias: whether both layers add one.
        depthwise_activation: one of ``ops.ACTIVATIONS``.
        pointwise_activation: one of ``ops.ACTIVATIONS``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        depthwise_activation: str = "identity",
        pointwise_activation: str = "identity",
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels)
        check_window(kernel_size, padding, dilation, "kernel_size")
        check_window(stride, padding, dilation)
        check_activation(depthwise_activation, "depthwise_activation")
        check_activation(pointwise_activation, "pointwise_activation")
        self.depthwise = torch.nn.Conv2d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, in_channels, bias
        )
        self.pointwise = torch.nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.depthwise_activation = depthwise_activation
        self.pointwise_activation = pointwise_activation

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        return ops.depthwise_separable(
            input,
            self.depthwise.weight,
            self.depthwise.bias,
            self.pointwise.weight,
            self.pointwise.bias,
            self.depthwise.stride,
            self.depthwise.padding,  # type: ignore[arg-type]
            self.depthwise.dilation,
            depthwise_activation=self.depthwise_activation,
            pointwise_activation=self.pointwise_activation,
        )
