"""The ConvFirst block of inference as one operator: one kernel for CUDA tensors, torch's layers for all others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import cuda_blocks
from convfirst_ext.ops.activation import apply_activation, check_activation
from convfirst_ext.ops.blur_pool import blur_pool
from convfirst_ext.ops.checks import Window, check_bias, check_input, check_same_kind, check_tensor, output_size
from convfirst_ext.ops.cuda_blocks import GROUP_WIDTH
from convfirst_ext.ops.layout import restore_layout
from convfirst_ext.ops.single import wants_gradient

_WINDOW = Window((1, 1), (1, 1, 1, 1), (1, 1))


def convfirst(
    input: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
    project_weight: Tensor,
    project_bias: Tensor | None,
    stride: int = 1,
    *,
    conv_activation: str = "identity",
    activation: str = "relu",
    residual: bool = True,
) -> Tensor:
    """Grouped 3x3 convolution, then two products: ``input + project(activation(expand(conv(input))))``.

    Equals ``F.conv2d(input, conv_weight, conv_bias, padding=1, groups=C // 8)``, ``conv_activation``, ``F.conv2d`` by
    expand_weight, ``activation``, ``F.conv2d`` by project_weight, and the input added. At stride 2 the expansion takes
    ``torch.cat((blur(input), blur(conv(input))), 1)``, where ``blur`` is ``nn.BlurPool`` with stride 2. float16 and
    bfloat16 CUDA tensors of up to 128 channels, at stride 2 up to 64, take one kernel whose hidden tensor never leaves
    the registers; where a gradient is wanted, and for everything else, torch's layers run.

    Args:
        input: (N, C, H, W), C a multiple of 8; at stride 2 of at least 2x2 pixels.
        conv_weight: (C, 8, 3, 3), input's dtype.
        conv_bias: (C,) or None.
        expand_weight: (E, stride * C, 1, 1), input's dtype.
        expand_bias: (E,) or None.
        project_weight: (O, E, 1, 1), input's dtype.
        project_bias: (O,) or None.
        stride: 1 or 2.
        conv_activation: one of ``ACTIVATIONS``, behind the convolution.
        activation: one of ``ACTIVATIONS``, behind the expansion.
        residual: whether the input is added; needs stride 1 and O = C.

    Returns:
        (N, O, H', W'), H' = ceil(H / stride), in input's dtype and the memory format that torch's layers would give.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an argument's shape or value does not fit.

    Source: Lavin, On the Efficiency of Convolutional Neural Networks, arXiv 2404.03617, figures 6(b) and 6(c).
    """
    check_input(input)
    channels = input.shape[1]
    if channels % GROUP_WIDTH:
        raise ValueError(f"input must have a multiple of {GROUP_WIDTH} channels, but has shape {tuple(input.shape)}.")
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, but is {stride!r}.")
    for name, weight in (("expand_weight", expand_weight), ("project_weight", project_weight)):
        if check_tensor(weight, name, 4).shape[0] == 0:
            raise ValueError(f"{name} must have no empty dimension, but has shape {tuple(weight.shape)}.")
    hidden, outputs = expand_weight.shape[0], project_weight.shape[0]
    if stride == 2 and min(input.shape[2:]) < 2:
        raise ValueError(f"input must have 2x2 pixels at stride 2, but has shape {tuple(input.shape)}.")
    for name, weight, shape in (
        ("conv_weight", conv_weight, (channels, GROUP_WIDTH, 3, 3)),
        ("expand_weight", expand_weight, (hidden, stride * channels, 1, 1)),
        ("project_weight", project_weight, (outputs, hidden, 1, 1)),
    ):
        check_same_kind(check_tensor(weight, name, 4), name, input)
        if tuple(weight.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, but has {tuple(weight.shape)}.")
    check_bias(conv_bias, channels, input, "conv_bias")
    check_bias(expand_bias, hidden, input, "expand_bias")
    check_bias(project_bias, outputs, input, "project_bias")
    check_activation(conv_activation, "conv_activation")
    check_activation(activation, "activation")
    if not isinstance(residual, bool):
        raise TypeError(f"residual must be True or False, but is {type(residual).__name__}.")
    if residual and (stride, outputs) != (1, channels):
        raise ValueError(f"residual must be False at stride {stride} from {channels} to {outputs} channels.")
    output_size(input, (3, 3), _WINDOW)
    weights, biases = (conv_weight, expand_weight, project_weight), (conv_bias, expand_bias, project_bias)
    reason = cuda_blocks.convfirst_reason(input, hidden, outputs, stride, conv_activation)
    if wants_gradient(input, *weights, *biases) or reason:
        x = F.conv2d(input, conv_weight, conv_bias, padding=1, groups=channels // GROUP_WIDTH)
        x = apply_activation(conv_activation, x)
        x = x if stride == 1 else torch.cat((blur_pool(input), blur_pool(x)), 1)
        x = apply_activation(activation, F.conv2d(x, expand_weight, expand_bias))
        x = F.conv2d(x, project_weight, project_bias)
        return input + x if residual else x
    output = cuda_blocks.run_convfirst(input, weights, biases, (conv_activation, activation), stride, residual)
    return restore_layout(output, input, conv_weight)
