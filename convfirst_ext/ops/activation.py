"""The activations that the fused kernels know, and their torch equivalents."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
}

ACTIVATIONS = tuple(_TORCH)


def apply_activation(name: str, input: Tensor) -> Tensor:
    """The torch equivalent of a fused activation."""
    return _TORCH[name](input)


def check_activation(name: object, argument: str) -> None:
    """Raises ValueError unless name is one of ``ACTIVATIONS``."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{argument} must be one of {', '.join(ACTIVATIONS)}, but is {name!r}.")
