"""Blocks of convolutions and batch norms that train as one operator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from convfirst_ext.nn.trained_layers import Layer, Squeeze, train_layers
from convfirst_ext.nn.trained_module import TrainedModule, is_watched


@dataclass(frozen=True)
class BlockParts:
    """Where a block's layers are: paths of its submodules, so that copies and pickles keep their meaning.

    Attributes:
        convolutions: of every layer.
        norms: behind them.
        activations: behind those, one of ``normed_activation.ACTIVATIONS`` each.
        squeeze_excite: reduce and expand convolution, or None.
        squeeze_activations: of squeeze-excite: behind the first, and the gate.
        squeezed: index of the layer behind which it stands.
        adds_input: whether the block adds its input at the end.
        drop_path: module between the last norm and that addition, or None.
        others: further modules of the block whose hooks must be respected.
    """

    convolutions: tuple[str, ...]
    norms: tuple[str, ...]
    activations: tuple[str, ...]
    squeeze_excite: tuple[str, str] | None = None
    squeeze_activations: tuple[str, str] = ("relu", "sigmoid")
    squeezed: int = -1
    adds_input: bool = False
    drop_path: str | None = None
    others: tuple[str, ...] = ()


class TrainedBlock(TrainedModule):
    """A block whose layers ``fusion.trained_blocks`` has recognised.

    Attributes:
        trained_parts: which layers.
    """

    trained_parts: BlockParts

    def fused(self, input: Tensor) -> Tensor | None:
        """The block's result, or None where its layers must run one by one."""
        parts, module = self.trained_parts, self.get_submodule
        if any(is_watched(module(path)) for path in parts.others):
            return None
        layers = [Layer(module(c), module(n)) for c, n in zip(parts.convolutions, parts.norms, strict=True)]
        squeeze = None
        if parts.squeeze_excite is not None:
            reduce, expand = parts.squeeze_excite
            squeeze = Squeeze(module(reduce), module(expand), parts.squeeze_activations, parts.squeezed)
        adds = parts.adds_input and parts.drop_path is None
        output = train_layers(input, layers, parts.activations, squeeze=squeeze, residual=input if adds else None)
        if output is None or parts.drop_path is None:
            return output
        return input + module(parts.drop_path)(output)
