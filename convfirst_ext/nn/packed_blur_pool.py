"""BlurPool as a step of a chain, of one image or of two whose channels it puts side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import FusedWindow


class PackedBlurPool(PackedModule):
    """Inference only: ``BlurPool``, or ``torch.cat((blur(input), blur(beside)), 1)``.

    Args:
        channels: C of every image.
        stride: of the subsampling.
        images: 1, or 2 where forward takes ``beside``.
    """

    def __init__(self, channels: int, stride: int, images: int = 1) -> None:
        super().__init__()
        self.window = FusedWindow((3, 3), (stride, stride), (1, 1), (1, 1, 1, 1))
        self.in_channels, self.out_channels = channels, images * channels
        self.images = images

    def forward(self, input: Tensor, beside: Tensor | None = None) -> Tensor:
        """(N, C, H, W) of at least 2x2 pixels to (N, images * C, ceil(H / stride), ceil(W / stride)).

        Raises:
            RuntimeError: the input is one pixel high or wide and has nothing to reflect.
        """
        if check_packed_image(input, self.in_channels):
            return of_one_image(self.forward, input, beside)
        alone = self._step(1)
        parts = [ops.chain.run_step(image, alone) for image in (input, beside) if image is not None]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``, which takes ``beside`` for what other steps add."""
        return self._step(self.images)

    def _step(self, images: int) -> ops.chain.Step:
        return ops.chain.Step(ops.chain.BLUR_POOL, (self.window.stride[0], images), ())

    def describe(self) -> str:
        """The kernel in a few words."""
        both = " of two, side by side" if self.images == 2 else ""
        return f"blur pool {self.in_channels}, stride {self.window.stride[0]}{both}"

    extra_repr = describe
