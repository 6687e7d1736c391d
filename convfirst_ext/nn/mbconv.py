"""A trainable inverted residual."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext import ops


class MBConv(torch.nn.Module):
    """Expand, convolve, squeeze-excite, project: ``ops.mbconv`` with its own parameters, and no batch norm.

    state_dict keys: ``expand``, ``convolution``, ``project``, ``se_reduce``, ``se_expand``, each with ``.weight`` and
    ``.bias``; ``expand`` is absent at expansion 1, the ``se_`` layers where se_ratio is 0.

    Args:
        in_channels: C.
        out_channels: O; the input is added where C = O and the stride is 1.
        kernel_size: odd; padded by half.
        stride: of the convolution.
        expansion: hidden channels over C.
        group_width: 1 for depthwise, or 8.
        se_ratio: bottleneck of squeeze-excite over C, 0 for none.
        activation: one of ``ops.ACTIVATIONS``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        expansion: int = 6,
        group_width: int = 1,
        se_ratio: float = 0.0,
        activation: str = "relu6",
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, but is {kernel_size}.")
        if group_width not in (1, 8):
            raise ValueError(f"group_width must be 1 or 8, but is {group_width}.")
        hidden = in_channels * expansion
        self.expand = torch.nn.Conv2d(in_channels, hidden, 1) if expansion != 1 else None
        self.convolution = torch.nn.Conv2d(
            hidden, hidden, kernel_size, stride, kernel_size // 2, groups=hidden // group_width
        )
        self.project = torch.nn.Conv2d(hidden, out_channels, 1)
        squeezed = max(1, int(in_channels * se_ratio)) if se_ratio > 0 else 0
        self.se_reduce = torch.nn.Conv2d(hidden, squeezed, 1) if squeezed else None
        self.se_expand = torch.nn.Conv2d(squeezed, hidden, 1) if squeezed else None
        self.activation = activation
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        squeeze_excite = None
        if self.se_reduce is not None and self.se_expand is not None:
            squeeze_excite = ops.SqueezeExcite(
                self.se_reduce.weight,
                self.se_reduce.bias,
                self.se_expand.weight,
                self.se_expand.bias,
                self.activation,
            )
        return ops.mbconv(
            input,
            self.expand.weight if self.expand is not None else None,
            self.expand.bias if self.expand is not None else None,
            self.convolution.weight,
            self.convolution.bias,
            self.project.weight,
            self.project.bias,
            self.convolution.stride,
            self.convolution.padding,  # type: ignore[arg-type]
            groups=None if self.convolution.groups == self.convolution.in_channels else self.convolution.groups,
            activation=self.activation,
            squeeze_excite=squeeze_excite,
            residual=input if self.adds_input else None,
        )
