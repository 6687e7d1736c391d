"""Global average pooling as a step of a chain."""

from __future__ import annotations

from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.nn.image_checks import check_packed_image, of_one_image
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.nn.window import POINTWISE


class PackedPool(PackedModule):
    """Inference only: ``F.adaptive_avg_pool2d(input, 1)``, summed in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.window = POINTWISE

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 1, 1)."""
        if check_packed_image(input, None):
            return of_one_image(self.forward, input)
        return ops.chain.run_step(input, self.step())

    def step(self) -> ops.chain.Step:
        """This module as a step of a ``PackedChain``."""
        return ops.chain.Step(ops.chain.GLOBAL_POOL, (), ())

    def describe(self) -> str:
        """The kernel in a few words."""
        return "global average pool"

    extra_repr = describe
