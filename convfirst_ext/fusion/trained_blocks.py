"""Finds the blocks and batch norms of a model that can train through fused operators.

A block is a module that is nothing but a row of convolution, batch norm and activation, with squeeze-excite behind one
of them or not, and with its input added at the end or not. It is told from its graph, so that any library's inverted
residual or convolution-norm-activation module is one.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.convnext import convnext_parts
from convfirst_ext.nn.trained_block import BlockParts, TrainedBlock
from convfirst_ext.nn.trained_convnext import ConvNeXtPaths, TrainedConvNeXt
from convfirst_ext.nn.trained_module import TrainedModule, become
from convfirst_ext.nn.trained_norm import TrainedNorm
from convfirst_ext.ops.normed_activation import ACTIVATIONS

MOST_CONVOLUTIONS = 6  # of a block, squeeze-excite's included


def train_fused(model: nn.Module) -> None:
    """Lets every block and batch norm of a model train through fused operators where they apply, in place."""
    if isinstance(model, TrainedModule):
        return
    parts = block_parts(model)
    if parts is not None:
        become(model, TrainedBlock)
        model.trained_parts = parts  # type: ignore[assignment]
        return
    convnext = convnext_paths(model)
    if convnext is not None:
        become(model, TrainedConvNeXt)
        model.trained_paths = convnext  # type: ignore[assignment]
        return
    activation = _norm_activation(model) if isinstance(model, nn.BatchNorm2d) else None
    if activation is not None:
        become(model, TrainedNorm)
        model.trained_activation = activation  # type: ignore[assignment]
        return
    for child in model.children():
        train_fused(child)


def convnext_paths(module: nn.Module) -> ConvNeXtPaths | None:
    """Where the layers of a module are that is a ConvNeXt block, or None."""
    parts = convnext_parts(module)
    drop = next((name for name in ("drop_path", "stochastic_depth") if hasattr(module, name)), None)
    if parts is None or drop is None or parts.activation not in ACTIVATIONS:
        return None
    names = {id(m): name for name, m in module.named_modules()}
    scale = next((name for name, value in module.named_parameters() if value is parts.scale), None)
    if scale is None and parts.scale is not None:
        return None
    others = tuple(name for name, _ in module.named_modules() if name)
    return ConvNeXtPaths(
        names[id(parts.depthwise)],
        names[id(parts.norm)],
        names[id(parts.expand)],
        names[id(parts.project)],
        parts.activation,
        scale,
        drop,
        others,
    )


def block_parts(module: nn.Module) -> BlockParts | None:
    """The layers of a module that is a block, or None."""
    convolutions = sum(isinstance(m, nn.Conv2d) for m in module.modules())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    if not 1 <= convolutions <= MOST_CONVOLUTIONS or not norms or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return None
    try:
        graph = _Tracer().trace(module)
    except Exception:  # tracing runs the user's forward on proxies: anything can be raised
        return None
    return _Walk(module, graph).parts()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, (nn.Conv2d, nn.BatchNorm2d)) or recognition.squeeze_excite_of(m) is not None:
            return True
        return _is_drop_path(m) or super().is_leaf_module(m, module_qualified_name)


class _Walk:
    """From a block's input to its output, layer by layer."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.module, self.graph = module, graph
        self.convolutions: list[str] = []
        self.norms: list[str] = []
        self.activations: list[str | None] = []  # None: its norm is still to come
        self.others: list[str] = []
        self.squeeze: dict[str, Any] = {}
        self.drop_path: str | None = None

    def parts(self) -> BlockParts | None:
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            return None
        node, adds_input = inputs[0], False
        while True:
            following = [user for user in node.users if not self._adds(user, node, inputs[0])]
            addition = [user for user in node.users if self._adds(user, node, inputs[0])]
            if node is not inputs[0] and addition and not following:
                node, adds_input = addition[0], True
                following = list(node.users)
            if len(following) != 1:
                return None
            node = following[0]
            if node.op == "output":
                break
            if adds_input or not self._take(node):
                return None
        if not self._between_layers() or (self.drop_path and not adds_input):
            return None
        if self.squeeze and not self._squeeze_fits():
            return None
        return BlockParts(
            tuple(self.convolutions),
            tuple(self.norms),
            tuple(self.activations),  # type: ignore[arg-type]
            adds_input=adds_input,
            drop_path=self.drop_path,
            others=tuple(self.others),
            **self.squeeze,
        )

    def _adds(self, node: fx.Node, value: fx.Node, start: fx.Node) -> bool:
        """Whether a node is the sum of the block's input and another value."""
        return node.target in (operator.add, operator.iadd, torch.add) and len(node.args) == 2 and start in node.args

    def _take(self, node: fx.Node) -> bool:
        """Adds one layer's node, or says that this is no block."""
        if self.drop_path is not None:
            return False
        if node.op != "call_module":
            return self._take_activation(recognition.activation_of_call(node.target, node.args, node.kwargs))
        path = str(node.target)
        module = self.module.get_submodule(path)
        if len(node.args) != 1 or node.kwargs or recognition.has_hooks(module):
            return False
        if isinstance(module, nn.Conv2d):
            return self._take_convolution(path, module)
        if isinstance(module, nn.BatchNorm2d):
            return self._take_norm(path, module)
        self.others.append(path)
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0):
            return True
        if _is_drop_path(module):
            self.drop_path = path
            return True
        if recognition.squeeze_excite_of(module) is not None:
            return self._take_squeeze_excite(path, module)
        return self._take_activation(recognition.activation_of_module(module))

    def _take_convolution(self, path: str, conv: nn.Conv2d) -> bool:
        if not recognition.is_convolution(conv) or conv.bias is not None or isinstance(conv.padding, str):
            return False
        if recognition.window_of(conv).padding is None or (self.convolutions and not self._between_layers()):
            return False
        self.convolutions.append(path)
        self.activations.append(None)
        return True

    def _take_norm(self, path: str, norm: nn.BatchNorm2d) -> bool:
        activation = _norm_activation(norm)
        if not self.activations or self.activations[-1] is not None or activation is None:
            return False
        self.norms.append(path)
        self.activations[-1] = activation
        return True

    def _take_activation(self, activation: str | None) -> bool:
        squeezed = self.squeeze.get("squeezed") == len(self.activations) - 1
        if activation not in ACTIVATIONS or not self._between_layers() or squeezed:
            return False
        if self.activations[-1] != "identity":
            return False
        self.activations[-1] = activation
        return True

    def _between_layers(self) -> bool:
        """Whether the last convolution already has its norm."""
        return bool(self.activations) and self.activations[-1] is not None

    def _take_squeeze_excite(self, path: str, module: nn.Module) -> bool:
        weights = recognition.squeeze_excite_of(module)
        if self.squeeze or weights is None or not self._between_layers():
            return False
        if weights.reduce_bias is None or weights.expand_bias is None:
            return False
        names = ("conv_reduce", "conv_expand") if hasattr(module, "conv_reduce") else ("fc1", "fc2")
        self.squeeze = {
            "squeeze_excite": (f"{path}.{names[0]}", f"{path}.{names[1]}"),
            "squeeze_activations": (weights.activation, weights.gate),
            "squeezed": len(self.activations) - 1,
        }
        self.others += [f"{path}.{name}" for name, _ in module.named_children()]
        return True

    def _squeeze_fits(self) -> bool:
        """Whether a product follows squeeze-excite."""
        following = self.squeeze["squeezed"] + 1
        if following >= len(self.convolutions):
            return False
        return recognition.is_product(self.module.get_submodule(self.convolutions[following]))  # type: ignore[arg-type]


def _norm_activation(norm: nn.BatchNorm2d) -> str | None:
    """The activation inside a batch norm that fused operators know; None where it does anything else."""
    if recognition.has_hooks(norm) or norm.weight is None:
        return None
    if type(norm) is not nn.BatchNorm2d and not (hasattr(norm, "act") and type(norm).__name__ == "BatchNormAct2d"):
        return None
    drop = getattr(norm, "drop", None)
    if drop is not None and not isinstance(drop, nn.Identity):
        return None
    activation = recognition.activation_inside(norm)
    return activation if activation in ACTIVATIONS else None


def _is_drop_path(module: nn.Module) -> bool:
    return type(module).__name__ == "DropPath" and hasattr(module, "drop_prob")
