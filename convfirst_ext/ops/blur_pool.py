"""BlurPool of torch's layers: what fused blocks run where they have no kernel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def blur_pool(input: Tensor, stride: int = 2) -> Tensor:
    """Blurs with [1, 2, 1] / 4 in both directions, edges reflected, and takes each ``stride``-th pixel.

    Args:
        input: (N, C, H, W) of at least 2x2 pixels.
        stride: of the subsampling.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)).

    Source: Zhang, Making Convolutional Networks Shift-Invariant Again, arXiv 1904.11486, section 3.
    """
    taps = input.new_tensor([0.25, 0.5, 0.25])
    weight = (taps[:, None] * taps).expand(input.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(input, (1, 1, 1, 1), mode="reflect"), weight, stride=stride, groups=input.shape[1])
