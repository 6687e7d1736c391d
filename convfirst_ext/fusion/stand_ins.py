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


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over dimension 1, under the name that timm's and torchvision's modules have.

    Args:
        norm: over the last dimension; its weights are shared.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(list(norm.normalized_shape), norm.eps, device=torch.device("meta"))
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """The matrix products of a ConvNeXt block, under the attribute names of timm's module."""

    def __init__(self, fc1: nn.Linear, act: nn.Module, fc2: nn.Linear) -> None:
        super().__init__()
        self.fc1, self.act, self.norm, self.fc2 = fc1, act, nn.Identity(), fc2

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., O)."""
        return self.fc2(self.act(self.fc1(x)))


class ConvNeXtBlock(nn.Module):
    """``x + gamma * project(activation(expand(norm(depthwise(x)))))``, under the attribute names of timm's module.

    Args:
        depthwise: convolution of single channels.
        norm: over channels.
        expand: to the hidden channels.
        activation: a recognised one.
        project: back to C.
        gamma: layer scale of C elements, or None.
    """

    def __init__(
        self,
        depthwise: nn.Conv2d,
        norm: nn.LayerNorm,
        expand: nn.Linear,
        activation: nn.Module,
        project: nn.Linear,
        gamma: Tensor | None,
    ) -> None:
        super().__init__()
        self.conv_dw, self.norm, self.mlp = depthwise, norm, Mlp(expand, activation, project)
        self.gamma = None if gamma is None else frozen(gamma.flatten())
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        products = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + (products if self.gamma is None else products * self.gamma).permute(0, 3, 1, 2)


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


def layer_norm(weight: Tensor, bias: Tensor | None, eps: float) -> nn.LayerNorm:
    """Layer norm over the last dimension on given (C,) weights, which are shared and not copied."""
    norm = nn.LayerNorm(len(weight), eps, bias=bias is not None, device=torch.device("meta"))
    norm.weight, norm.bias = frozen(weight), frozen(bias)  # type: ignore[assignment]
    return norm.eval()


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer on a given (O, C) weight and (O,) bias, which are shared and not copied."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=torch.device("meta"))
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    layer.bias = frozen(bias)  # type: ignore[assignment]
    return layer.eval()
