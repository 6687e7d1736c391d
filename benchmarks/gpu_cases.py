"""What is timed on a GPU: each case with its contestants, the bytes it must move and the operations it must do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_blocks import BLOCKS, BlockCase
from convfirst_ext import ops
from convfirst_ext.ops.gradients import cuda_gradients

Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A layer, one of its gradients, or a block, at batch size ``batch``."""

    kind: str  # "forward", "data gradient", "weight gradient", "convfirst"
    channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    width: int = 1  # channels a group
    expansion: int = 0
    dtype: str = "float16"
    batch: int = 128
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.kind == "convfirst":
            return f"ConvFirst {self.channels} channels, expansion {self.expansion}, {self.size}x{self.size}"
        what = "depthwise" if self.width == 1 else f"group width {self.width}"
        where = f"{self.channels} channels, {self.size}x{self.size}, {self.dtype}"
        return f"{what} {self.kernel}x{self.kernel} s{self.stride} {self.kind}, {where}"

    @property
    def small(self) -> Case:
        """The same layer on images and batches that a CPU takes at once."""
        return replace(self, channels=3 * self.width, size=9, dtype="float32", batch=2)

    @property
    def outputs(self) -> int:
        """Elements of the layer's output."""
        return self.batch * self.channels * (-(-self.size // self.stride)) ** 2

    @property
    def inputs(self) -> int:
        """Elements of the layer's input."""
        return self.batch * self.channels * self.size**2

    @property
    def flops(self) -> float:
        """Operations, two a product."""
        convolution = 2.0 * self.outputs * self.kernel**2 * self.width
        return convolution + 4.0 * self.outputs * self.expansion * self.channels

    @property
    def bytes_moved(self) -> float:
        """Input and output, or output's gradient, once; weights are small."""
        return float(getattr(torch, self.dtype).itemsize) * (self.inputs + self.outputs)


CASES: list[Case | BlockCase] = [
    *(Case("forward", *shape) for shape in ((144, 56), (144, 56, 3, 2), (240, 28, 5))),
    *(Case("forward", *shape) for shape in ((672, 14, 5), (96, 56, 7), (384, 14, 7))),
    *(Case("forward", *shape, dtype="float32") for shape in ((144, 56), (96, 56, 7))),
    *(Case("data gradient", *shape) for shape in ((144, 56), (144, 56, 3, 2), (672, 14, 5), (96, 56, 7))),
    *(Case("weight gradient", *shape) for shape in ((144, 56), (144, 56, 3, 2), (672, 14, 5), (96, 56, 7))),
    *(Case("forward", *shape, width=8) for shape in ((64, 64), (64, 64, 3, 2), (128, 32), (128, 32, 5))),
    *(Case(kind, 64, 64, width=8) for kind in ("data gradient", "weight gradient")),
    *(
        Case("convfirst", channels, size, width=8, expansion=expansion)  # table 1 of Lavin's paper
        for channels, expansion, size in ((16, 3, 128), (32, 3, 128), (32, 6, 64), (64, 6, 64), (96, 6, 32))
    ),
    *BLOCKS,
]  # fmt: skip


@dataclass(frozen=True)
class Contestants:
    """Calls that compute the same, and the same in float32."""

    calls: dict[str, Call]
    reference: Call


def build(case: Case | BlockCase, device: str = "cuda") -> Contestants:
    """The case's calls on fresh random tensors in channels_last; "inductor" compiles torch's layers."""
    if isinstance(case, BlockCase):
        return Contestants(*case.build(device))
    dtype = getattr(torch, case.dtype)
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, device=device, generator=generator)
    image = draw(case.batch, case.channels, case.size, case.size).to(dtype, memory_format=torch.channels_last)
    weight = (draw(case.channels, case.width, case.kernel, case.kernel) * (1.5 / (case.width**0.5 * case.kernel))).to(
        dtype
    )
    groups, padding = case.channels // case.width, case.kernel // 2
    window = (case.stride, padding, 1, groups)
    if case.kind == "convfirst":
        return _convfirst(case, image, weight, draw)
    if case.kind == "forward":
        op = ops.depthwise_conv2d if case.width == 1 else partial(ops.grouped_conv2d, groups=groups)
        ours = partial(op, image, weight, None, case.stride, padding)
        eager = partial(F.conv2d, image, weight, None, *window)
        inductor = _compiled(F.conv2d, image, weight, None, *window)
        calls = {"channels_last": eager, "inductor": inductor, "convfirst": ours}
        return Contestants(calls, lambda: F.conv2d(image.float(), weight.float(), None, *window))
    return _gradients(case, image, weight, draw)


def _compiled(function: Callable[..., Tensor], *arguments: Any) -> Call:
    return partial(torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False), *arguments)


def _gradients(case: Case, image: Tensor, weight: Tensor, draw: Callable[..., Tensor]) -> Contestants:
    side = -(-case.size // case.stride)
    grad = draw(case.batch, case.channels, side, side).to(image.dtype, memory_format=torch.channels_last)
    padding, groups = case.kernel // 2, case.channels // case.width
    window = ([case.stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups)
    of_input = case.kind == "data gradient"
    mask, place = [of_input, not of_input, False], 0 if of_input else 1

    def torch_gradient(grad: Tensor, image: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.aten.convolution_backward(grad, image, weight, None, *window, mask)[place]

    leaves = image.detach().requires_grad_(of_input), weight.detach().requires_grad_(not of_input)
    op = ops.depthwise_conv2d if case.width == 1 else partial(ops.grouped_conv2d, groups=groups)
    output = op(*leaves, None, case.stride, padding)

    def ours() -> Tensor:
        if image.is_cuda:  # as autograd calls them, but on the stream that a graph captures
            sides = (padding,) * 4
            window = (case.stride,) * 2, sides, (1, 1), groups
            found = cuda_gradients(grad, image, weight, window, mask)[place]
            assert found is not None
            return found
        return torch.autograd.grad(output, leaves[place], grad, retain_graph=True)[0]

    tensors = grad, image, weight
    calls = {"channels_last": partial(torch_gradient, *tensors), "inductor": _compiled(torch_gradient, *tensors)}
    return Contestants(calls | {"convfirst": ours}, lambda: torch_gradient(*(tensor.float() for tensor in tensors)))


def _convfirst(case: Case, image: Tensor, weight: Tensor, draw: Callable[..., Tensor]) -> Contestants:
    channels, hidden = case.channels, case.channels * case.expansion
    expand = (draw(hidden, channels, 1, 1) * (1.5 / channels**0.5)).to(image.dtype)
    project = (draw(channels, hidden, 1, 1) * (1.5 / hidden**0.5)).to(image.dtype)
    biases = [draw(count).to(image.dtype) for count in (channels, hidden, channels)]

    def layers(image: Tensor, conv: Tensor, expand: Tensor, project: Tensor, *biases: Tensor) -> Tensor:
        x = F.conv2d(image, conv, biases[0], padding=1, groups=channels // case.width)
        return image + F.conv2d(F.relu(F.conv2d(x, expand, biases[1])), project, biases[2])

    tensors = image, weight, expand, project, *biases
    ours = partial(ops.convfirst, image, weight, biases[0], expand, biases[1], project, biases[2])
    calls = {"channels_last": partial(layers, *tensors), "inductor": _compiled(layers, *tensors), "convfirst": ours}
    return Contestants(calls, lambda: layers(*(tensor.float() for tensor in tensors)))
