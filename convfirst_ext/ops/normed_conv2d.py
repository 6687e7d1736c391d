"""A convolution of training between two batch norms: the raw operators and what they take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convfirst_ext.ops.registration import empty_channels_last, output_size

_raw = torch.ops.convfirst

forward = _raw.normed_conv2d.default
backward = _raw.normed_conv2d_backward.default


def _fake_forward(
    input: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    gate: Tensor | None,
    activation: str,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = weight.shape[0]
    size = output_size(input, weight.shape[2:], stride, padding, dilation)
    return empty_channels_last(input, channels, size), input.new_empty(channels), input.new_empty(channels)


def _fake_backward(
    grad: Tensor,
    output: Tensor | None,
    factors: Tensor | None,
    input: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    gate: Tensor | None,
    activation: str,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs_input: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, channels, height, width = input.shape
    of_input = empty_channels_last(input if needs_input else input[:0], channels, (height, width))
    of_gate = input.new_empty(images if gate is not None else 0, channels)
    return (
        of_input,
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        input.new_empty(2, channels),
        of_gate,
    )


torch.library.register_fake("convfirst::normed_conv2d", _fake_forward)
torch.library.register_fake("convfirst::normed_conv2d_backward", _fake_backward)
