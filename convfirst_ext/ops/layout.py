"""Memory layouts: the kernels run on channels_last, the public functions give back what torch would."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a 4-D tensor is dense in channels_last order; dimensions of size one do not matter."""
    return tensor.is_contiguous(memory_format=torch.channels_last)


def to_channels_last(tensor: Tensor) -> Tensor:
    """The tensor itself where it is dense channels_last already, else a copy that is."""
    return tensor.contiguous(memory_format=torch.channels_last)


def prefers_channels_last(tensor: Tensor) -> bool:
    """Torch's own rule for the format of a convolution's output: channels_last and not contiguous as well."""
    return is_channels_last(tensor) and not tensor.is_contiguous()


def restore_layout(output: Tensor, input: Tensor, *weights: Tensor) -> Tensor:
    """The output in the memory format that torch's convolutions with these weights, one after the other, would give."""
    if prefers_channels_last(input) or any(prefers_channels_last(weight) for weight in weights):
        return output
    return output.contiguous()
