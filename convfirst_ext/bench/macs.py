"""Work and traffic of a model: multiply-adds of its convolutions and linear layers, unavoidable bytes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Work:
    """What one forward call costs at least.

    ``macs`` counts multiply-adds of convolutions and linear layers (FLOPs are twice that), ``bytes`` the
    input, the output and every parameter moved once.
    """

    macs: int
    bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations: two a multiply-add."""
        return 2 * self.macs


def count_work(model: nn.Module, input_shape: tuple[int, ...], itemsize: int = 4) -> Work:
    """Counts the work of ``model`` on an input of ``input_shape`` by hooks on the meta device.

    Nothing is computed; ``itemsize`` is the bytes of an element. Padded taps count as multiplied, as is custom.
    """
    model = copy.deepcopy(model).to("meta").eval()
    macs: list[int] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: macs.append(_module_macs(module, inputs, output)))
        for module in model.modules()
        if isinstance(module, _COUNTED)
    ]
    with torch.no_grad():
        output = model(torch.empty(input_shape, device="meta"))
    for handle in handles:
        handle.remove()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    elements = math.prod(input_shape) + output.numel() + parameters
    return Work(macs=sum(macs), bytes=elements * itemsize)


_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def _module_macs(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    if isinstance(module, nn.Linear):
        return int(output.numel() * module.in_features)
    taps = math.prod(module.kernel_size)
    if isinstance(module, nn.ConvTranspose2d):
        return int(inputs[0].numel() * taps * module.out_channels // module.groups)
    return int(output.numel() * taps * module.in_channels // module.groups)
