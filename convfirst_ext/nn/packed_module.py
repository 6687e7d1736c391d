"""What packed inference modules share: buffers that stay float32 and a description for ``explain``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.window import FusedWindow


class PackedModule(torch.nn.Module):
    """Base of fused modules: packed weights are buffers, in float32 whatever dtype the activations have."""

    source: str = ""  # names of the modules it replaces, for explain

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # model.half() and the like change activations; packed weights are float32 by the kernels' contract.
        def keep_float32(tensor: Tensor) -> Tensor:
            return fn(tensor).float()

        return super()._apply(keep_float32, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        # A view into a chain's weights would take all of them along, once a module.
        state = dict(super().__getstate__())  # type: ignore[no-untyped-call]
        state["_buffers"] = {name: _alone(buffer) for name, buffer in self._buffers.items()}
        return state

    window: FusedWindow
    in_channels: int
    out_channels: int

    def fusable(self, residual: Tensor | None, input: Tensor, dense: Tensor) -> Tensor | None:
        """The residual as the kernel takes it, or None where it would broadcast or change the dtype.

        Args:
            residual: what is to be added to the output.
            input: the module's input.
            dense: the input in channels_last.
        """
        if residual is None:
            return None
        if residual is input and self.in_channels == self.out_channels and self.window.keeps_size:
            return dense
        shape = (input.shape[0], self.out_channels, *self.window.output_size(input))
        if residual.shape != shape or residual.dtype != input.dtype:
            return None
        return residual.contiguous(memory_format=torch.channels_last)

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``."""
        raise NotImplementedError

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        raise NotImplementedError


def _alone(buffer: Tensor | None) -> Tensor | None:
    """The buffer, or a copy where it is a part of something larger."""
    if buffer is None or buffer.is_meta or buffer.untyped_storage().nbytes() == buffer.nbytes:
        return buffer
    return buffer.clone()
