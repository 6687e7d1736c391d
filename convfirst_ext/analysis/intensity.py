"""Operations, bytes and operational intensity of convolutions (Lavin, arXiv 2404.03617, equations 21 to 32)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convfirst_ext.analysis.arguments import (
    int_pair,
    real_array,
    require_each,
    require_not_negative,
    require_number,
    require_positive,
)
from convfirst_ext.analysis.zero_skipping import Pair

CONVOLUTION = "convolution"
GROUPED = "grouped convolution"
POINTWISE = "pointwise convolution"
DEPTHWISE = "depthwise convolution"
ELEMENTWISE = "pool, multiply, cat or norm"
FUSED = "fused block"
KINDS = (CONVOLUTION, GROUPED, POINTWISE, DEPTHWISE, ELEMENTWISE, FUSED)


@dataclass(frozen=True)
class KernelCost:
    """What one kernel must do.

    Attributes:
        name: of the layer or block.
        kind: one of KINDS.
        operations: n, a multiply-add counting as two.
        bytes: b, moved between DRAM and the processor when every element of every tensor moves once.

    Raises:
        ValueError: kind is none of KINDS, operations is negative or bytes is not positive.
    """

    name: str
    kind: str
    operations: float
    bytes: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, but is {self.kind!r}.")
        require_not_negative(operations=self.operations)
        require_positive(bytes=self.bytes)

    @property
    def intensity(self) -> float:
        """Operational intensity n / b in operations per byte."""
        return self.operations / self.bytes


def conv2d_cost(
    batch: int,
    in_channels: int,
    out_channels: int,
    size: Pair,
    kernel: Pair = 3,
    *,
    group_width: int | None = None,
    stride: int = 1,
    residual: bool = False,
    bytes_per_element: float = 2.0,
    name: str = "conv2d",
) -> KernelCost:
    """A convolution with bias and "same" padding (equations 21 to 23).

    n = 2 (N H' W' K)(T R S) + K operations and b = N H' W' K + N H W C + K T R S + K elements, H' = ceil(H / stride);
    the equations are those of stride 1. Activation and the addition of a residual are part of the kernel.

    Args:
        batch: N.
        in_channels: C.
        out_channels: K.
        size: of the input, one int or (H, W).
        kernel: one int or (R, S).
        group_width: T, input channels of a group; None for C, 1 for a depthwise convolution.
        stride: of both axes.
        residual: also read a tensor of the output's shape, as a block's last layer does.
        bytes_per_element: of activations and weights.
        name: of the layer.

    Returns:
        The cost, its kind told from group_width and kernel.

    Raises:
        ValueError: an argument is not positive or the channels do not divide into groups.
    """
    (height, width), (rows, columns) = int_pair("size", size, 1), int_pair("kernel", kernel, 1)
    group = in_channels if group_width is None else group_width
    require_positive(
        batch=batch,
        in_channels=in_channels,
        out_channels=out_channels,
        group_width=group,
        stride=stride,
        bytes_per_element=bytes_per_element,
    )
    if in_channels % group:
        raise ValueError(f"group_width must divide in_channels {in_channels}, but is {group}.")
    if out_channels % (in_channels // group):
        raise ValueError(f"out_channels must be a multiple of {in_channels // group} groups, but is {out_channels}.")
    outputs = batch * -(-height // stride) * -(-width // stride) * out_channels
    operations = 2 * outputs * group * rows * columns + out_channels
    weights = out_channels * group * rows * columns + out_channels
    elements = outputs * (2 if residual else 1) + batch * height * width * in_channels + weights
    return KernelCost(name, _kind(in_channels, group, rows * columns), operations, elements * bytes_per_element)


def elementwise_cost(name: str, inputs: float, outputs: float, bytes_per_element: float = 2.0) -> KernelCost:
    """A pooling, gating or normalization: an operation for every element that it reads.

    Args:
        name: of the layer.
        inputs: elements that are read.
        outputs: elements that are written.
        bytes_per_element: of both.

    Returns:
        Operations, bytes and intensity of the kernel.

    Raises:
        ValueError: a number is negative, or there are no bytes.
    """
    require_not_negative(inputs=inputs, outputs=outputs)
    require_positive(bytes_per_element=bytes_per_element)
    return KernelCost(name, ELEMENTWISE, inputs, (inputs + outputs) * bytes_per_element)


def conv2d_intensity(
    in_channels: npt.ArrayLike,
    out_channels: npt.ArrayLike,
    kernel: Pair = 3,
    *,
    group_width: npt.ArrayLike | None = None,
    pixels: npt.ArrayLike = np.inf,
    bytes_per_element: float = 2.0,
) -> npt.NDArray[np.float64]:
    """Operational intensity in operations per byte where the bias is negligible (equations 24 to 28).

    n / b = T R S / (1 + C / K + T R S / (N H W)) for two bytes an element: equation 25 with T = C, 26 with a 1x1 kernel
    too, 27 with T = 1, each for many pixels; equation 28, n / b = N H W, for few. Arrays broadcast.

    Args:
        in_channels: C.
        out_channels: K.
        kernel: one int or (R, S).
        group_width: T; None for C.
        pixels: N H W; infinity leaves the weights out.
        bytes_per_element: of activations and weights.

    Returns:
        Operations per byte, of the shape that the arguments broadcast to.

    Raises:
        ValueError: an argument is not positive.
    """
    channels = real_array("in_channels", in_channels, 0, excluded=True)
    outputs = real_array("out_channels", out_channels, 0, excluded=True)
    group = channels if group_width is None else real_array("group_width", group_width, 0, excluded=True)
    count = real_array("pixels", pixels, 0, excluded=True)
    rows, columns = int_pair("kernel", kernel, 1)
    require_positive(bytes_per_element=bytes_per_element)
    per_output = group * (rows * columns)
    return 2.0 / bytes_per_element * per_output / (1.0 + channels / outputs + per_output / count)


def mediant_intensity(costs: Sequence[KernelCost]) -> float:
    """All operations over all bytes (equation 29), in operations per byte.

    As an intensity of the whole it supposes that the kernels run concurrently; in sequence it is right only where all
    are memory-bound or all are compute-bound, and too optimistic otherwise.

    Raises:
        ValueError: there are no costs.
    """
    require_costs(costs)
    return sum(cost.operations for cost in costs) / sum(cost.bytes for cost in costs)


def ffn_kernels(pixels: int, channels: int, expansion: float, bytes_per_element: float = 2.0) -> list[KernelCost]:
    """The two kernels of a layer-wise FFN(X) = phi(X U + a) V + b (equation 30), no residual.

    The hidden tensor, written and read, is expansion / (expansion + 1) of the activations' bytes.

    Args:
        pixels: P, rows of X.
        channels: C, columns of X.
        expansion: alpha; the hidden tensor has alpha C channels, a whole number.
        bytes_per_element: of activations and weights.

    Returns:
        Costs of the two kernels, in order.

    Raises:
        ValueError: an argument is not positive, or expansion * channels is no whole number.
    """
    hidden = hidden_channels(channels, expansion)
    return [
        conv2d_cost(pixels, channels, hidden, 1, 1, bytes_per_element=bytes_per_element, name="expansion"),
        conv2d_cost(pixels, hidden, channels, 1, 1, bytes_per_element=bytes_per_element, name="projection"),
    ]


def fused_ffn(pixels: int, channels: int, expansion: float, bytes_per_element: float = 2.0) -> KernelCost:
    """The FFN as one kernel that keeps a hidden channel only while it is used (equations 31 and 32).

    The operations are those of the layers; of the bytes, 2 P C activations and the weights and biases remain.

    Args:
        pixels: P, rows of X.
        channels: C, columns of X.
        expansion: alpha; the hidden tensor has alpha C channels, a whole number.
        bytes_per_element: of activations and weights.

    Returns:
        Operations, bytes and intensity of the one kernel.

    Raises:
        ValueError: an argument is not positive, or expansion * channels is no whole number.
    """
    layers = ffn_kernels(pixels, channels, expansion, bytes_per_element)
    hidden_bytes = 2 * pixels * hidden_channels(channels, expansion) * bytes_per_element
    operations, moved = sum(layer.operations for layer in layers), sum(layer.bytes for layer in layers)
    return KernelCost("ffn", FUSED, operations, moved - hidden_bytes)


def hidden_channels(channels: int, expansion: float) -> int:
    """Expansion * channels.

    Raises:
        ValueError: it is no whole number of at least 1.
    """
    require_number(channels=channels, expansion=expansion)
    hidden = round(channels * expansion)
    if hidden < 1 or abs(hidden - channels * expansion) > 1e-6:
        raise ValueError(f"expansion must make {channels} channels a whole number of channels, but is {expansion}.")
    return hidden


def require_costs(costs: Sequence[KernelCost]) -> None:
    """Raises TypeError where costs are none, ValueError where there are none."""
    if not require_each("costs", costs, KernelCost):
        raise ValueError("costs must hold at least one kernel, but is empty.")


def _kind(channels: int, group: int, taps: int) -> str:
    if taps == 1 and group == channels:
        return POINTWISE
    if group == channels:
        return CONVOLUTION
    return DEPTHWISE if group == 1 else GROUPED
