"""What packed inference modules share: buffers that stay float32 and a description for ``explain``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class PackedModule(torch.nn.Module):
    """Base of fused modules: packed weights are buffers, in float32 whatever dtype the activations have."""

    source: str = ""  # names of the modules it replaces, for explain

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # model.half() and the like change activations; packed weights are float32 by the kernels' contract.
        def keep_float32(tensor: Tensor) -> Tensor:
            return fn(tensor).float()

        return super()._apply(keep_float32, recurse)  # type: ignore[no-untyped-call]

    @staticmethod
    def fusable(residual: Tensor | None, shape: tuple[int, ...], input: Tensor) -> Tensor | None:
        """The residual as the kernel takes it, or None where it would broadcast or change the dtype."""
        if residual is None or residual.shape != shape or residual.dtype != input.dtype:
            return None
        return residual.contiguous(memory_format=torch.channels_last)

    def describe(self) -> str:
        """The kernel and its shape in a few words."""
        raise NotImplementedError
