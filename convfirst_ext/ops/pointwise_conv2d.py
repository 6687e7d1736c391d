"""1x1 convolution."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext.ops.single import convolve


def pointwise_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "identity",
    residual: Tensor | None = None,
) -> Tensor:
    """A linear layer at every pixel: ``activation(F.conv2d(input, weight, bias)) + residual``.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        weight: (O, C, 1, 1), input's dtype.
        bias: (O,) or None.
        activation: one of ``ACTIVATIONS``, applied to the fp32 sums before they are rounded.
        residual: (N, O, H, W) or None, added after the activation.

    Returns:
        (N, O, H, W) in input's dtype and the memory format ``F.conv2d`` would give.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.
    """
    if isinstance(weight, Tensor) and weight.dim() == 4 and tuple(weight.shape[2:]) != (1, 1):
        raise ValueError(f"weight must have a 1x1 kernel, but has shape {tuple(weight.shape)}.")
    return convolve("pointwise", input, weight, bias, 1, 0, 1, 1, activation, residual)
