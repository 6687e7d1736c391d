"""The weights of a squeeze-excite layer."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SqueezeExcite(NamedTuple):
    """Weights of a squeeze-excite layer: mean over pixels, 1x1, activation, 1x1, gate.

    Attributes:
        reduce_weight: (C', C, 1, 1).
        reduce_bias: (C',) or None.
        expand_weight: (C, C', 1, 1).
        expand_bias: (C,) or None.
        activation: between the two layers.
        gate: after the second, "sigmoid" or "hardsigmoid" as a rule.
    """

    reduce_weight: Tensor
    reduce_bias: Tensor | None
    expand_weight: Tensor
    expand_bias: Tensor | None
    activation: str = "relu"
    gate: str = "sigmoid"
