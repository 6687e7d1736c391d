"""From the graph that Dynamo captures, all functions and inputs, to the graph of modules that the passes know."""

from __future__ import annotations

import copy
import operator
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from convfirst_ext.fusion import hazards, recognition, stand_ins
from convfirst_ext.fusion.folding import module_of, only_user
from convfirst_ext.fusion.lifting_convnext import lift_convnext
from convfirst_ext.nn import SqueezeExcite
from convfirst_ext.nn.activation import ACTIVATION_MODULES
from convfirst_ext.ops.checks import DTYPES

_PRODUCTS = (operator.mul, operator.imul, torch.mul)
_CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Lifted(NamedTuple):
    """A captured graph in terms of modules.

    Attributes:
        graph_module: takes those of the captured graph's arguments that ``inputs`` lists.
        inputs: positions of the arguments it still takes.
        weights: positions of tensors that modules now hold.
        scalars: positions of 0-d tensors whose value modules now hold.
    """

    graph_module: fx.GraphModule
    inputs: list[int]
    weights: list[int]
    scalars: list[int]


def lift(captured: fx.GraphModule, args: Sequence[Any]) -> Lifted:
    """Turns functional layers into modules on the weights of this call; everything else stays as it is.

    Args:
        captured: a graph from Dynamo for which ``hazards.reason_to_keep`` is None; it is not changed.
        args: its arguments.

    Returns:
        The lifted graph, not yet recompiled. Its modules share memory with the weights.
    """
    return _Lifting(captured, args).run()


class _Lifting:
    def __init__(self, captured: fx.GraphModule, args: Sequence[Any]) -> None:
        self.graph_module = fx.GraphModule(captured, copy.deepcopy(captured.graph))
        self.graph = self.graph_module.graph
        self.inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        self.args = dict(zip(self.inputs, args, strict=True))
        self.weights: set[fx.Node] = set()
        self.scalars: set[fx.Node] = set()

    def run(self) -> Lifted:
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self._lift_call(node)
            elif node.op == "call_method" and node.target in ("view", "view_as"):
                _loosen_view(node)
        self.graph.eliminate_dead_code()  # else what is bypassed still counts as a user
        for node in list(self.graph.nodes):
            _lift_squeeze_excite(self.graph_module, node)
        lift_convnext(
            self.graph_module,
            lambda value: self._constants(value)[0],
            lambda node, module, source, held: self._replace(node, module, source, *held),
        )
        for node in self.inputs:
            if not node.users:
                self.graph.erase_node(node)
        remaining = set(self.graph.nodes)
        return Lifted(
            self.graph_module,
            [i for i, node in enumerate(self.inputs) if node in remaining],
            [i for i, node in enumerate(self.inputs) if node in self.weights],
            [i for i, node in enumerate(self.inputs) if node in self.scalars],
        )

    def _lift_call(self, node: fx.Node) -> None:
        if node.target is torch.conv2d:
            self._lift_convolution(node)
        elif node.target is F.batch_norm:
            self._lift_batch_norm(node)
        elif node.target is F.linear:
            self._lift_linear(node)
        elif node.target is F.layer_norm:
            self._lift_layer_norm(node)
        elif node.target is F.hardtanh:
            bounds = hazards.arguments(node)
            low, high = (self._number(bounds.get(name)) for name in ("min_val", "max_val"))
            if (low, high) == (0, 6):
                node.target, node.args, node.kwargs = F.relu6, (node.args[0],), {}
        elif hazards.is_inactive_dropout(node):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]

    def _lift_convolution(self, node: fx.Node) -> None:
        given: dict[str, Any] = dict(zip(_CONVOLUTION_ARGUMENTS, node.args, strict=False)) | node.kwargs
        weight, bias = self._constants(given.get("weight"), given.get("bias"))
        stride, dilation = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))
        padding = given.get("padding", 0)
        padding = padding if isinstance(padding, str) else _pair(padding)
        groups = given.get("groups", 1)
        if weight is None or not (stride and dilation and padding and isinstance(groups, int)):
            return
        source = given["input"]
        if not _is_image(source, weight.dtype):
            return
        sides = _padding_before(source) if padding in ((0, 0), "valid") and source.args else None
        conv = stand_ins.conv2d(weight, bias, stride, padding, dilation, groups, sides)
        self._replace(node, conv, source.args[0] if sides else source, given["weight"], given.get("bias"))

    def _lift_batch_norm(self, node: fx.Node) -> None:
        given = hazards.arguments(node)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = self._constants(*(given.get(name) for name in names))
        eps = self._number(given.get("eps"))
        if mean is None or variance is None or eps is None or not _is_image(given["input"]):
            return
        norm = stand_ins.batch_norm2d(mean, variance, weight, bias, eps)
        self._replace(node, norm, given["input"], *(given.get(name) for name in names))

    def _lift_linear(self, node: fx.Node) -> None:
        given: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
        weight, bias = self._constants(given.get("weight"), given.get("bias"))
        if weight is None or weight.dim() != 2 or weight.dtype not in DTYPES:
            return
        value = given["input"].meta.get("example_value")
        if isinstance(value, Tensor) and value.dtype == weight.dtype:
            self._replace(node, stand_ins.linear(weight, bias), given["input"], given["weight"], given.get("bias"))

    def _lift_layer_norm(self, node: fx.Node) -> None:
        given = hazards.arguments(node)
        weight, bias = self._constants(given.get("weight"), given.get("bias"))
        eps = self._number(given.get("eps"))
        if weight is None or weight.dim() != 1 or eps is None or not _is_image(given["input"], weight.dtype):
            return
        norm = stand_ins.layer_norm(weight, bias, eps)
        self._replace(node, norm, given["input"], given["weight"], given.get("bias"))

    def _constants(self, *values: Any) -> list[Tensor | None]:
        """Tensors of the graph's own inputs that only layers read; all None where one of them is anything else."""
        found: list[Tensor | None] = []
        for value in values:
            tensor = self.args.get(value) if isinstance(value, fx.Node) else None
            readable = isinstance(tensor, Tensor) and type(tensor) in (Tensor, nn.Parameter)
            if value is not None and not (readable and tensor.device.type == "cpu"):  # type: ignore[union-attr]
                return [None] * len(values)
            found.append(tensor)
        return found

    def _number(self, value: Any) -> float | None:
        """A number of the graph, also where Dynamo passes it as a 0-d tensor and reads its item."""
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, fx.Node) and value.op == "call_method" and value.target == "item":
            scalar = value.args[0]
            tensor = self.args.get(scalar)  # type: ignore[arg-type]
            if isinstance(tensor, Tensor):
                self.scalars.add(scalar)  # type: ignore[arg-type]
                return float(tensor.item())
        return None

    def _replace(self, node: fx.Node, module: nn.Module, source: fx.Node, *held: Any) -> None:
        name = _module_name(self.graph_module, node)
        self.graph_module.add_submodule(name, module)
        self.weights.update(value for value in held if isinstance(value, fx.Node))
        with self.graph.inserting_before(node):
            lifted = self.graph.call_module(name, (source,))
        lifted.meta = dict(node.meta)
        node.replace_all_uses_with(lifted)
        self.graph.erase_node(node)


def _pair(value: Any) -> tuple[int, int] | None:
    values = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(values) == 1:
        values = values * 2
    return values if len(values) == 2 and all(type(item) is int for item in values) else None  # type: ignore[return-value]


def _is_image(node: Any, dtype: torch.dtype | None = None) -> bool:
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or value.dim() != 4 or value.dtype not in DTYPES:
        return False
    return dtype is None or value.dtype == dtype


def _padding_before(node: fx.Node) -> tuple[int, int, int, int] | None:
    """The zeros that a node puts around images, if nothing but the next layer takes its result."""
    if node.op != "call_function" or node.target not in (F.pad, torch._C._nn.pad) or only_user(node) is None:
        return None
    given: dict[str, Any] = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
    sides = given["pad"]
    if given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0):
        return None
    known = isinstance(sides, (list, tuple)) and len(sides) == 4 and all(type(s) is int and s >= 0 for s in sides)
    return tuple(sides) if known else None  # type: ignore[return-value,arg-type]


def _loosen_view(node: fx.Node) -> None:
    """Lets a view copy where the layout of a fused block forbids one and nobody writes through it."""
    by_shape = all(not isinstance(item, torch.dtype) for item in node.args) and not node.kwargs
    if by_shape and not any(hazards.writes(user) for user in node.users):
        node.target = "reshape" if node.target == "view" else "reshape_as"


def _module_name(graph_module: fx.GraphModule, node: fx.Node) -> str:
    """The path of the module that the call came from, as an attribute name of its own."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = re.sub(r"^L\['\w+'\]", "", str(stack[-1][0])) if stack else ""
    name = re.sub(r"\W+", "_", path).strip("_") or node.name
    if not name.isidentifier():
        name = f"layer_{name}"
    unique, count = name, 1
    while hasattr(graph_module, unique):
        count += 1
        unique = f"{name}_{count}"
    return unique


def _lift_squeeze_excite(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """Replaces mean, 1x1 convolution, activation, 1x1 convolution, gate and product by one module."""
    if not _is_spatial_mean(node):
        return
    image = node.args[0]
    chain = [node]
    for _ in range(5):
        user = only_user(chain[-1])
        if user is None:
            return
        chain.append(user)
    _, reduce_node, activation_node, expand_node, gate_node, product = chain
    reduce, expand = module_of(graph_module, reduce_node), module_of(graph_module, expand_node)
    if not (isinstance(reduce, nn.Conv2d) and isinstance(expand, nn.Conv2d)):
        return
    names = [_activation_of(activation_node), _activation_of(gate_node)]
    is_product = product.target in _PRODUCTS or (product.op == "call_method" and product.target in ("mul", "mul_"))
    if None in names or not is_product or product.kwargs or set(product.args) != {image, gate_node}:
        return
    activation, gate = (ACTIVATION_MODULES[str(name)]() for name in names)
    module = SqueezeExcite(reduce, activation, expand, gate).eval()
    if recognition.squeeze_excite_of(module) is None:
        return
    name = _module_name(graph_module, node)
    graph_module.add_submodule(name, module)
    with graph_module.graph.inserting_before(product):
        lifted = graph_module.graph.call_module(name, (image,))
    lifted.meta = dict(product.meta)
    product.replace_all_uses_with(lifted)
    for dead in reversed(chain):
        graph_module.graph.erase_node(dead)


def _activation_of(node: fx.Node) -> str | None:
    name = None
    if node.op == "call_function":
        name = recognition.activation_of_call(node.target, node.args, node.kwargs)
    elif node.op == "call_method":
        name = recognition.activation_of_method(str(node.target), node.args)
    return name if name in ACTIVATION_MODULES else None


def _is_spatial_mean(node: fx.Node) -> bool:
    """Whether the node is the mean of every channel, as a 1x1 image."""
    if node.op == "call_function" and node.target is F.adaptive_avg_pool2d:
        size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
        return _pair(size) == (1, 1)
    is_mean = (node.op == "call_method" and node.target == "mean") or node.target is torch.mean
    if not is_mean or not _is_image(node.args[0]):
        return False
    given: dict[str, Any] = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    axes = given.get("dim")
    if not isinstance(axes, (list, tuple)) or set(given) != {"input", "dim", "keepdim"} or not given["keepdim"]:
        return False
    return {axis % 4 for axis in axes} == {2, 3} and len(axes) == 2
