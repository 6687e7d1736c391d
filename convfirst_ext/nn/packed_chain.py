"""A chain of packed modules that runs in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_linear import PackedLinear
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.ops.selection import STEM_CHANNELS


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

    Attributes:
        own_threads: whether threads of its own run it, which is best alone, or torch's, between other layers.
    """

    weights: Tensor
    half_weights: Tensor | None  # what fp16 arithmetic reads
    _channels: int | None = None  # of the input; None where they are not known

    def __init__(self, links: list[Link], flat: bool = False) -> None:
        super().__init__()
        self.links = torch.nn.ModuleList([link.module for link in links])
        self.wiring = [(link.source, link.residual) for link in links]
        self.flat = flat
        self.multiplies_half = False
        self.own_threads = True
        self._planar = self.reads_planar
        self._channels = next((m.in_channels for m in self.links if hasattr(m, "in_channels")), None)  # type: ignore[assignment]
        self.program = ops.chain.program_of([link.module.step() for link in links], self.wiring)
        self._join()
        self.register_load_state_dict_post_hook(_join_again)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the last module's output."""
        if check_packed_image(input, self._channels):
            return of_one_image(self.forward, input)
        return ops.chain.run(self._readable(input), *self._arguments_for(input))

    def profile(self, input: Tensor) -> tuple[Tensor, list[float]]:
        """The output, and the seconds that every module took inside the chain."""
        output, seconds = ops.chain.profile(self._readable(input), *self._arguments_for(input))
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
        shared = any(0 in wires for wires in self.wiring[1:]) or self.wiring[0][1] == 0
        first: Any = self.links[0]
        few = getattr(first, "kernel", "") == "dense" and first.in_channels <= STEM_CHANNELS
        return few and not shared

    def compute_in_half(self) -> bool:
        """Uses fp16 arithmetic for float16 inputs from now on, where this CPU has it; whether it does."""
        steps = [module.step() for module in self.links]  # type: ignore[operator]
        self.multiplies_half = bool(ops.chain.half_arithmetic()) and all(map(ops.chain.fits_half, steps))
        self._join()
        return self.multiplies_half

    def describe(self) -> str:
        """The chain in a few words."""
        arithmetic = ", in fp16" if self.multiplies_half else ""
        return f"chain of {len(self.links)} blocks{arithmetic}"

    def _arguments_for(self, input: Tensor) -> tuple[Tensor, str, bool, bool]:
        half = self.half_weights is not None and input.dtype == torch.float16
        weights = self.half_weights if half else self.weights
        return weights, self.program, self.flat, self.own_threads  # type: ignore[return-value]

    def _readable(self, input: Tensor) -> Tensor:
        if self._planar and input.is_contiguous():
            return input
        return input.contiguous(memory_format=torch.channels_last)

    def _join(self) -> None:
        """Lays all weights into one tensor and makes the modules' buffers views of it.

        One tensor costs the dispatcher what one weight does, and a change of a module's buffer in place changes it.
        """
        steps = [module.step() for module in self.links]  # type: ignore[operator]
        self.register_buffer("weights", ops.chain.join_weights(steps), persistent=False)
        half = ops.chain.join_weights(steps, half=True) if self.multiplies_half else None
        self.register_buffer("half_weights", half, persistent=False)
        position = 0
        for module, step in zip(self.links, steps, strict=True):
            names = {id(buffer): name for name, buffer in module.named_buffers(recurse=False)}
            for tensor in step.tensors:
                view = self.weights[position : position + tensor.numel()].view(tensor.shape)
                module.register_buffer(names[id(tensor)], view)
                position += tensor.numel()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # type: ignore[no-untyped-call]
        state["_buffers"] = {}  # the modules have them too
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.multiplies_half = self.multiplies_half and bool(ops.chain.half_arithmetic())  # this may be another machine
        self._join()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._join()  # every buffer may have become a tensor of its own
        return self


def _join_again(chain: torch.nn.Module, keys: object) -> None:
    assert isinstance(chain, PackedChain)
    chain._join()  # with assign=True the buffers are other tensors now
