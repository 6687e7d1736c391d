"""A chain of packed modules that runs in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.packed_linear import PackedLinear
from convfirst_ext.nn.packed_module import PackedModule


class Link(NamedTuple):
    """One module of a chain and what it reads.

    Attributes:
        module: packed; ``PackedModule.step`` tells the kernel.
        source: the value it takes: 0 is the chain's input, i + 1 what link i gives.
        residual: the value it adds to its result, or -1.
    """

    module: PackedModule
    source: int
    residual: int


class PackedChain(torch.nn.Module):
    """Inference only: runs packed modules one after the other in one operator call.

    One trip through the dispatcher, one team of threads and one arena serve all modules; a batch goes through in
    groups of images that fit the cache.

    Args:
        links: the modules in order.
        flat: whether the result, then of one pixel, is (N, C) instead of (N, C, 1, 1).
    """

    def __init__(self, links: list[Link], flat: bool = False) -> None:
        super().__init__()
        self.links = torch.nn.ModuleList([link.module for link in links])
        self.wiring = [(link.source, link.residual) for link in links]
        self.flat = flat
        self._planar = self.reads_planar
        self._program: list[int] | None = None
        self._tensors: list[Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the last module's output."""
        tensors, program = self._prepared()
        return ops.chain.run(self._readable(input), tensors, program, self.flat)

    def profile(self, input: Tensor) -> tuple[Tensor, list[float]]:
        """The output, and the seconds that every module took inside the chain."""
        tensors, program = self._prepared()
        output, seconds = ops.chain.profile(self._readable(input), tensors, program, self.flat)
        return output, seconds.tolist()

    def run_stepwise(self, input: Tensor) -> Tensor:
        """The same result by calling the modules one by one, for hooks and measurements."""
        values = [input]
        for module, (source, residual) in zip(self.links, self.wiring, strict=True):
            read = values[source]
            if isinstance(module, PackedLinear):
                read = read.flatten(1)
            elif read.dim() == 2:
                read = read[:, :, None, None]
            adds = residual >= 0 and not getattr(module, "adds_input", False)
            values.append(module(read, values[residual]) if adds else module(read))
        output = values[-1]
        if self.flat:
            return output.flatten(1)
        return output if output.dim() == 4 else output[:, :, None, None]

    @property
    def reads_planar(self) -> bool:
        """Whether a contiguous (N, C, H, W) input needs no conversion to channels_last."""
        return getattr(self.links[0], "kernel", "") == "dense"

    def describe(self) -> str:
        """The chain in a few words."""
        return f"chain of {len(self.links)} blocks"

    def _readable(self, input: Tensor) -> Tensor:
        if self._planar and input.is_contiguous():
            return input
        return input.contiguous(memory_format=torch.channels_last)

    def _prepared(self) -> tuple[list[Tensor], list[int]]:
        if self._tensors is None or self._program is None or torch.compiler.is_compiling():
            steps = [module.step() for module in self.links]
            tensors = [tensor for step in steps for tensor in step.tensors]
            program = [
                number
                for step, wires in zip(steps, self.wiring, strict=True)
                for number in (step.kind, *wires, *step.integers)
            ]
            if torch.compiler.is_compiling():  # the compiler must see modules' buffers, not a list it would freeze
                return tensors, program
            self._tensors, self._program = tensors, program
        return self._tensors, self._program

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._tensors = None  # buffers may become other tensors
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._tensors = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tensors": None, "_program": None}
