"""What a convolution costs, computed from its shape: no tensors, no torch."""

from convfirst_ext.analysis.zero_skipping import (
    MultiplyAdds,
    conv2d_multiply_adds,
    conv_transpose2d_multiply_adds,
    weight_grad_multiply_adds,
)

__all__ = [
    "MultiplyAdds",
    "conv2d_multiply_adds",
    "conv_transpose2d_multiply_adds",
    "weight_grad_multiply_adds",
]
