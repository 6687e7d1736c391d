"""Autocast as torch's convolutions do it: inside the context, floating arguments take the lower-precision dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DEVICE_TYPES = ("cpu", "cuda")


def autocast(input: object, *others: Any) -> tuple[Any, ...]:
    """The arguments as they are, or cast where autocast is on for the device of input.

    None and what is not a floating tensor of 32 or fewer bits pass through, for the checks to judge.
    """
    arguments = (input, *others)
    if not isinstance(input, Tensor):
        return arguments
    device_type = input.device.type
    if device_type not in DEVICE_TYPES or not torch.is_autocast_enabled(device_type):
        return arguments
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(a.to(dtype) if _is_cast(a) else a for a in arguments)


def _is_cast(argument: object) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point() and argument.dtype != torch.float64
