"""Squeeze-and-excitation: channels weighted by what the whole image holds (Hu et al., arXiv 1709.01507)."""

from __future__ import annotations

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """``x * gate(expand(activation(reduce(mean(x)))))``, under the attribute names of timm's module.

    Args:
        conv_reduce: 1x1 convolution from C to the bottleneck.
        act1: activation of the bottleneck.
        conv_expand: 1x1 convolution back to C.
        gate: activation that turns its result into factors.
    """

    def __init__(self, conv_reduce: nn.Conv2d, act1: nn.Module, conv_expand: nn.Conv2d, gate: nn.Module) -> None:
        super().__init__()
        self.conv_reduce, self.act1, self.conv_expand, self.gate = conv_reduce, act1, conv_expand, gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        squeezed = self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.conv_expand(squeezed))
