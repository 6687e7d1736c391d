"""activation(scale * x + shift): batch norm in training, once the statistics are known, and its gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops.activation import apply_activation
from convfirst_ext.ops.channel_moments import channel_moments
from convfirst_ext.ops.layout import to_channels_last

_raw = torch.ops.convfirst

# Those whose slope the kernels know.
ACTIVATIONS = ("identity", "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh")

apply = _raw.normed_activation.default
mean_of_pixels = _raw.normed_activation_mean.default
backward = _raw.normed_activation_backward.default
input_grad = _raw.normed_activation_input_grad.default


def batch_norm(
    input: Tensor, scale: Tensor, shift: Tensor, epsilon: float, activation: str = "identity"
) -> tuple[Tensor, Tensor, Tensor]:
    """``activation(F.batch_norm(input, None, None, scale, shift, True, eps=epsilon))``, keeping its input only.

    Args:
        input: (N, C, H, W), float32, on the CPU, not empty.
        scale: (C,), batch norm's weight.
        shift: (C,), batch norm's bias.
        epsilon: added to the variance.
        activation: one of ``ACTIVATIONS`` of this module.

    Returns:
        The result in channels_last format, differentiable; mean and biased variance, without gradients.
    """
    return _BatchNorm.apply(input, scale, shift, epsilon, activation)  # type: ignore[no-untyped-call]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, scale: Tensor, shift: Tensor, epsilon: float, activation: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        value = to_channels_last(input)
        mean, variance = channel_moments(value)
        deviation = (variance + epsilon).rsqrt_()
        factor = scale * deviation
        offset = torch.addcmul(shift, factor, mean, value=-1)
        ctx.activation, ctx.epsilon = activation, epsilon
        ctx.save_for_backward(input, scale, shift, factor, offset, mean, deviation)
        ctx.mark_non_differentiable(mean, variance)
        return apply(value, factor, offset, activation, None), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        input, scale, shift, factor, offset, mean, deviation = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradients again
            output = F.batch_norm(input, None, None, scale, shift, True, eps=ctx.epsilon)
            leaves = [t for t in (input, scale, shift) if t.requires_grad]
            found = iter(torch.autograd.grad(apply_activation(ctx.activation, output), leaves, grad, create_graph=True))
            return *(next(found) if t.requires_grad else None for t in (input, scale, shift)), None, None
        value = to_channels_last(input)
        dense = to_channels_last(grad)
        _, sums = backward(dense, value, factor, offset, mean, ctx.activation, None, None, False)
        factors = input_factors(factor, mean, deviation, sums, value)
        of_input = input_grad(dense, value, factor, offset, ctx.activation, factors)
        return of_input, sums[1] * deviation, sums[0], None, None


def input_factors(factor: Tensor, mean: Tensor, deviation: Tensor, sums: Tensor, value: Tensor) -> Tensor:
    """What turns a norm's gradient g into that of its input x: a g + b x + c, as (3, C).

    Args:
        factor: (C,), the norm's weight over the deviation.
        mean: (C,).
        deviation: (C,), 1 / sqrt(variance + epsilon).
        sums: (2, C), of g and of g (x - mean).
        value: x, (N, C, H, W).
    """
    share = value.shape[1] / value.numel()
    slope = -factor * deviation.square() * sums[1] * share
    return torch.stack((factor, slope, -slope * mean - factor * sums[0] * share))


def _fake_apply(input: Tensor, scale: Tensor, shift: Tensor, activation: str, residual: Tensor | None) -> Tensor:
    return torch.empty_like(input)


def _fake_mean(input: Tensor, scale: Tensor, shift: Tensor, activation: str) -> Tensor:
    return input.new_empty(input.shape[:2])


def _fake_backward(
    grad: Tensor,
    input: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    activation: str,
    gate: Tensor | None,
    offset: Tensor | None,
    keeps: bool,
) -> tuple[Tensor, Tensor]:
    kept = torch.empty_like(input if keeps else input[:0], memory_format=torch.channels_last)
    return kept, input.new_empty(2, input.shape[1])


def _fake_input_grad(
    grad: Tensor, input: Tensor, scale: Tensor, shift: Tensor, activation: str, factors: Tensor
) -> Tensor:
    return torch.empty_like(input)


torch.library.register_fake("convfirst::normed_activation", _fake_apply)
torch.library.register_fake("convfirst::normed_activation_mean", _fake_mean)
torch.library.register_fake("convfirst::normed_activation_backward", _fake_backward)
torch.library.register_fake("convfirst::normed_activation_input_grad", _fake_input_grad)
