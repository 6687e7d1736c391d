"""Stochastic depth: residual branches that are left out for random images (Huang et al., arXiv 1603.09382)."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, zeroes whole images with a probability and scales the others to the same mean; else the identity.

    Args:
        drop_prob: probability of an image to be zeroed, from 0 up to but not 1.

    Raises:
        ValueError: drop_prob is out of range.
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop_prob must be at least 0 and below 1, but is {drop_prob}.")
        self.drop_prob = drop_prob

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        if not self.training or self.drop_prob == 0.0:
            return input
        kept = 1.0 - self.drop_prob
        return input * input.new_empty((input.shape[0], 1, 1, 1)).bernoulli_(kept).div_(kept)

    def extra_repr(self) -> str:
        """The probability."""
        return f"drop_prob={self.drop_prob:g}"
