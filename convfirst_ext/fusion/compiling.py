"""``torch.compile(model, backend="convfirst")``: the passes of ``optimize`` on the graphs that Dynamo captures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from operator import attrgetter, is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from convfirst_ext.fusion import hazards
from convfirst_ext.fusion.graphs import finish
from convfirst_ext.fusion.lifting import lift
from convfirst_ext.fusion.optimization import compute_in_half, fuse_graph

NAME = "convfirst"

_log = logging.getLogger(__name__)
_version = attrgetter("_version")


def compile_graph(captured: fx.GraphModule, example_inputs: Sequence[Any], **settings: Any) -> CompiledGraph:
    """The Dynamo backend "convfirst": inference on the CPU by fused kernels, everything else as torch runs it.

    Args:
        captured: a graph from Dynamo.
        example_inputs: not looked at; weights are packed in the first call, from its arguments.
        settings: the ``mode`` and ``options`` that ``torch.compile`` was given; there is nothing to set.

    Returns:
        A callable with the graph's arguments and results.

    Raises:
        TypeError: there are settings.
    """
    if settings:
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise TypeError(f"torch.compile must get neither mode nor options for backend {NAME!r}, but got {given}.")
    return CompiledGraph(captured)


class CompiledGraph:
    """A captured graph that runs fused wherever that is the same computation.

    It runs as torch would where a gradient is wanted, under autocast, where batch norm uses batch statistics and where
    the graph writes into tensors that others see. Weights are packed once. A call after they changed runs as torch
    would; the call after that packs again, unless they changed once more. Changes are told from each weight's address
    and version counter, which writes through ``tensor.data`` do not move: call ``torch.compiler.reset()`` after those.

    Attributes:
        fused: the graph on packed weights, None before the first call and where nothing fuses.
    """

    def __init__(self, captured: fx.GraphModule) -> None:
        self.captured = captured
        self.fused: fx.GraphModule | None = None
        self._grad = hazards.grad_modes(captured.graph)
        self._contiguous = _contiguous_outputs(captured.graph)
        self._packed: _Packed | None = None
        self._changed: _Weights | None = None
        self._positions: tuple[list[int], list[int]] | None = None
        reason = hazards.reason_to_keep(captured.graph)
        self._keeps = reason is not None
        if reason is not None:
            _log.info("a graph runs unfused: %s", reason)

    def __call__(self, *args: Any) -> Any:
        """Runs the graph; arguments and results are those of the captured one."""
        if self._keeps or torch.is_autocast_enabled("cpu") or self._wants_gradient(args):
            return self.captured(*args)
        packed = self._packed
        if packed is None or not packed.weights.match(args):
            packed = self._pack_again(args)
            if packed is None:
                return self.captured(*args)
        return packed.run(*[args[i] for i in packed.inputs])

    def _wants_gradient(self, args: tuple[Any, ...]) -> bool:
        if not (self._grad.forced or (self._grad.inherited and torch.is_grad_enabled())):
            return False
        return any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)

    def _pack_again(self, args: tuple[Any, ...]) -> _Packed | None:
        """Packs at first sight and, after a change, once the same weights came twice: those in training never do."""
        if self._positions is not None and not (self._changed is not None and self._changed.match(args)):
            self._changed = _Weights.of(args, *self._positions)
            return None
        self._changed = None
        try:
            # Inside inference_mode too: tensors made there could not be used outside.
            with torch.inference_mode(False), torch.no_grad():
                self._packed = self._pack(args)
        except Exception:  # whatever a graph holds that the passes do not foresee, torch can still run it
            _log.warning("a graph could not be fused and runs as torch would", exc_info=True)
            self._packed = None
        if self._packed is None:
            self._keeps = True
        return self._packed

    def _pack(self, args: tuple[Any, ...]) -> _Packed | None:
        lifted = lift(self.captured, args)
        weights = _Weights.of(args, lifted.weights, lifted.scalars)
        if weights is None or not fuse_graph(lifted.graph_module):
            return None
        _restore_layout(lifted.graph_module.graph, self._contiguous)
        finish(lifted.graph_module)
        if any(args[i].dtype == torch.float16 for i in lifted.weights):
            compute_in_half(lifted.graph_module)
        self.fused = lifted.graph_module.eval()
        self._positions = lifted.weights, lifted.scalars
        return _Packed(lifted.graph_module.forward, lifted.inputs, weights)


class _Weights:
    """The weights of a call: which tensors, at which addresses, in which version."""

    def __init__(self, args: Sequence[Any], positions: list[int], scalars: list[int]) -> None:
        self.positions, self.scalars = positions, scalars
        self.tensors = [args[i] for i in positions]
        self.addresses = [tensor.data_ptr() for tensor in self.tensors]
        self.versions = list(map(_version, self.tensors))
        self.numbers = [args[i].item() for i in scalars]

    @classmethod
    def of(cls, args: Sequence[Any], positions: list[int], scalars: list[int]) -> _Weights | None:
        """None where one of them keeps no version, being made in inference mode."""
        if any(args[i].is_inference() for i in positions):
            return None
        return cls(args, positions, scalars)

    def match(self, args: Sequence[Any]) -> bool:
        """Whether the weights of another call are these, unchanged."""
        tensors = [args[i] for i in self.positions]
        return (
            all(map(is_, tensors, self.tensors))
            and list(map(_version, tensors)) == self.versions
            and list(map(Tensor.data_ptr, tensors)) == self.addresses
            and (not self.scalars or [args[i].item() for i in self.scalars] == self.numbers)
        )


class _Packed(NamedTuple):
    run: Callable[..., Any]
    inputs: list[int]
    weights: _Weights


def _contiguous_outputs(graph: fx.Graph) -> list[int]:
    """Positions of the images among a graph's results that torch's own layers give in contiguous format."""
    values = [node.meta.get("example_value") if isinstance(node, fx.Node) else None for node in _outputs(graph)]
    images = [(i, value) for i, value in enumerate(values) if isinstance(value, Tensor) and value.dim() == 4]
    return [i for i, value in images if value.is_contiguous()]


def _restore_layout(graph: fx.Graph, contiguous: list[int]) -> None:
    """Gives results the memory format that the code after the graph counts on."""
    outputs = _outputs(graph)
    with graph.inserting_before(graph.output_node()):
        for i in contiguous:
            outputs[i] = graph.call_method("contiguous", (outputs[i],))
    graph.output_node().args = (tuple(outputs),)


def _outputs(graph: fx.Graph) -> list[Any]:
    results = graph.output_node().args[0]
    return list(results) if isinstance(results, (list, tuple)) else [results]


def register() -> None:
    """Makes the backend known by name where no installed entry point does: in a source tree."""
    try:
        if any(entry.group == "torch_dynamo_backends" for entry in distribution("convfirst_ext").entry_points):
            return
    except PackageNotFoundError:
        pass
    # Loads Dynamo, which takes a second: an installed package leaves that to the first torch.compile.
    from torch._dynamo.backends.registry import _BACKENDS, register_backend

    if NAME not in _BACKENDS:
        register_backend(compile_graph, name=NAME)
