"""Squeeze-and-excitation: channels weighted by what the whole image holds (Hu et al., arXiv 1709.01507)."""

from __future__ import annotations

from torch import Tensor, nn

from convfirst_ext.nn.image_checks import check_layer_image


class SqueezeExcite(nn.Module):
    """``x * gate(expand(activation(reduce(mean(x)))))``, under the attribute names of timm's module.

    Args:
        conv_reduce: 1x1 convolution from C to the bottleneck.
        act1: activation of the bottleneck.
        conv_expand: 1x1 convolution back to C.
        gate: activation that turns its result into factors.

    Raises:
        TypeError: one of them is no module.
    """

    def __init__(self, conv_reduce: nn.Conv2d, act1: nn.Module, conv_expand: nn.Conv2d, gate: nn.Module) -> None:
        super().__init__()
        for name, part in (("conv_reduce", conv_reduce), ("act1", act1), ("conv_expand", conv_expand), ("gate", gate)):
            if not isinstance(part, nn.Module):
                raise TypeError(f"{name} must be a torch.nn.Module, but is {type(part).__name__}.")
        self.conv_reduce, self.act1, self.conv_expand, self.gate = conv_reduce, act1, conv_expand, gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        check_layer_image(x, self.conv_reduce, "x")
        squeezed = self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.conv_expand(squeezed))
