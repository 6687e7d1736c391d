"""The sum of every channel over a batch: the gradient of a bias."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext.ops.layout import to_channels_last


def channel_sums(input: Tensor) -> Tensor:
    """Sums of the channels of an (N, C, H, W) float32 tensor, (C,).

    ``input.sum((0, 2, 3))``; not differentiable by itself.
    """
    return torch.ops.convfirst.channel_sums.default(to_channels_last(input))


def _fake(input: Tensor) -> Tensor:
    return input.new_empty(input.shape[1])


torch.library.register_fake("convfirst::channel_sums", _fake)
