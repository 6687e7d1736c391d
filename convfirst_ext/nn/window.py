"""The window of a fused convolution, with TensorFlow's input-dependent 'same' padding as one of its forms."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from convfirst_ext import ops


class FusedWindow(NamedTuple):
    """Kernel, stride and dilation (vertical, horizontal); padding (left, right, top, bottom), or None for 'same'."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int] | None

    def padding_for(self, input: Tensor) -> tuple[int, int, int, int]:
        """The padding of this input: left, right, top, bottom."""
        if self.padding is not None:
            return self.padding
        top, bottom = self._same(input.shape[2], 0)
        left, right = self._same(input.shape[3], 1)
        return left, right, top, bottom

    def integers(self) -> tuple[int, ...]:
        """The window as a chain's program has it."""
        return ops.chain.window_integers(self.kernel, self.stride, self.dilation, self.padding)

    def output_size(self, input: Tensor) -> tuple[int, int]:
        """Height and width of the output for this input."""
        left, right, top, bottom = self.padding_for(input)
        spans = [self.dilation[axis] * (self.kernel[axis] - 1) + 1 for axis in (0, 1)]
        height = (input.shape[2] + top + bottom - spans[0]) // self.stride[0] + 1
        width = (input.shape[3] + left + right - spans[1]) // self.stride[1] + 1
        return height, width

    @property
    def keeps_size(self) -> bool:
        """Whether the output has the input's height and width, whatever they are."""
        if self.stride != (1, 1):
            return False
        if self.padding is None:
            return True
        left, right, top, bottom = self.padding
        spans = [self.dilation[axis] * (self.kernel[axis] - 1) for axis in (0, 1)]
        return top + bottom == spans[0] and left + right == spans[1]

    def size_rule(self) -> tuple[int, ...]:
        """What decides the output's size: windows with one rule give outputs of one size for inputs of one size.

        Stride and what it is taken of beyond the input's size, vertical and horizontal.
        """
        if self.padding is None:
            return (self.stride[0], -1, self.stride[1], -1)  # as many as ceil(size / stride)
        left, right, top, bottom = self.padding
        spans = [self.dilation[axis] * (self.kernel[axis] - 1) + 1 for axis in (0, 1)]
        return (self.stride[0], top + bottom - spans[0], self.stride[1], left + right - spans[1])

    def _same(self, size: int, axis: int) -> tuple[int, int]:
        """As many outputs as ceil(size / stride); the odd pixel goes behind."""
        stride, span = self.stride[axis], self.dilation[axis] * (self.kernel[axis] - 1) + 1
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        return total // 2, total - total // 2

    def __str__(self) -> str:
        height, width = self.kernel
        text = f"{height}x{width}"
        if self.stride != (1, 1):
            text += f"/{self.stride[0]}" if self.stride[0] == self.stride[1] else f"/{self.stride}"
        if self.dilation != (1, 1):
            text += f" dilation {self.dilation[0]}x{self.dilation[1]}"
        return text


POINTWISE = FusedWindow((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
