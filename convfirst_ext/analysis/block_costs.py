"""Tensor-machine costs of ConvFirst and MBConv, layer-wise and block-fused (Lavin, arXiv 2404.03617, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convfirst_ext.analysis.arguments import require_kind, require_not_negative, require_positive
from convfirst_ext.analysis.intensity import (
    FUSED,
    KernelCost,
    conv2d_cost,
    elementwise_cost,
    hidden_channels,
)


@dataclass(frozen=True)
class BlockShape:
    """Hyperparameters of a block, as in the paper's tables 1, 2 and 5 to 8.

    Attributes:
        batch: N.
        size: H = W of the input.
        channels: C.
        expansion: alpha; alpha C hidden channels.
        out_channels: K; None for C.
        stride: 1 or 2; with 2 a BlurPool follows the grouped convolution, which itself has stride 1.
        group_width: channels of a group of the 3x3 convolution.
        squeeze_ratio: squeezed channels of MBConv's Squeeze & Excitation over C; 0 for a block without it.
        bytes_per_element: of activations and weights.

    Raises:
        ValueError: a number is not positive, stride is neither 1 nor 2, or the size is odd with stride 2.
    """

    batch: int
    size: int
    channels: int
    expansion: float
    out_channels: int | None = None
    stride: int = 1
    group_width: int = 8
    squeeze_ratio: float = 0.25
    bytes_per_element: float = 2.0

    def __post_init__(self) -> None:
        require_positive(
            batch=self.batch,
            size=self.size,
            channels=self.channels,
            out_channels=self.outputs,
            group_width=self.group_width,
            bytes_per_element=self.bytes_per_element,
        )
        if self.stride not in (1, 2) or self.size % self.stride:
            raise ValueError(f"stride must be 1 or 2 and divide the size {self.size}, but is {self.stride}.")
        require_not_negative(squeeze_ratio=self.squeeze_ratio)
        hidden_channels(self.channels, self.expansion)

    @property
    def hidden(self) -> int:
        """Hidden channels, alpha C."""
        return hidden_channels(self.channels, self.expansion)

    @property
    def outputs(self) -> int:
        """Output channels, K."""
        return self.channels if self.out_channels is None else self.out_channels

    @property
    def squeezed(self) -> int:
        """Channels between the two matrices of Squeeze & Excitation."""
        return round(self.squeeze_ratio * self.channels)

    @property
    def residual(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.channels == self.outputs


def convfirst_kernels(shape: BlockShape) -> list[KernelCost]:
    """ConvFirst's layers as kernels of their own (figure 7a): grouped 3x3, expansion, projection with the residual.

    With stride 2 (figure 6c) one more kernel blurs the input and the convolution's output to half their height and
    width and concatenates them: the expansion reads 2 C channels.
    """
    require_kind("shape", shape, BlockShape)
    batch, size, element = shape.batch, shape.size, shape.bytes_per_element
    small, pixels = size // shape.stride, shape.batch * size**2
    kernels = [_grouped(shape, shape.channels)]
    width = shape.channels
    if shape.stride == 2:
        width *= 2
        kernels.append(elementwise_cost("blurpool and cat", pixels * width, pixels * width // 4, element))
    kernels.append(conv2d_cost(batch, width, shape.hidden, small, 1, bytes_per_element=element, name="expansion"))
    kernels.append(_projection(shape, small))
    return kernels


def mbconv_kernels(shape: BlockShape) -> list[KernelCost]:
    """MBConv's layers as kernels of their own (figure 10): expansion, grouped 3x3, Squeeze & Excitation, projection.

    Squeeze & Excitation is an average pooling, two matrices and the gating of every pixel; with stride 2 a BlurPool
    comes before it.
    """
    require_kind("shape", shape, BlockShape)
    batch, size, element, hidden = shape.batch, shape.size, shape.bytes_per_element, shape.hidden
    small = size // shape.stride
    kernels = [
        conv2d_cost(batch, shape.channels, hidden, size, 1, bytes_per_element=element, name="expansion"),
        _grouped(shape, hidden),
    ]
    before, after, pooled = batch * size**2 * hidden, batch * small**2 * hidden, batch * hidden
    if shape.stride == 2:
        kernels.append(elementwise_cost("blurpool", before, after, element))
    if shape.squeezed:
        kernels += [
            elementwise_cost("squeeze: average pooling", after, pooled, element),
            conv2d_cost(batch, hidden, shape.squeezed, 1, 1, bytes_per_element=element, name="squeeze"),
            conv2d_cost(batch, shape.squeezed, hidden, 1, 1, bytes_per_element=element, name="excitation"),
            elementwise_cost("excitation: gating", after + pooled, after, element),
        ]
    kernels.append(_projection(shape, small))
    return kernels


def convfirst_block(shape: BlockShape) -> KernelCost:
    """ConvFirst as one kernel (figure 7b): only input, output and weights pass through DRAM."""
    return _fused("convfirst", shape, convfirst_kernels(shape), _convfirst_weights(shape))


def mbconv_block(shape: BlockShape) -> KernelCost:
    """MBConv as one kernel (figure 11): only input, output and weights pass through DRAM.

    Its operations are those of its layers, with one for every element that is pooled or gated. Section 5.1 says that
    only multiply-adds count; the latencies that figure 12 prints hold these few operations too.
    """
    return _fused("mbconv", shape, mbconv_kernels(shape), _mbconv_weights(shape))


def _grouped(shape: BlockShape, channels: int) -> KernelCost:
    return conv2d_cost(
        shape.batch,
        channels,
        channels,
        shape.size,
        3,
        group_width=shape.group_width,
        bytes_per_element=shape.bytes_per_element,
        name="grouped 3x3",
    )


def _projection(shape: BlockShape, size: int) -> KernelCost:
    return conv2d_cost(
        shape.batch,
        shape.hidden,
        shape.outputs,
        size,
        1,
        residual=shape.residual,
        bytes_per_element=shape.bytes_per_element,
        name="projection",
    )


def _convfirst_weights(shape: BlockShape) -> int:
    grouped = shape.channels * (9 * shape.group_width + 1)
    expansion = shape.hidden * (shape.channels * shape.stride + 1)
    return grouped + expansion + shape.outputs * (shape.hidden + 1)


def _mbconv_weights(shape: BlockShape) -> int:
    expansion, grouped = shape.hidden * (shape.channels + 1), shape.hidden * (9 * shape.group_width + 1)
    gate = 2 * shape.hidden * shape.squeezed + shape.squeezed + shape.hidden if shape.squeezed else 0
    return expansion + grouped + gate + shape.outputs * (shape.hidden + 1)


def _fused(name: str, shape: BlockShape, layers: Sequence[KernelCost], weights: int) -> KernelCost:
    inputs = shape.batch * shape.size**2 * shape.channels
    outputs = shape.batch * (shape.size // shape.stride) ** 2 * shape.outputs
    moved = (inputs + outputs + weights) * shape.bytes_per_element
    return KernelCost(name, FUSED, sum(layer.operations for layer in layers), moved)
