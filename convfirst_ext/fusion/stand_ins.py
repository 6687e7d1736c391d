"""Modules that stand for groups of function calls, in the form the passes recognise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedConv2d(nn.Conv2d):
    """A convolution behind a zero padding of its own: what TensorFlow's 'same' becomes once image sizes are known."""

    sides: tuple[int, int, int, int] = (0, 0, 0, 0)  # left, right, top, bottom

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W')."""
        return super().forward(F.pad(input, self.sides))


class SqueezeExcite(nn.Module):
    """``x * gate(expand(activation(reduce(mean(x)))))``, under the attribute names of timm's module.

    Args:
        conv_reduce: 1x1 convolution from C to the bottleneck.
        act1: a recognised activation.
        conv_expand: 1x1 convolution back to C.
        gate: a recognised activation.
    """

    def __init__(self, conv_reduce: nn.Conv2d, act1: nn.Module, conv_expand: nn.Conv2d, gate: nn.Module) -> None:
        super().__init__()
        self.conv_reduce, self.act1, self.conv_expand, self.gate = conv_reduce, act1, conv_expand, gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        squeezed = self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.conv_expand(squeezed))


ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
}


def frozen(tensor: Tensor | None) -> nn.Parameter | None:
    """The tensor's memory as a parameter that wants no gradient, or None."""
    return None if tensor is None else nn.Parameter(tensor.detach(), requires_grad=False)


def conv2d(
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int] | str,
    dilation: tuple[int, int],
    groups: int,
    sides: tuple[int, int, int, int] | None = None,
) -> nn.Conv2d:
    """A convolution module on given weights, which are shared and not copied.

    Args:
        weight: (O, C / groups, R, S).
        bias: (O,) or None.
        stride: vertical, horizontal.
        padding: vertical, horizontal; or "same" or "valid".
        dilation: vertical, horizontal.
        groups: number of groups.
        sides: zeros around the input before all that: left, right, top, bottom.
    """
    kind = nn.Conv2d if sides is None else PaddedConv2d
    out_channels, group_in, rows, columns = weight.shape
    conv = kind(
        group_in * groups,
        out_channels,
        (rows, columns),
        stride,
        padding,
        dilation,
        groups,
        bias is not None,
        device=torch.device("meta"),
    )
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    conv.bias = frozen(bias)
    if isinstance(conv, PaddedConv2d) and sides is not None:
        conv.sides = sides
    return conv.eval()


def batch_norm2d(mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> nn.Module:
    """Batch norm in eval mode on given statistics, all (C,); they are shared and not copied."""
    norm = nn.BatchNorm2d(len(mean), eps, device=torch.device("meta"))
    norm.running_mean, norm.running_var = mean.detach(), variance.detach()
    norm.weight, norm.bias = frozen(weight), frozen(bias)  # type: ignore[assignment]
    norm.num_batches_tracked = None
    return norm.eval()


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer on a given (O, C) weight and (O,) bias, which are shared and not copied."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=torch.device("meta"))
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = frozen(bias)  # type: ignore[assignment]
    return layer.eval()
