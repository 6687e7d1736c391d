"""Stochastic depth: residual branches that are left out for random images (Huang et al., arXiv 1603.09382)."""

from __future__ import annotations

from torch import Tensor, fx, nn

from convfirst_ext.ops.checks import check_real


class DropPath(nn.Module):
    """In training, zeroes whole images with a probability and scales the others to the same mean; else the identity.

    Args:
        drop_prob: probability of an image to be zeroed, from 0 up to but not 1.

    Raises:
        TypeError: drop_prob is no number.
        ValueError: drop_prob is out of range.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        check_probability(drop_prob, "drop_prob")
        self.drop_prob = drop_prob

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape.

        Raises:
            TypeError: the input is no tensor of floating-point numbers.
            ValueError: it has not four dimensions.
        """
        if not self.training or self.drop_prob == 0.0:
            return input
        if not isinstance(input, (Tensor, fx.Proxy)):
            raise TypeError(f"input must be a Tensor, but is {type(input).__name__}.")
        if isinstance(input, Tensor) and input.dim() != 4:
            raise ValueError(f"input must have 4 dimensions, but has shape {tuple(input.shape)}.")
        if isinstance(input, Tensor) and not input.is_floating_point():
            raise TypeError(f"input must have a floating-point dtype, but has {input.dtype}.")
        kept = 1.0 - self.drop_prob
        return input * input.new_empty((input.shape[0], 1, 1, 1)).bernoulli_(kept).div_(kept)

    def extra_repr(self) -> str:
        """The probability."""
        return f"drop_prob={self.drop_prob:g}"


def check_probability(value: object, argument: str) -> None:
    """Raises TypeError or ValueError unless the value is a probability below 1."""
    if not 0.0 <= check_real(value, argument) < 1.0:
        raise ValueError(f"{argument} must be at least 0 and below 1, but is {value}.")
