"""MBConv, the inverted residual, as one operator."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext.ops import cuda_blocks, packed
from convfirst_ext.ops.activation import check_activation
from convfirst_ext.ops.autocast import autocast
from convfirst_ext.ops.blur_pool import blur_pool
from convfirst_ext.ops.checks import (
    IntOrPair,
    Window,
    check_bias,
    check_groups,
    check_input,
    check_kernel,
    check_residual,
    check_weight,
    check_window,
    output_size,
)
from convfirst_ext.ops.conv_bias_block import BiasLayer, conv_bias_block, gate_of
from convfirst_ext.ops.layout import restore_layout, to_channels_last
from convfirst_ext.ops.mbconv_passes import passes_reason, run_passes
from convfirst_ext.ops.single import wants_gradient
from convfirst_ext.ops.squeeze_excite import SqueezeExcite


def mbconv(
    input: Tensor,
    expand_weight: Tensor | None,
    expand_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    *,
    groups: int | None = None,
    activation: str = "relu6",
    output_activation: str = "identity",
    blur: bool = False,
    squeeze_excite: SqueezeExcite | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Expand, convolve, squeeze-excite, project: an inverted residual whose hidden tensor stays in the cache.

    ``h = activation(conv2d(input, expand_weight, expand_bias))``;
    ``h = activation(conv2d(h, conv_weight, conv_bias, stride, padding, dilation, groups))``;
    ``h = nn.BlurPool(E)(h)`` where ``blur``; ``h = h * gate(squeeze_excite(mean(h)))``;
    ``output_activation(conv2d(h, project_weight, project_bias)) + residual``.

    Args:
        input: (N, C, H, W), float32, bfloat16 or float16; channels_last runs without a copy.
        expand_weight: (E, C, 1, 1), or None for no expansion (E = C).
        expand_bias: (E,) or None.
        conv_weight: (E, 1, R, S), or (E, 8, R, S) with groups E / 8.
        conv_bias: (E,) or None.
        project_weight: (O, E, 1, 1).
        project_bias: (O,) or None.
        stride: one int or (vertical, horizontal).
        padding: one int, (vertical, horizontal), or (left, right, top, bottom) as in ``F.pad``; zeros around the
            hidden tensor.
        dilation: one int or (vertical, horizontal).
        groups: None for depthwise, or E / 8.
        activation: after the expansion and after the convolution.
        output_activation: after the projection.
        blur: whether the convolution's result is blurred and each second pixel taken; needs 2x2 pixels of it.
        squeeze_excite: weights of the gate, or None.
        residual: (N, O, H', W') or None, added last.

    Returns:
        (N, O, H', W') in input's dtype and the memory format of ``F.conv2d``. Where a gradient is wanted only what the
        convolutions give is written and kept, and the result is the same up to rounding.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.

    Source: Lavin, "On the Efficiency of Convolutional Neural Networks", section 5.4.
    """
    input, expand_weight, expand_bias, conv_weight, conv_bias, project_weight, project_bias, residual = autocast(
        input, expand_weight, expand_bias, conv_weight, conv_bias, project_weight, project_bias, residual
    )
    if isinstance(squeeze_excite, SqueezeExcite):
        layers = autocast(input, *squeeze_excite[:4])[1:]
        squeeze_excite = squeeze_excite._replace(
            reduce_weight=layers[0], reduce_bias=layers[1], expand_weight=layers[2], expand_bias=layers[3]
        )
    check_input(input)
    window = check_window(stride, padding, dilation)
    hidden = _check_expansion(input, expand_weight, expand_bias)
    check_kernel(conv_weight, input, "conv_weight")
    group_count = hidden if groups is None else groups
    _check_hidden_convolution(conv_weight, hidden, group_count)
    check_bias(conv_bias, hidden, input, "conv_bias")
    out_channels = _check_pointwise(project_weight, hidden, input, "project_weight")
    check_bias(project_bias, out_channels, input, "project_bias")
    check_activation(activation, "activation")
    check_activation(output_activation, "output_activation")
    _check_squeeze_excite(squeeze_excite, hidden, input)
    size = output_size(input, conv_weight.shape[2:], window)
    if blur:
        if min(size) < 2:
            raise ValueError(f"input must give 2x2 pixels to blur, but the convolution gives {size}.")
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
    check_residual(residual, (input.shape[0], out_channels, *size), input)

    weights = (expand_weight, expand_bias, conv_weight, conv_bias, project_weight, project_bias, residual)
    differentiable = wants_gradient(input, *weights, *(squeeze_excite[:4] if squeeze_excite else ()))
    if input.is_cuda and not differentiable:
        layers = (expand_weight, conv_weight, project_weight), (expand_bias, conv_bias, project_bias)
        activations = activation, output_activation
        fused = run_on_cuda(input, *layers, window, blur, squeeze_excite, activations, residual)
        if fused is not None:
            return restore_layout(fused, input, conv_weight)
    if differentiable or input.is_cuda or blur:
        kernel = "depthwise" if group_count == hidden else "grouped"
        steps = [
            BiasLayer(kernel, conv_weight, conv_bias, window, group_count, activation),
            BiasLayer("pointwise", project_weight, project_bias, check_window(1, 0, 1), 1, output_activation),
        ]
        if expand_weight is not None:
            steps.insert(0, BiasLayer("pointwise", expand_weight, expand_bias, check_window(1, 0, 1), 1, activation))
        if blur:
            x = blur_pool(conv_bias_block(input, steps[:-1], None, None))
            x = x if squeeze_excite is None else x * gate_of(x, squeeze_excite)
            output = conv_bias_block(x, steps[-1:], None, residual)
        else:
            output = conv_bias_block(input, steps, squeeze_excite, residual)
        return restore_layout(output, input, conv_weight)

    output = packed.mbconv(
        to_channels_last(input),
        None if expand_weight is None else packed.pack_weight(expand_weight),
        None if expand_weight is None else packed.pack_bias(expand_bias, hidden),
        packed.pack_weight(conv_weight),
        packed.pack_bias(conv_bias, hidden),
        _packed_squeeze_excite(squeeze_excite, hidden),
        packed.pack_weight(project_weight),
        packed.pack_bias(project_bias, out_channels),
        None if residual is None else to_channels_last(residual),
        *window,
        group_count,
        hidden,
        out_channels,
        activation,
        output_activation,
        squeeze_excite.activation if squeeze_excite else "relu",
        squeeze_excite.gate if squeeze_excite else "sigmoid",
    )
    return restore_layout(output, input, conv_weight)


def run_on_cuda(
    input: Tensor,
    weights: tuple[Tensor | None, Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None, Tensor | None],
    window: Window,
    blur: bool,
    squeeze_excite: SqueezeExcite | None,
    activations: tuple[str, str],
    residual: Tensor | None,
) -> Tensor | None:
    """A checked block by one cluster an image where that fits, else in passes; None where neither does.

    Biases and squeeze-excite may be float32 already, which saves their conversion.
    """
    expand, conv, project = weights
    plain = not blur and activations[1] == "identity" and (residual is None or residual is input)
    if plain and expand is not None:
        products = expand, conv, project
        if not cuda_blocks.mbconv_reason(input, products, window, squeeze_excite):
            added = residual is not None
            return cuda_blocks.run_mbconv(input, products, biases, squeeze_excite, activations[0], added)
    if passes_reason(input, weights, window, blur, squeeze_excite):
        return None
    return run_passes(input, weights, biases, window, blur, squeeze_excite, activations, residual)


def _packed_squeeze_excite(se: SqueezeExcite | None, hidden: int) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    if se is None:
        return None
    return (
        packed.pack_weight(se.reduce_weight),
        packed.pack_bias(se.reduce_bias, se.reduce_weight.shape[0]),
        packed.pack_weight(se.expand_weight),
        packed.pack_bias(se.expand_bias, hidden),
    )


def _check_pointwise(weight: object, in_channels: int, input: Tensor, argument: str) -> int:
    tensor = check_weight(weight, input, argument)
    if tuple(tensor.shape[1:]) != (in_channels, 1, 1):
        raise ValueError(f"{argument} must have shape (O, {in_channels}, 1, 1), but has shape {tuple(tensor.shape)}.")
    return int(tensor.shape[0])


def _check_expansion(input: Tensor, weight: object, bias: object) -> int:
    if weight is None:
        if bias is not None:
            raise ValueError("expand_bias must be None where expand_weight is None.")
        return int(input.shape[1])
    hidden = _check_pointwise(weight, input.shape[1], input, "expand_weight")
    check_bias(bias, hidden, input, "expand_bias")
    return hidden


def _check_hidden_convolution(weight: Tensor, hidden: int, groups: int) -> None:
    if weight.shape[0] != hidden:
        raise ValueError(f"conv_weight must have {hidden} output channels, but has shape {tuple(weight.shape)}.")
    check_groups(groups, hidden, weight)
    if groups != hidden and groups * 8 != hidden:
        raise ValueError(f"groups must be None, {hidden} or {hidden} / 8, but is {groups}.")


def _check_squeeze_excite(se: SqueezeExcite | None, hidden: int, input: Tensor) -> None:
    if se is None:
        return
    if not isinstance(se, SqueezeExcite):
        raise TypeError(f"squeeze_excite must be a SqueezeExcite or None, but is {type(se).__name__}.")
    squeezed = _check_pointwise(se.reduce_weight, hidden, input, "squeeze_excite.reduce_weight")
    check_bias(se.reduce_bias, squeezed, input, "squeeze_excite.reduce_bias")
    excited = _check_pointwise(se.expand_weight, squeezed, input, "squeeze_excite.expand_weight")
    if excited != hidden:
        raise ValueError(f"squeeze_excite.expand_weight must have {hidden} output channels, but has {excited}.")
    check_bias(se.expand_bias, hidden, input, "squeeze_excite.expand_bias")
    check_activation(se.activation, "squeeze_excite.activation")
    check_activation(se.gate, "squeeze_excite.gate")
