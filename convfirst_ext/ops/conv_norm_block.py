"""A trainable sequence of convolutions, each with batch norm and activation behind it, that keeps one tensor a layer.

Of every layer the convolution's output is kept, and nothing else: what stands between it and the next convolution
(norm, activation, gate) is applied again while its pixels are read, forward and backward. Batch statistics and the sums
that their gradients need are collected where tensors pass anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import normed_activation, normed_conv2d
from convfirst_ext.ops.activation import apply_activation
from convfirst_ext.ops.channel_moments import channel_moments
from convfirst_ext.ops.layout import to_channels_last
from convfirst_ext.ops.normed_window import has_kernel
from convfirst_ext.ops.registration import torch_backward
from convfirst_ext.ops.selection import choose_kernel
from convfirst_ext.ops.squeeze_excite import SqueezeExcite


@dataclass(frozen=True)
class ConvNorm:
    """A convolution without bias, the batch norm behind it (or a scale and a shift), and the activation behind that.

    Attributes:
        stride: vertical, horizontal.
        padding: left, right, top, bottom.
        dilation: vertical, horizontal.
        groups: number of groups.
        epsilon: added to the variance.
        activation: one of ``normed_activation.ACTIVATIONS``.
        batch_norm: whether the batch's statistics are taken out before scale and shift.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    epsilon: float = 1e-5
    activation: str = "identity"
    batch_norm: bool = True

    @property
    def window(self) -> tuple[Sequence[int], Sequence[int], Sequence[int], int]:
        """Stride, padding, dilation and groups, as the operators take them."""
        return self.stride, self.padding, self.dilation, self.groups


class BlockOutput(NamedTuple):
    """What a block gives: its output, and mean and biased variance of every layer's convolution."""

    output: Tensor
    statistics: list[tuple[Tensor, Tensor]]


class _Norm(NamedTuple):
    """A layer's norm as a scale and a shift of what its convolution gave."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    deviation: Tensor  # 1 / sqrt(variance + epsilon)


class _Plan(NamedTuple):
    layers: tuple[ConvNorm, ...]
    squeezed: int  # the layer whose result squeeze-excite weights; -1: none
    se_activation: str
    se_gate: str


def conv_norm_block(
    input: Tensor,
    layers: Sequence[ConvNorm],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor | None],
    shifts: Sequence[Tensor],
    *,
    squeeze_excite: SqueezeExcite | None = None,
    squeezed: int = -1,
    residual: Tensor | None = None,
) -> BlockOutput:
    """``activation(batch_norm(conv2d(...)))`` layer after layer with batch statistics, plus the residual.

    A layer without batch norm is ``activation(scale * conv2d(...) + shift)``.

    Gradients reach input, weights, scales, shifts, squeeze-excite and residual; second ones are torch's. Statistics
    carry none: they are for running averages.

    Args:
        input: (N, C, H, W), float32, on the CPU, not empty.
        layers: at least one.
        weights: (O, C / groups, R, S) of every layer.
        scales: (O,) of every layer's batch norm (its weight), or its scale; None for none.
        shifts: (O,) of every layer's batch norm (its bias), or its shift.
        squeeze_excite: applied behind one layer's activation, both biases given.
        squeezed: index of that layer; a pointwise one must follow.
        residual: of the output's shape, added at the end.

    Returns:
        The output in channels_last format, and the batch statistics.
    """
    if squeeze_excite is None:
        plan, se = _Plan(tuple(layers), -1, "", ""), []
    else:
        plan = _Plan(tuple(layers), squeezed, squeeze_excite.activation, squeeze_excite.gate)
        se = list(squeeze_excite[:4])
    output, *statistics = _Block.apply(  # type: ignore[no-untyped-call]
        plan, input, residual, *weights, *scales, *shifts, *se
    )
    return BlockOutput(output, list(zip(statistics[::2], statistics[1::2], strict=True)))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, input: Tensor, residual: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(plan.layers)
        weights, scales, shifts = tensors[:count], tensors[count : 2 * count], tensors[2 * count : 3 * count]
        value: Tensor = to_channels_last(input)
        values: list[Tensor] = []
        norms, statistics = [], []
        gate = squeeze = None
        norm: _Norm | None = None
        for i, layer in enumerate(plan.layers):
            before = plan.layers[i - 1].activation if i else "identity"
            value, mean, variance = _convolve(value, norm, gate, before, weights[i], layer)
            norm = _norm_of(mean, variance, scales[i], shifts[i], layer)
            gate = None
            if i == plan.squeezed:
                squeeze = normed_activation.mean_of_pixels(value, norm.scale, norm.shift, layer.activation)
                gate = _gate(plan, squeeze, tensors[3 * count :])
            values.append(value)
            norms.append(norm)
            statistics += [mean, variance]
        assert norm is not None
        added = None if residual is None else to_channels_last(residual)
        output = normed_activation.apply(value, norm.scale, norm.shift, plan.layers[-1].activation, added)
        ctx.plan, ctx.has_residual, ctx.has_squeeze = plan, residual is not None, squeeze is not None
        kept = [] if squeeze is None else [squeeze]
        ctx.save_for_backward(*tensors, input, *values, *(part for norm in norms for part in norm), *kept)
        ctx.mark_non_differentiable(*statistics)
        return output, *statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        of_residual = grad if ctx.has_residual and ctx.needs_input_grad[2] else None
        if torch.is_grad_enabled():
            return None, *_differentiable_gradients(ctx, grad, of_residual)
        run = _Backward(ctx)
        of_input = run.walk(to_channels_last(grad), ctx.needs_input_grad[1])
        return None, of_input, of_residual, *run.of_weights, *run.of_scales, *run.of_shifts, *run.of_squeeze_excite


def _norm_of(mean: Tensor, variance: Tensor, scale: Tensor | None, shift: Tensor, layer: ConvNorm) -> _Norm:
    if not layer.batch_norm:
        factor = torch.ones_like(mean) if scale is None else scale.contiguous()
        return _Norm(factor, shift.contiguous(), torch.zeros_like(mean), torch.ones_like(mean))
    assert scale is not None
    deviation = (variance + layer.epsilon).rsqrt_()
    factor = scale * deviation
    return _Norm(factor, torch.addcmul(shift, factor, mean, value=-1), mean, deviation)


def _gate(plan: _Plan, squeeze: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Factors (N, C) from the means (N, C) of the squeezed layer's result."""
    reduce_weight, reduce_bias, expand_weight, expand_bias = parameters
    hidden = torch.addmm(reduce_bias, squeeze, reduce_weight.flatten(1).t())
    hidden = apply_activation(plan.se_activation, hidden)
    return apply_activation(plan.se_gate, torch.addmm(expand_bias, hidden, expand_weight.flatten(1).t()))


def _convolve(
    value: Tensor, norm: _Norm | None, gate: Tensor | None, activation: str, weight: Tensor, layer: ConvNorm
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's convolution of what stands behind the last one, its mean and its variance."""
    if has_kernel(weight, *layer.window):
        scale, shift = (None, None) if norm is None else (norm.scale, norm.shift)
        return normed_conv2d.forward(value, scale, shift, gate, activation, weight, *layer.window)
    left, _, top, _ = layer.padding
    operand = _operand(value, norm, activation)
    shape, dilation, groups = weight.shape, layer.dilation, layer.groups
    choice = choose_kernel(shape, groups=groups, stride=layer.stride, dilation=dilation, dtype=value.dtype)
    if choice.kernel == "winograd":
        output = torch.ops.convfirst.winograd_conv2d.default(to_channels_last(operand), weight, None, *layer.window)
    else:
        output = torch.ops.aten.convolution(
            operand, weight, None, layer.stride, (top, left), layer.dilation, False, (0, 0), layer.groups
        )
        output = to_channels_last(output)
    return output, *channel_moments(output)


def _operand(value: Tensor, norm: _Norm | None, activation: str) -> Tensor:
    return value if norm is None else normed_activation.apply(value, norm.scale, norm.shift, activation, None)


def _differentiable_gradients(ctx: Any, grad: Tensor, of_residual: Tensor | None) -> list[Tensor | None]:
    """The gradients by torch's operators, for those who differentiate them again."""
    saved = list(ctx.saved_tensors)
    count = len(ctx.plan.layers)
    parameters = 3 * count + (4 if ctx.has_squeeze else 0)
    tensors, input = saved[:parameters], saved[parameters]
    leaves = [t for t in (input, *tensors) if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(_compose(ctx.plan, input, tensors), leaves, grad, create_graph=True))
    gradients = [next(found) if t is not None and t.requires_grad else None for t in (input, *tensors)]
    return [gradients[0], of_residual, *gradients[1:]]


def _compose(plan: _Plan, input: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
    """The block without its residual, layer by layer."""
    count, value = len(plan.layers), input
    for i, layer in enumerate(plan.layers):
        weight, scale, shift = tensors[i], tensors[count + i], tensors[2 * count + i]
        assert weight is not None and shift is not None
        padded = F.pad(value, layer.padding) if any(layer.padding) else value
        value = F.conv2d(padded, weight, None, layer.stride, 0, layer.dilation, layer.groups)
        if layer.batch_norm:
            value = F.batch_norm(value, None, None, scale, shift, True, eps=layer.epsilon)
        else:
            value = value if scale is None else value * scale[:, None, None]
            value = value + shift[:, None, None]
        value = apply_activation(layer.activation, value)
        if i == plan.squeezed:
            value = value * _gate(plan, value.mean((2, 3)), tensors[3 * count :])[:, :, None, None]  # type: ignore[arg-type]
    return value


class _Backward:
    """The walk back through a block's layers, and the gradients it leaves."""

    def __init__(self, ctx: Any) -> None:
        self.plan: _Plan = ctx.plan
        saved = list(ctx.saved_tensors)
        count = self.count = len(self.plan.layers)
        parameters = 3 * count + (4 if ctx.has_squeeze else 0)
        self.weights, self.scales, self.se = saved[:count], saved[count : 2 * count], saved[3 * count : parameters]
        self.values = saved[parameters : parameters + count + 1]
        self.values[0] = to_channels_last(self.values[0])
        parts = saved[parameters + count + 1 :]
        self.norms = [_Norm(*parts[4 * i : 4 * i + 4]) for i in range(count)]
        self.squeeze = parts[-1] if ctx.has_squeeze else None
        self.of_weights: list[Tensor | None] = [None] * count
        self.of_scales: list[Tensor | None] = [None] * count
        self.of_shifts: list[Tensor | None] = [None] * count
        self.of_squeeze_excite: list[Tensor] = []

    def walk(self, grad: Tensor, needs_input: bool) -> Tensor | None:
        """The input's gradient, or None where none is wanted."""
        activation = self.plan.layers[-1].activation
        keeps = activation != "identity"
        norm = self.norms[-1]
        of_norm, sums = normed_activation.backward(
            grad, self.values[-1], norm.scale, norm.shift, norm.mean, activation, None, None, keeps
        )
        of_norm = of_norm if keeps else grad
        for i in reversed(range(self.count)):
            of_norm, sums = self._layer(i, of_norm, sums, needs_input or i > 0)
        return of_norm if needs_input else None

    def _layer(self, i: int, of_norm: Tensor, sums: Tensor, needs_input: bool) -> tuple[Tensor, Tensor]:
        """The gradient of the norm before a layer from that of its own, and their sums."""
        norm, layer = self.norms[i], self.plan.layers[i]
        factors = self._factors(i, sums)
        output = None if factors is None else self.values[i + 1]
        before = self.norms[i - 1] if i else None
        activation = self.plan.layers[i - 1].activation if i else "identity"
        leaves, gate = self._gate_again() if i and i - 1 == self.plan.squeezed else ([], None)
        if not has_kernel(self.weights[i], *layer.window):
            one, zero = torch.ones_like(norm.scale), torch.zeros_like(norm.shift)
            dense = of_norm
            if factors is not None:
                dense = normed_activation.input_grad(of_norm, self.values[i + 1], one, zero, "identity", factors)
            return self._torch_layer(i, dense, before, activation, needs_input)
        scale, shift, mean = (None, None, None) if before is None else before[:3]
        arguments = (activation, self.weights[i], *layer.window, needs_input)
        of_input, of_weight, sums, of_gate = normed_conv2d.backward(
            of_norm,
            output,
            factors,
            self.values[i],
            scale,
            shift,
            mean,
            None if gate is None else gate.detach(),
            *arguments,
        )
        self.of_weights[i] = of_weight
        if gate is None:
            return of_input, sums
        of_squeeze, *self.of_squeeze_excite = torch.autograd.grad(gate, leaves, of_gate)
        return self._unsqueezed(i, of_input, gate.detach(), of_squeeze)

    def _factors(self, i: int, sums: Tensor) -> Tensor | None:
        """What turns the norm's gradient into that of the convolution's output; None where they are the same."""
        norm = self.norms[i]
        self.of_shifts[i], self.of_scales[i] = sums[0], sums[1] * norm.deviation
        if self.plan.layers[i].batch_norm:
            return normed_activation.input_factors(norm.scale, norm.mean, norm.deviation, sums, self.values[i + 1])
        if self.scales[i] is None:
            self.of_scales[i] = None
            return None
        return torch.stack((norm.scale, torch.zeros_like(norm.scale), torch.zeros_like(norm.scale)))

    def _torch_layer(
        self, i: int, grad: Tensor, before: _Norm | None, activation: str, needs_input: bool
    ) -> tuple[Tensor, Tensor]:
        """A convolution that torch computes."""
        operand = _operand(self.values[i], before, activation)
        of_input, self.of_weights[i], _ = torch_backward(
            grad, operand, self.weights[i], None, self.plan.layers[i].window, [needs_input, True, False]
        )
        if before is None or of_input is None:
            return of_input, grad  # type: ignore[return-value]  # nobody looks at the sums then
        norm = before[:3]
        return normed_activation.backward(
            to_channels_last(of_input), self.values[i], *norm, activation, None, None, True
        )

    def _gate_again(self) -> tuple[list[Tensor], Tensor]:
        """The squeeze and squeeze-excite's parameters as leaves, and the gate that they give."""
        assert self.squeeze is not None
        leaves = [t.detach().requires_grad_() for t in (self.squeeze, *self.se)]
        with torch.enable_grad():
            return leaves, _gate(self.plan, leaves[0], leaves[1:])

    def _unsqueezed(self, i: int, grad: Tensor, gate: Tensor, of_squeeze: Tensor) -> tuple[Tensor, Tensor]:
        """Through the product with the gate and the squeeze back to the norm before them."""
        value, norm = self.values[i], self.norms[i - 1]
        offset = (of_squeeze / (value.shape[2] * value.shape[3])).contiguous()
        activation = self.plan.layers[i - 1].activation
        return normed_activation.backward(grad, value, *norm[:3], activation, gate, offset, True)
