"""Operators on packed weights: the building blocks of fused inference modules. They know no gradients.

Inputs are dense channels_last tensors in float32, bfloat16 or float16; weights and biases are packed once, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
KERNELS = ("depthwise", "grouped", "pointwise", "dense", "trimmed", "winograd2", "winograd4")

_raw = torch.ops.convfirst
_CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    kernel: getattr(_raw, f"{kernel.rstrip('24')}_conv2d_packed").default for kernel in KERNELS
}
_conv_transpose = _raw.split_conv_transpose2d_packed.default
_mbconv = _raw.mbconv_packed.default
_depthwise_separable = _raw.depthwise_separable_packed.default


def pack_weight(weight: Tensor) -> Tensor:
    """Packs an (O, K, R, S) weight into (ceil(O / 16), R, S, K, 16) float32."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a Tensor, but is {type(weight).__name__}.")
    return _raw.pack_weight.default(weight.detach())


def pack_weight_for(kernel: str, weight: Tensor) -> Tensor:
    """Packs an (O, K, R, S) weight as one of KERNELS reads it.

    For a Winograd kernel ``G g G^T`` of every 3x3 kernel g, computed in float64, is packed as if it were the weight.
    """
    tile = winograd_tile(kernel)
    return _raw.pack_winograd_weight.default(weight.detach(), tile) if tile else pack_weight(weight)


def winograd_tile(kernel: str) -> int:
    """The outputs a side of a tile of "winograd2" and "winograd4", 0 for other kernels."""
    return int(kernel[-1]) if kernel.startswith("winograd") else 0


def pack_transposed_weight(weight: Tensor, groups: int) -> Tensor:
    """Packs the (C, O / groups, R, S) weight of a transposed convolution into (ceil(O / 16), R, S, C / groups, 16)."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a Tensor, but is {type(weight).__name__}.")
    return _raw.pack_transposed_weight.default(weight.detach(), groups)


def pack_bias(bias: Tensor | None, channels: int) -> Tensor:
    """A bias in float32, padded with zeros to whole blocks of 16 channels; zeros where there is none."""
    whole = -(-channels // LANES) * LANES
    if bias is None:
        return torch.zeros(whole)
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a Tensor or None, but is {type(bias).__name__}.")
    if bias.shape != (channels,):
        raise ValueError(f"bias must have {channels} elements, but has shape {tuple(bias.shape)}.")
    return F.pad(bias.detach().float(), (0, whole - channels))


def conv2d(
    kernel: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    out_channels: int,
    activation: str,
) -> Tensor:
    """``activation(conv(input) + bias) + residual`` with one of the kernels of ``choose_kernel``.

    Args:
        kernel: one of KERNELS.
        input: (N, C, H, W), dense channels_last.
        weight: from ``pack_weight_for``.
        bias: from ``pack_bias``.
        residual: None, or a tensor like the output.
        stride: vertical, horizontal.
        padding: left, right, top, bottom.
        dilation: vertical, horizontal.
        groups: number of groups.
        out_channels: O, which the packed weight no longer tells.
        activation: one of ``ACTIVATIONS``.

    Returns:
        (N, O, H', W') in channels_last and input's dtype.

    Raises:
        TypeError: a tensor is None.
        ValueError: there is no such kernel.
        RuntimeError: an argument does not fit the others.
    """
    if kernel not in _CONVOLUTIONS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, but is {kernel!r}.")
    if input is None or weight is None or bias is None:
        raise TypeError("input, weight and bias must be Tensors, but one is None.")
    return _CONVOLUTIONS[kernel](
        input, weight, bias, residual, stride, padding, dilation, groups, out_channels, activation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    out_channels: int,
    activation: str = "identity",
) -> Tensor:
    """``activation(conv_transpose2d(input) + bias)``; see ``convfirst_ext.ops.split_conv_transpose2d``.

    Args:
        input: (N, C, H, W), dense channels_last.
        weight: from ``pack_transposed_weight``.
        bias: from ``pack_bias``.
        stride: vertical, horizontal.
        padding: left, right, top, bottom.
        dilation: vertical, horizontal.
        output_padding: vertical, horizontal; rows and columns more below and on the right.
        groups: number of groups.
        out_channels: O, which the packed weight no longer tells.
        activation: one of ``ACTIVATIONS``.

    Returns:
        (N, O, H', W') in channels_last and input's dtype.

    Raises:
        RuntimeError: an argument does not fit the others.
    """
    return _conv_transpose(
        input, weight, bias, stride, padding, output_padding, dilation, groups, out_channels, activation
    )


def mbconv(
    input: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor,
    se: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    project_weight: Tensor,
    project_bias: Tensor,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    hidden_channels: int,
    out_channels: int,
    activation: str,
    output_activation: str = "identity",
    se_activation: str = "relu",
    se_gate: str = "sigmoid",
) -> Tensor:
    """An inverted residual in one call; see ``convfirst_ext.ops.mbconv`` for the arithmetic.

    Weights come from ``pack_weight``, biases from ``pack_bias``.

    Args:
        input: (N, C, H, W), dense channels_last.
        expand_weight: of the 1x1 expansion, or None for none.
        expand_bias: its bias, or None.
        conv_weight: of the spatial convolution.
        conv_bias: its bias.
        se: squeeze-excite's reduce weight and bias, expand weight and bias; None for none.
        project_weight: of the 1x1 projection.
        project_bias: its bias.
        residual: None, or a tensor like the output, added last.
        stride: vertical, horizontal.
        padding: left, right, top, bottom.
        dilation: vertical, horizontal.
        groups: hidden_channels for a depthwise convolution, hidden_channels / 8 for group width 8.
        hidden_channels: E, which packed weights do not tell.
        out_channels: O.
        activation: after expansion and convolution, one of ``ACTIVATIONS``.
        output_activation: after the projection.
        se_activation: inside squeeze-excite.
        se_gate: what gives its factors.

    Returns:
        (N, O, H', W') in channels_last and input's dtype.

    Raises:
        RuntimeError: an argument does not fit the others.
    """
    if expand_weight is None and se is None and groups == hidden_channels:
        return _depthwise_separable(
            input,
            conv_weight,
            conv_bias,
            project_weight,
            project_bias,
            residual,
            stride,
            padding,
            dilation,
            out_channels,
            activation,
            output_activation,
        )
    reduce_weight, reduce_bias, excite_weight, excite_bias = se or (None, None, None, None)
    # The bottleneck's true width is the depth of the second layer.
    squeezed = excite_weight.shape[3] if excite_weight is not None else 0
    return _mbconv(
        input,
        expand_weight,
        expand_bias,
        conv_weight,
        conv_bias,
        project_weight,
        project_bias,
        residual,
        stride,
        padding,
        dilation,
        groups,
        hidden_channels,
        out_channels,
        activation,
        output_activation,
        reduce_weight,
        reduce_bias,
        excite_weight,
        excite_bias,
        squeezed,
        se_activation,
        se_gate,
    )
