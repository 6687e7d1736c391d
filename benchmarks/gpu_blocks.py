"""Blocks with an expansion that are timed on a GPU: ConvFirst of stride 2 and inverted residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.ops.blur_pool import blur_pool
from convfirst_ext.ops.checks import Window
from convfirst_ext.ops.mbconv_passes import run_passes


@dataclass(frozen=True)
class BlockCase:
    """A block at batch size ``batch``, its layers with biases and ReLU, as after folding batch norm."""

    kind: str  # "ConvFirst" or "MBConv"
    channels: int
    out_channels: int
    size: int
    expansion: int
    kernel: int = 3
    stride: int = 1
    width: int = 8  # channels a group
    squeeze: float = 0.0  # squeezed channels over channels, 0 for no squeeze-excite
    blur: bool = False
    dtype: str = "float16"
    batch: int = 128

    def __str__(self) -> str:
        channels = f"{self.channels} to {self.out_channels} channels"
        extras = ", blur pool" * self.blur + ", squeeze-excite" * bool(self.squeeze)
        window = f"{self.kernel}x{self.kernel} s{self.stride}, group width {self.width}"
        return f"{self.kind} {window}{extras}, {channels}, expansion {self.expansion}, {self.size}x{self.size}"

    @property
    def small(self) -> BlockCase:
        """The same block on images and batches that a CPU takes at once."""
        return replace(self, channels=16, out_channels=24 if self.is_smaller else 16, size=9, batch=2, dtype="float32")

    @property
    def is_smaller(self) -> bool:
        """Whether the output has fewer pixels than the input."""
        return self.stride == 2 or self.blur

    @property
    def hidden(self) -> int:
        """Channels between expansion and projection."""
        return self.channels * self.expansion

    @property
    def bytes_moved(self) -> float:
        """Input and output once; weights are small."""
        before, after = self._pixels
        elements = before * self.channels + after * self.out_channels
        return float(getattr(torch, self.dtype).itemsize * elements)

    @property
    def flops(self) -> float:
        """Operations of the products, two each; blurring and squeeze-excite are small."""
        before, after = self._pixels
        taps = self.kernel**2 * self.width
        if self.kind == "ConvFirst":
            expand = (2 if self.blur else 1) * self.channels * self.hidden
            return 2.0 * (before * self.channels * taps + after * (expand + self.hidden * self.out_channels))
        expand = self.channels * self.hidden if self.expansion > 1 else 0
        convolved = before if self.blur else after
        return 2.0 * (before * expand + convolved * self.hidden * taps + after * self.hidden * self.out_channels)

    @property
    def _pixels(self) -> tuple[int, int]:
        side = -(-self.size // 2) if self.is_smaller else self.size
        return self.batch * self.size**2, self.batch * side**2

    def build(self, device: str) -> tuple[dict[str, Callable[[], Tensor]], Callable[[], Tensor]]:
        """Torch's layers and our operator on the same tensors, and the layers in float32."""
        dtype = getattr(torch, self.dtype)
        draw = partial(torch.randn, device=device, generator=torch.Generator(device).manual_seed(0))
        image = draw(self.batch, self.channels, self.size, self.size).to(dtype, memory_format=torch.channels_last)
        layers: dict[str, Tensor] = {}
        for name, shape in self._shapes().items():
            fan_in = shape[1] * shape[2] * shape[3]
            layers[f"{name}_weight"] = (draw(shape) * (1.5 / fan_in**0.5)).to(dtype)
            layers[f"{name}_bias"] = draw(shape[0]).to(dtype)
        names = list(layers)

        def stock(image: Tensor, *tensors: Tensor) -> Tensor:
            return self._stock(image, dict(zip(names, tensors, strict=True)))

        inductor = torch.compile(stock, mode="max-autotune-no-cudagraphs", dynamic=False)
        calls: dict[str, Callable[[], Tensor]] = {
            "channels_last": lambda: stock(image, *layers.values()),
            "inductor": lambda: inductor(image, *layers.values()),
            "convfirst": lambda: self._ours(image, layers),
        }
        if image.is_cuda and self.kind == "MBConv" and not self.blur and self.expansion > 1:
            calls["convfirst_passes"] = lambda: self._in_passes(image, layers)
        return calls, lambda: stock(image.float(), *(tensor.float() for tensor in layers.values()))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        first = self.kind == "ConvFirst"
        convolved = self.channels if first else self.hidden
        shapes = {"conv": (convolved, self.width, self.kernel, self.kernel)}
        if first or self.expansion > 1:
            inputs = self.channels * (2 if first and self.blur else 1)
            shapes["expand"] = (self.hidden, inputs, 1, 1)
        shapes["project"] = (self.out_channels, self.hidden, 1, 1)
        if self.squeeze:
            squeezed = max(1, int(self.channels * self.squeeze))
            shapes |= {"reduce": (squeezed, self.hidden, 1, 1), "excite": (self.hidden, squeezed, 1, 1)}
        return shapes

    @property
    def _adds_input(self) -> bool:
        return not self.is_smaller and self.channels == self.out_channels

    def _stock(self, image: Tensor, layers: dict[str, Tensor]) -> Tensor:
        def layer(x: Tensor, name: str, **options: Any) -> Tensor:
            return F.conv2d(x, layers[f"{name}_weight"], layers[f"{name}_bias"], **options)

        window = {"stride": self.stride, "padding": self.kernel // 2}
        if self.kind == "ConvFirst":
            x = layer(image, "conv", **window, groups=self.channels // self.width)
            x = torch.cat((blur_pool(image), blur_pool(x)), 1) if self.blur else x
            x = layer(F.relu(layer(x, "expand")), "project")
            return image + x if self._adds_input else x
        x = F.relu(layer(image, "expand")) if self.expansion > 1 else image
        x = F.relu(layer(x, "conv", **window, groups=self.hidden // self.width))
        x = blur_pool(x) if self.blur else x
        if self.squeeze:
            x = x * layer(F.relu(layer(x.mean((2, 3), keepdim=True), "reduce")), "excite").sigmoid()
        x = layer(x, "project")
        return image + x if self._adds_input else x

    def _in_passes(self, image: Tensor, layers: dict[str, Tensor]) -> Tensor:
        """The inverted residual in passes, whatever ``ops.mbconv`` would choose."""
        window = Window((self.stride,) * 2, (self.kernel // 2,) * 4, (1, 1))
        weights, biases = zip(*(_of(layers, name) for name in ("expand", "conv", "project")), strict=True)
        residual = image if self._adds_input else None
        return run_passes(
            image, weights, biases, window, False, self._squeeze_excite(layers), ("relu", "identity"), residual
        )

    def _squeeze_excite(self, layers: dict[str, Tensor]) -> ops.SqueezeExcite | None:
        return ops.SqueezeExcite(*_of(layers, "reduce"), *_of(layers, "excite")) if self.squeeze else None

    def _ours(self, image: Tensor, layers: dict[str, Tensor]) -> Tensor:
        of = partial(_of, layers)

        if self.kind == "ConvFirst":
            products = *of("conv"), *of("expand"), *of("project")
            return ops.convfirst(image, *products, 2 if self.blur else 1, residual=self._adds_input)
        return ops.mbconv(
            image,
            *of("expand"),
            *of("conv"),
            *of("project"),
            self.stride,
            self.kernel // 2,
            groups=self.hidden // self.width,
            activation="relu",
            blur=self.blur,
            squeeze_excite=self._squeeze_excite(layers),
            residual=image if self._adds_input else None,
        )


def _of(layers: dict[str, Tensor], name: str) -> tuple[Any, Any]:
    """Weight and bias of a layer, or None and None where the block has none."""
    return layers.get(f"{name}_weight"), layers.get(f"{name}_bias")


BLOCKS = [
    *(  # the first blocks of stages 2 and 3 of ConvFirstNet-Small
        BlockCase("ConvFirst", channels, outputs, size, 6, blur=True)
        for channels, outputs, size in ((32, 64, 112), (64, 96, 56))
    ),
    *(  # table 2 of Lavin's paper
        BlockCase("MBConv", channels, channels, size, 4, squeeze=0.25)
        for size in (16, 8)
        for channels in (128, 144, 160, 192, 256)
    ),
    BlockCase("MBConv", 96, 256, 28, 4, blur=True, squeeze=0.25),  # the first of stage 4 of ConvFirstNet-Small
    *(  # MobileNetV2: stride 2 at high resolution, and the widest
        BlockCase("MBConv", channels, outputs, size, 6, stride=stride, width=1)
        for channels, outputs, size, stride in ((16, 24, 112, 2), (32, 32, 28, 1), (160, 160, 7, 1))
    ),
    BlockCase("MBConv", 40, 40, 28, 6, kernel=5, width=1, squeeze=0.25),  # EfficientNet-B0
    BlockCase("MBConv", 128, 128, 56, 1, width=1),  # MobileNetV1: depthwise separable
]  # fmt: skip
