"""Records what a network computes, on the meta device: every operation with its module, sizes and multiply-adds."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convfirst_ext.analysis.dataflow import Dataflow, Operation, Use
from convfirst_ext.analysis.intensity import CONVOLUTION, DEPTHWISE, ELEMENTWISE, GROUPED, POINTWISE
from convfirst_ext.nn.packed_module import PackedModule

_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training")
# Norms with fixed statistics fold into a convolution; copies choose the layout in which it writes. The activations lack
# torch's tag of elementwise operations.
_JOINING = (*_NORMS, "clone", "_to_copy", "copy", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu")
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
_CONSTANT = -1


def trace(model: nn.Module, arguments: tuple[Any, ...]) -> Dataflow:
    """Runs a copy of the model without data.

    Args:
        model: stock or patched, in any mode; it is not changed.
        arguments: what to call it with; of tensors only shapes and dtypes count.

    Raises:
        ValueError: the model is optimized, so that its layers are gone, or cannot run on the meta device.
    """
    if any(isinstance(module, PackedModule) for module in model.modules()):
        raise ValueError("model must be the one that optimize was given, but is optimized.")
    bare = copy.deepcopy(model).to("meta").eval()
    recorder = _Recorder(_storages(bare.parameters()), _storages(bare.buffers()))
    try:
        with ExitStack() as stack:
            stack.enter_context(_named(bare, recorder))
            stack.enter_context(torch.no_grad())
            inputs = [_to_meta(argument) for argument in arguments]
            recorder.add_inputs(inputs)
            stack.enter_context(recorder)
            outputs = bare(*inputs)
    except Exception as error:  # the user's forward may raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"model must run on the meta device, where tensors have no data, but fails: {reason.removesuffix('.')}."
        ) from error
    return Dataflow(recorder.operations, recorder.values_of(outputs))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, composite ones in their parts.

    Args:
        parameters: storages of parameters.
        buffers: storages of buffers; a convolution with one of them, as BlurPool's, is a pooling.
    """

    def __init__(self, parameters: set[int], buffers: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.modules = [""]
        self._parameters = parameters
        self._values: dict[int, int] = dict.fromkeys(buffers, _CONSTANT)
        self._unpadded: dict[int, tuple[int, ...]] = {}
        self._kept: list[Tensor] = []  # else a new storage could get the address of one that is gone
        self._count = 0

    def add_inputs(self, inputs: Iterable[Any]) -> None:
        """Makes values of the tensors among them."""
        for tensor in _tensors(inputs):
            self._new_value(tensor)

    def values_of(self, outputs: Any) -> list[int]:
        """The values that the model gives back."""
        return [self._values[_storage(tensor)] for tensor in _tensors(outputs) if _storage(tensor) in self._values]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and records it."""
        result = func(*args, **(kwargs or {}))
        results = _tensors(result)
        if results:
            self._record(func, args, _tensors((args, kwargs)), results[0])
            self._kept += results
        return result

    def _record(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], output: Tensor) -> None:
        name = func._schema.name.rpartition("::")[2].removesuffix("_")
        weights = [tensor for tensor in inputs if _storage(tensor) in self._parameters]
        uses = [self._use(tensor) for tensor in inputs if _storage(tensor) in self._values]
        reads = tuple(use for use in uses if use.value != _CONSTANT)
        if not reads:  # made from nothing, or of parameters alone
            if _storage(output) not in self._parameters:
                self._values[_storage(output)] = _CONSTANT
            return
        if "_pad" in name:
            # A convolution leaves out what lies beyond the edge; nobody needs to write it.
            self._values[_storage(output)] = reads[0].value
            self._unpadded[_storage(output)] = tuple(inputs[0].shape)
            return
        known = _storage(output) in self._values or _storage(output) in self._parameters
        if known and not func._schema.is_mutable:
            return  # a view
        macs = _macs(name, args, output) if not self._has_fixed_filter(name, args) else 0
        joins = macs == 0 and (torch.Tag.pointwise in func.tags or name in _JOINING)
        parameters = output.shape[1] if name in _NORMS else 0 if joins else sum(map(Tensor.numel, weights))
        value = Use(self._new_value(output), output.numel())
        kind = _kind(name, args) if macs else ELEMENTWISE
        source = inputs[1 if name.startswith("add") and macs else 0]
        shapes = self._unpadded.get(_storage(source), tuple(source.shape)), tuple(output.shape)
        self.operations.append(Operation(self.modules[-1], kind, macs, reads, value, parameters, *shapes, joins))

    def _has_fixed_filter(self, name: str, args: tuple[Any, ...]) -> bool:
        return name == "convolution" and self._values.get(_storage(args[1])) == _CONSTANT

    def _use(self, tensor: Tensor) -> Use:
        # An expanded view has more elements than there are.
        stored = tensor.untyped_storage().nbytes() // tensor.element_size()
        size = min(tensor.numel(), math.prod(self._unpadded.get(_storage(tensor), (stored,))))
        return Use(self._values[_storage(tensor)], size)

    def _new_value(self, tensor: Tensor) -> int:
        self._count += 1
        self._kept.append(tensor)
        self._values[_storage(tensor)] = self._count
        return self._count


@contextmanager
def _named(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tells the recorder which module is running."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _m, _a, name=name: recorder.modules.append(name)))
        handles.append(module.register_forward_hook(lambda *_: recorder.modules.pop() and None))  # type: ignore[func-returns-value]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _macs(name: str, args: tuple[Any, ...], output: Tensor) -> int:
    if name in _PRODUCTS:
        return output.numel() * _tensors(args)[-1].shape[-2]
    if name != "convolution":
        return 0
    image, weight, transposed = args[0], args[1], args[6]
    # (O, C / groups, R, S), or of a transposed convolution (C, O / groups, R, S).
    return (image if transposed else output).numel() * math.prod(weight.shape[1:])


def _kind(name: str, args: tuple[Any, ...]) -> str:
    if name in _PRODUCTS:
        return POINTWISE
    shape, groups = args[1].shape, args[8]
    if groups > 1:
        return DEPTHWISE if shape[1] == 1 else GROUPED
    return POINTWISE if math.prod(shape[2:]) == 1 else CONVOLUTION


def _to_meta(argument: Any) -> Any:
    return argument.detach().to("meta") if isinstance(argument, Tensor) else argument


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {_storage(tensor) for tensor in tensors}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
