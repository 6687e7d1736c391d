"""Blocks of inference with folded batch norm, one operator each; on CUDA in half precision one kernel each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from convfirst_ext import ops
from convfirst_ext.ops import cuda_blocks
from convfirst_ext.ops.checks import Window
from convfirst_ext.ops.cuda_blocks import GROUP_WIDTH

_WINDOW = Window((1, 1), (1, 1, 1, 1), (1, 1))


class FusedConvFirst(nn.Module):
    """``ops.convfirst`` on weights and biases of its own.

    Args:
        weights: of convolution, expansion and projection.
        biases: of the three, in the weights' dtype.
        activation: behind the expansion, one of ``ops.ACTIVATIONS``.
        stride: 1 or 2.
        residual: whether the input is added.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str, stride: int, residual: bool
    ) -> None:
        super().__init__()
        self.conv_weight, self.expand_weight, self.project_weight = (nn.Parameter(t, False) for t in weights)
        self.conv_bias, self.expand_bias, self.project_bias = (nn.Parameter(t, False) for t in biases)
        self.activation, self.stride, self.residual = activation, stride, residual

    def describe(self) -> str:
        """The kernel's name."""
        return "convfirst" if self.stride == 1 else "convfirst, blur pool"

    def reason_against(self, input: Tensor) -> str:
        """Why torch's layers run for such an input, or nothing."""
        hidden, outputs = self.expand_weight.shape[0], self.project_weight.shape[0]
        return cuda_blocks.convfirst_reason(input, hidden, outputs, self.stride, "identity")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H', W'), where H' = ceil(H / stride)."""
        layers = self.conv_weight, self.conv_bias, self.expand_weight, self.expand_bias
        products = *layers, self.project_weight, self.project_bias
        return ops.convfirst(input, *products, self.stride, activation=self.activation, residual=self.residual)


class FusedMBConv(nn.Module):
    """``ops.mbconv`` of group width 8, 3x3 and stride 1, on weights and biases of its own.

    Args:
        weights: of expansion, convolution and projection.
        biases: of the three, in the weights' dtype.
        squeeze_excite: behind the convolution, or None.
        activation: behind expansion and convolution, one of ``ops.ACTIVATIONS``.
        residual: whether the input is added.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        squeeze_excite: ops.SqueezeExcite | None,
        activation: str,
        residual: bool,
    ) -> None:
        super().__init__()
        self.expand_weight, self.conv_weight, self.project_weight = (nn.Parameter(t, False) for t in weights)
        self.expand_bias, self.conv_bias, self.project_bias = (nn.Parameter(t, False) for t in biases)
        self.activation, self.residual = activation, residual
        self.squeezes = squeeze_excite is not None
        if squeeze_excite is not None:
            names = "se_reduce_weight", "se_reduce_bias", "se_expand_weight", "se_expand_bias"
            for name, tensor in zip(names, squeeze_excite[:4], strict=True):
                self.register_parameter(name, None if tensor is None else nn.Parameter(tensor, False))
            self.se_activation, self.se_gate = squeeze_excite.activation, squeeze_excite.gate

    def describe(self) -> str:
        """The kernel's name."""
        return "mbconv, squeeze-excite" if self.squeezes else "mbconv"

    def reason_against(self, input: Tensor) -> str:
        """Why single layers run for such an input, or nothing."""
        weights = self.expand_weight, self.conv_weight, self.project_weight
        return cuda_blocks.mbconv_reason(input, weights, _WINDOW, self._squeeze_excite())

    def _squeeze_excite(self) -> ops.SqueezeExcite | None:
        if not self.squeezes:
            return None
        tensors = self.se_reduce_weight, self.se_reduce_bias, self.se_expand_weight, self.se_expand_bias
        return ops.SqueezeExcite(*tensors, self.se_activation, self.se_gate)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H, W)."""
        layers = self.expand_weight, self.expand_bias, self.conv_weight, self.conv_bias
        return ops.mbconv(
            input,
            *layers,
            self.project_weight,
            self.project_bias,
            padding=1,
            groups=self.conv_weight.shape[0] // GROUP_WIDTH,
            activation=self.activation,
            squeeze_excite=self._squeeze_excite(),
            residual=input if self.residual else None,
        )
