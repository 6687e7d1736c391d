"""MBConv, the inverted residual, grouped and with BlurPool (Lavin, arXiv 2404.03617, section 5.4, figure 9)."""

from __future__ import annotations

from torch import Tensor, nn

from convfirst_ext.nn.activation import activation_module
from convfirst_ext.nn.block import check_block, grouped_conv2d, stochastic_depth
from convfirst_ext.nn.blur_pool import BlurPool
from convfirst_ext.nn.image_checks import check_layer_image
from convfirst_ext.nn.squeeze_excite import SqueezeExcite
from convfirst_ext.nn.trained_layers import Layer, run_layers
from convfirst_ext.ops.checks import check_real


class MBConv(nn.Module):
    """Expand, convolve, squeeze-excite, project, with batch norm behind all three convolutions.

    ::

        hidden = activation(norm(convolution(activation(norm(expand(input))))))
        input + drop_path(norm(project(squeeze_excite(blur(hidden)))))

    Blurred at stride 2 only; the input is added where C = O and the stride is 1. All layers are torch's own modules;
    in training rows of them run as one operator.
    With ``group_width=1`` and ``blur=False`` it is the block of MobileNetV2 and EfficientNet.

    state_dict keys: ``expand``, ``convolution``, ``project``, and each of them with ``_norm`` behind;
    ``squeeze_excite.conv_reduce`` and ``squeeze_excite.conv_expand``. ``expand`` is absent at expansion 1,
    ``squeeze_excite`` where se_ratio is 0.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: odd; padded by half.
        stride: 1 or 2.
        expansion: hidden channels over C.
        group_width: channels of a group of the convolution, 1 for depthwise; divides ``expansion * C``.
        se_ratio: bottleneck of squeeze-excite over C, 0 for none.
        activation: behind expansion and convolution, one of ``ops.ACTIVATIONS``.
        se_activation: inside squeeze-excite, one of ``ops.ACTIVATIONS``.
        se_gate: what gives squeeze-excite's factors, one of ``ops.ACTIVATIONS``.
        blur: whether stride 2 is BlurPool behind a convolution of stride 1, instead of the convolution's own.
        bias: whether convolutions add one before their batch norm, which makes it redundant.
        drop_path: probability that training leaves out the block, for an image, where it adds the input.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range, or the hidden channels are not a multiple of group_width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        expansion: int = 4,
        group_width: int = 8,
        se_ratio: float = 0.25,
        activation: str = "silu",
        se_activation: str = "relu",
        se_gate: str = "sigmoid",
        blur: bool = True,
        bias: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_block(in_channels, out_channels, kernel_size, stride, expansion)
        if not check_real(se_ratio, "se_ratio") >= 0:
            raise ValueError(f"se_ratio must be 0 or positive, but is {se_ratio}.")
        if se_ratio == float("inf"):
            raise ValueError(f"se_ratio must be finite, but is {se_ratio}.")
        hidden = in_channels * expansion
        self.expand: nn.Module = nn.Identity()
        self.expand_norm: nn.Module = nn.Identity()
        self.expand_activation: nn.Module = nn.Identity()
        if expansion != 1:
            self.expand = nn.Conv2d(in_channels, hidden, 1, bias=bias)
            self.expand_norm = nn.BatchNorm2d(hidden)
            self.expand_activation = activation_module(activation)
        own_stride = 1 if blur else stride
        self.convolution = grouped_conv2d(hidden, kernel_size, own_stride, group_width, bias, "expansion * in_channels")
        self.convolution_norm = nn.BatchNorm2d(hidden)
        self.convolution_activation = activation_module(activation)
        self.blur = BlurPool(hidden, stride) if own_stride != stride else nn.Identity()
        self.squeeze_excite: nn.Module = nn.Identity()
        if se_ratio > 0:
            squeezed = max(1, int(in_channels * se_ratio))
            self.squeeze_excite = SqueezeExcite(
                nn.Conv2d(hidden, squeezed, 1),
                activation_module(se_activation, "se_activation"),
                nn.Conv2d(squeezed, hidden, 1),
                activation_module(se_gate, "se_gate"),
            )
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=bias)
        self.project_norm = nn.BatchNorm2d(out_channels)
        self.adds_input = stride == 1 and in_channels == out_channels
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W'), where H' = ceil(H / stride)."""
        check_layer_image(input, self.convolution if isinstance(self.expand, nn.Identity) else self.expand)
        layers = [Layer(self.convolution, self.convolution_norm, self.convolution_activation)]
        if not isinstance(self.expand, nn.Identity):
            layers.insert(0, Layer(self.expand, self.expand_norm, self.expand_activation))
        project = Layer(self.project, self.project_norm)
        if not isinstance(self.blur, nn.Identity):
            return run_layers(self.squeeze_excite(self.blur(run_layers(input, layers))), [project])
        squeeze_excite = None if isinstance(self.squeeze_excite, nn.Identity) else self.squeeze_excite
        drops = not isinstance(self.drop_path, nn.Identity)
        output = run_layers(
            input,
            [*layers, project],
            squeeze_excite=squeeze_excite,
            behind=len(layers) - 1,
            residual=input if self.adds_input and not drops else None,
        )
        return input + self.drop_path(output) if self.adds_input and drops else output
