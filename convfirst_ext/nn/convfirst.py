"""ConvFirst, a block whose convolution comes before its products (Lavin, arXiv 2404.03617, section 5.3, figure 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convfirst_ext.nn.activation import activation_module
from convfirst_ext.nn.block import check_block, grouped_conv2d, stochastic_depth
from convfirst_ext.nn.blur_pool import BlurPool
from convfirst_ext.nn.image_checks import check_layer_image
from convfirst_ext.nn.trained_layers import Layer, run_layers


class ConvFirst(nn.Module):
    """Grouped convolution, then a feed-forward network of two products, with batch norm behind all three.

    Stride 1, figure 6(b), adding the input where C = O::

        input + drop_path(norm(project(activation(norm(expand(norm(convolution(input))))))))

    Stride 2, figure 6(c)::

        norm(project(activation(norm(expand(cat(blur(input), blur(norm(convolution(input)))))))))

    The hidden tensor has ``expansion * in_channels`` channels in both. All layers are torch's own modules; in training
    rows of them run as one operator.

    state_dict keys: ``convolution``, ``expand``, ``project``, and each of them with ``_norm`` behind.

    Args:
        in_channels: C, a multiple of group_width.
        out_channels: O; the input is added where C = O and the stride is 1.
        kernel_size: odd; padded by half.
        stride: 1 or 2.
        expansion: hidden channels over C.
        group_width: channels of a group of the convolution, 1 for depthwise.
        activation: one of ``ops.ACTIVATIONS``.
        bias: whether convolutions add one before their batch norm, which makes it redundant.
        drop_path: probability that training leaves out the block, for an image, where it adds the input.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or C is not a multiple of group_width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        expansion: int = 6,
        group_width: int = 8,
        activation: str = "relu",
        bias: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_block(in_channels, out_channels, kernel_size, stride, expansion)
        hidden = in_channels * expansion
        self.convolution = grouped_conv2d(in_channels, kernel_size, 1, group_width, bias, "in_channels")
        self.convolution_norm = nn.BatchNorm2d(in_channels)
        self.blur = BlurPool(in_channels, stride) if stride > 1 else None
        self.expand = nn.Conv2d(in_channels if stride == 1 else 2 * in_channels, hidden, 1, bias=bias)
        self.expand_norm = nn.BatchNorm2d(hidden)
        self.activation = activation_module(activation)
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=bias)
        self.project_norm = nn.BatchNorm2d(out_channels)
        self.adds_input = stride == 1 and in_channels == out_channels
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W'), where H' = ceil(H / stride)."""
        check_layer_image(input, self.convolution)
        first = Layer(self.convolution, self.convolution_norm)
        products = [
            Layer(self.expand, self.expand_norm, self.activation),
            Layer(self.project, self.project_norm),
        ]
        if self.blur is not None:  # channel by channel: blurring before the concatenation copies a quarter
            return run_layers(torch.cat((self.blur(input), self.blur(run_layers(input, [first]))), 1), products)
        if self.adds_input and isinstance(self.drop_path, nn.Identity):
            return run_layers(input, [first, *products], residual=input)
        output = run_layers(input, [first, *products])
        return input + self.drop_path(output) if self.adds_input else output
