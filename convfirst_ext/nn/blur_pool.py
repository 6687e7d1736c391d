"""BlurPool, subsampling behind a low-pass filter (Zhang, arXiv 1904.11486; Lavin, arXiv 2404.03617, section 5.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convfirst_ext.nn.image_checks import check_image
from convfirst_ext.ops.checks import check_positive


class BlurPool(nn.Module):
    """Blurs every channel with the triangle-3 filter, [1, 2, 1] / 4 in both directions, and takes each second pixel.

    Edges are reflected, as in Zhang's code and timm's ``BlurPool2d``, so that a constant image stays constant; Lavin's
    paper does not say. The filter is a buffer outside the state_dict.

    ``F.conv2d(F.pad(input, (1, 1, 1, 1), mode="reflect"), filter, stride=stride, groups=channels)``

    Args:
        channels: C.
        stride: of the subsampling.

    Raises:
        TypeError: channels or stride is no int.
        ValueError: channels or stride is not positive.
    """

    filter: Tensor

    def __init__(self, channels: int, stride: int = 2) -> None:
        super().__init__()
        check_positive(channels=channels, stride=stride)
        self.channels, self.stride = channels, stride
        self.register_buffer("filter", torch.empty(channels, 1, 3, 3), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fills the filter; needed again after ``to_empty``, since no state_dict holds it."""
        taps = self.filter.new_tensor([0.25, 0.5, 0.25])
        self.filter.copy_(taps[:, None] * taps)

    init_non_persistent_buffers = reset_parameters  # what timm calls after it has loaded a model from the meta device

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) of at least 2x2 pixels to (N, C, ceil(H / stride), ceil(W / stride)).

        Raises:
            TypeError: the input is no tensor.
            ValueError: it has other dimensions or channels.
            RuntimeError: it is one pixel high or wide and has nothing to reflect.
        """
        check_image(input, self.channels, dimensions=(3, 4))
        padded = F.pad(input, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.filter, stride=self.stride, groups=self.channels)

    def extra_repr(self) -> str:
        """Channels and stride."""
        return f"{self.channels}, stride={self.stride}"
