"""The layers and blocks that ``benchmarks.layers`` times, each as a small module every runtime can take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from convfirst_ext.bench.cases import Case

LAYERS = "single layers"
BLOCKS = "blocks"


def conv(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = True
) -> nn.Module:
    """Returns one convolution, padded by half its kernel, in a container, which tracers need."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(layer)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
) -> list[nn.Module]:
    """Returns convolution, batch norm and, unless None, the activation, as networks chain them."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(out_channels), *([activation()] if activation else [])]


def stem(out_channels: int) -> nn.Module:
    """Returns the 3x3 stride-2 convolution on an RGB image that opens most networks."""
    return nn.Sequential(*conv_norm(3, out_channels, 3, stride=2))


def separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """Returns MobileNetV1's block: depthwise 3x3 and pointwise, each with batch norm and ReLU6."""
    depthwise = conv_norm(in_channels, in_channels, 3, stride, in_channels)
    return nn.Sequential(*depthwise, *conv_norm(in_channels, out_channels))


def plain_separable(in_channels: int, out_channels: int) -> nn.Module:
    """Returns depthwise 3x3 and pointwise without anything between, as the CS267 report times it."""
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=False))


class SqueezeExcite(nn.Module):
    """Channel gate: mean over the image, 1x1 reduce, SiLU, 1x1 expand, sigmoid, multiply."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = nn.SiLU()
        self.conv_expand = nn.Conv2d(reduced, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x`` (N, C, H, W) with every channel scaled by its gate."""
        squeezed = x.mean((2, 3), keepdim=True)
        gate: torch.Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(squeezed))))
        return x * gate


class InvertedResidual(nn.Module):
    """Expand, depthwise or grouped k x k, optional squeeze-excite, project, residual where shapes allow."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        expansion: int = 6,
        activation: type[nn.Module] = nn.ReLU6,
        squeeze: int = 0,
        group_width: int = 1,
    ) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.expand = nn.Sequential(*conv_norm(in_channels, hidden, activation=activation))
        self.spatial = nn.Sequential(*conv_norm(hidden, hidden, kernel, stride, hidden // group_width, activation))
        self.squeeze_excite = SqueezeExcite(hidden, squeeze) if squeeze else None
        self.project = nn.Sequential(*conv_norm(hidden, out_channels, activation=None))
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (N, out_channels, H / stride, W / stride)."""
        y: torch.Tensor = self.spatial(self.expand(x))
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        y = self.project(y)
        return x + y if self.has_residual else y


def layer_cases(batches: list[int] | None = None) -> list[Case]:
    """Returns every case at its own batch size, or at each of ``batches``."""
    cases = []
    for group, name, channels, size, batch, make in _ROWS:
        for number in batches or [batch]:
            shape = (number, channels, size, size)
            title = f"{name}, {channels}x{size}x{size}, b{number}"
            cases.append(Case(title, make, shape, channels_last_input=True, group=group))
    return cases


_Row = tuple[str, str, int, int, int, Callable[[], nn.Module]]
_B0 = partial(InvertedResidual, activation=nn.SiLU)


def _depthwise(kernel: int, stride: int, channels: int, size: int) -> _Row:
    make = partial(conv, channels, channels, kernel, stride, channels)
    return LAYERS, f"depthwise {kernel}x{kernel} s{stride}", channels, size, 16, make


def _pointwise(channels: int, out_channels: int, size: int) -> _Row:
    return LAYERS, f"pointwise to {out_channels}", channels, size, 16, partial(conv, channels, out_channels)


def _separable(channels: int, out_channels: int, size: int) -> _Row:
    return BLOCKS, f"dw+pw to {out_channels}", channels, size, 16, partial(separable, channels, out_channels)


# group, name, channels, image size, batch, module
_ROWS: list[_Row] = [
    _depthwise(3, 1, 128, 56),
    _depthwise(3, 2, 128, 56),
    _depthwise(5, 1, 240, 28),
    _depthwise(5, 2, 240, 28),
    _depthwise(7, 1, 96, 56),
    _depthwise(7, 2, 96, 56),
    _pointwise(24, 144, 56),
    _pointwise(128, 128, 56),
    _pointwise(192, 768, 28),
    _pointwise(512, 512, 14),
    _pointwise(960, 160, 7),
    (LAYERS, "grouped 3x3 width 8", 128, 56, 16, partial(conv, 128, 128, 3, 1, 16)),
    (LAYERS, "stem 3x3 s2 to 32", 3, 224, 16, partial(stem, 32)),
    _separable(32, 64, 112),
    _separable(128, 128, 56),
    _separable(512, 512, 14),
    (BLOCKS, "CS267 dw+pw to 64", 3, 512, 8, partial(plain_separable, 3, 64)),
    (BLOCKS, "MBConv e6 s2 to 24", 16, 112, 1, partial(InvertedResidual, 16, 24, stride=2)),
    (BLOCKS, "MBConv e6", 24, 56, 1, partial(InvertedResidual, 24, 24)),
    (BLOCKS, "MBConv e6", 32, 28, 1, partial(InvertedResidual, 32, 32)),
    (BLOCKS, "MBConv e6", 64, 14, 1, partial(InvertedResidual, 64, 64)),
    (BLOCKS, "MBConv e6", 160, 7, 1, partial(InvertedResidual, 160, 160)),
    (BLOCKS, "MBConv 5x5 e6 SE", 40, 28, 1, partial(_B0, 40, 40, 5, squeeze=10)),
    (BLOCKS, "MBConv e6 SE", 80, 14, 1, partial(_B0, 80, 80, squeeze=20)),
    (BLOCKS, "MBConv e6 SE", 80, 14, 16, partial(_B0, 80, 80, squeeze=20)),
    (BLOCKS, "MBConv width 8 e6 SE", 128, 14, 16, partial(_B0, 128, 128, squeeze=32, group_width=8)),
]
