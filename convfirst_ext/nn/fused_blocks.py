"""Blocks of inference with folded batch norm, one operator each; on CUDA in half precision one kernel each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from convfirst_ext import ops
from convfirst_ext.nn.window import FusedWindow
from convfirst_ext.ops import cuda_blocks
from convfirst_ext.ops.checks import Window
from convfirst_ext.ops.layout import restore_layout
from convfirst_ext.ops.mbconv import run_on_cuda
from convfirst_ext.ops.mbconv_passes import passes_reason, passes_size
from convfirst_ext.ops.single import wants_gradient

PLAIN_3X3 = FusedWindow((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
_SQUEEZE_EXCITE = ("se_reduce_weight", "se_reduce_bias", "se_expand_weight", "se_expand_bias")


class _FusedBlock(nn.Module):
    """Keeps float32 copies of biases and squeeze-excite, which kernels add in float32, from one call to the next."""

    def __init__(self) -> None:
        super().__init__()
        self._wide: dict[str, Tensor] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._wide.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._wide.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def wide(self, name: str) -> Tensor | None:
        """A parameter in float32, or None where the block lacks it."""
        parameter = getattr(self, name)
        if parameter is None:
            return None
        if name not in self._wide:
            self._wide[name] = cuda_blocks.wide(parameter)  # type: ignore[assignment]
        return self._wide[name]


class FusedConvFirst(_FusedBlock):
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
        if not wants_gradient(input) and not self.reason_against(input):
            weights = self.conv_weight, self.expand_weight, self.project_weight
            biases = self.wide("conv_bias"), self.wide("expand_bias"), self.wide("project_bias")
            activations = "identity", self.activation
            output = cuda_blocks.run_convfirst(input, weights, biases, activations, self.stride, self.residual)
            return restore_layout(output, input, self.conv_weight)
        layers = self.conv_weight, self.conv_bias, self.expand_weight, self.expand_bias
        products = *layers, self.project_weight, self.project_bias
        return ops.convfirst(input, *products, self.stride, activation=self.activation, residual=self.residual)


class FusedMBConv(_FusedBlock):
    """``ops.mbconv`` on weights and biases of its own.

    Args:
        weights: of expansion, convolution and projection; None for no expansion.
        biases: of the three, in the weights' dtype, or None.
        squeeze_excite: behind the convolution, or None.
        activation: behind expansion and convolution, one of ``ops.ACTIVATIONS``.
        residual: whether the input is added.
        window: of the convolution.
        blur: whether BlurPool with stride 2 follows the convolution.
        output_activation: behind the projection.
    """

    expand_weight: Tensor | None
    expand_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    project_weight: Tensor
    project_bias: Tensor | None

    def __init__(
        self,
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
        squeeze_excite: ops.SqueezeExcite | None,
        activation: str,
        residual: bool,
        *,
        window: FusedWindow = PLAIN_3X3,
        blur: bool = False,
        output_activation: str = "identity",
    ) -> None:
        super().__init__()
        for name, weight, bias in zip(("expand", "conv", "project"), weights, biases, strict=True):
            self._register(f"{name}_weight", weight)
            self._register(f"{name}_bias", bias)
        self.activation, self.residual = activation, residual
        self.window, self.blur, self.output_activation = window, blur, output_activation
        self.squeezes = squeeze_excite is not None
        if squeeze_excite is not None:
            for name, tensor in zip(_SQUEEZE_EXCITE, squeeze_excite[:4], strict=True):
                self._register(name, None if tensor is None else tensor.to(self.conv_weight))
            self.se_activation, self.se_gate = squeeze_excite.activation, squeeze_excite.gate

    def _register(self, name: str, tensor: Tensor | None) -> None:
        self.register_parameter(name, None if tensor is None else nn.Parameter(tensor, False))

    def describe(self) -> str:
        """The kernel's name."""
        name = "depthwise separable" if self.expand_weight is None else "mbconv"
        return name + ", blur pool" * self.blur + ", squeeze-excite" * self.squeezes

    def reason_against(self, input: Tensor) -> str:
        """Why single layers run for such an input, or nothing."""
        weights = self.expand_weight, self.conv_weight, self.project_weight
        return passes_reason(input, weights, self._window(input), self.blur, self._squeeze_excite())

    def _window(self, input: Tensor) -> Window:
        return Window(self.window.stride, self.window.padding_for(input), self.window.dilation)

    def _run_fused(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """By a kernel on parameters that are prepared, or None where there is none or something must be checked."""
        if wants_gradient(input, residual) or self.reason_against(input):
            return None
        window, project = self._window(input), self.project_weight
        if residual is not None and residual is not input:
            size = passes_size(input.shape[2:], self.window.kernel[0], window.stride[0], window.padding, self.blur)
            if residual.shape != (len(input), project.shape[0], *size) or residual.dtype != input.dtype:
                return None
        squeeze_excite = self._squeeze_excite(self.wide)
        weights = self.expand_weight, self.conv_weight, project
        biases = self.wide("expand_bias"), self.wide("conv_bias"), self.wide("project_bias")
        activations = self.activation, self.output_activation
        output = run_on_cuda(input, weights, biases, window, self.blur, squeeze_excite, activations, residual)
        return None if output is None else restore_layout(output, input, self.conv_weight)

    def _squeeze_excite(self, parameter: Callable[[str], Tensor | None] | None = None) -> ops.SqueezeExcite | None:
        """With its parameters as they are, or as `parameter` gives them by their names."""
        if not self.squeezes:
            return None
        tensors = map(parameter or partial(getattr, self), _SQUEEZE_EXCITE)
        return ops.SqueezeExcite(*tensors, self.se_activation, self.se_gate)  # type: ignore[call-arg, arg-type]

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) to (N, O, H', W'), plus the residual, or the input where the block adds it."""
        added = input if self.residual else residual
        fused = self._run_fused(input, added)
        if fused is not None:
            return fused
        layers = self.expand_weight, self.expand_bias, self.conv_weight, self.conv_bias
        return ops.mbconv(
            input,
            *layers,
            self.project_weight,
            self.project_bias,
            self.window.stride,
            self.window.padding_for(input),
            self.window.dilation,
            groups=self.conv_weight.shape[0] // self.conv_weight.shape[1],
            activation=self.activation,
            output_activation=self.output_activation,
            blur=self.blur,
            squeeze_excite=self._squeeze_excite(),
            residual=added,
        )
