"""Modules that keep their class, parameters and keys and train through a fused operator where it applies.

A module becomes an instance of a subclass of its own class, whose forward tries the fused way first. The subclass is
made for it; copies and pickles are told the class it was made of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TrainedModule(nn.Module):
    """What such a subclass adds; ``fused`` says how it computes, or None where only the original forward will do."""

    def fused(self, input: Tensor) -> Tensor | None:
        """The result by the fused operator, or None where it does not apply to this call."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original module computes."""
        if self.training and len(args) == 1 and not kwargs and takes(args[0]):
            result = self.fused(args[0])
            if result is not None:
                return result
        return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind, original = type(self).__bases__
        return _rebuild, (kind, original), self.__dict__.copy()


def takes(input: Any) -> bool:
    """Whether fused training operators take a tensor: float32 images on the CPU, as they are and not being traced."""
    return (
        type(input) is Tensor
        and input.dim() == 4
        and input.dtype == torch.float32
        and input.device.type == "cpu"
        and input.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def become(module: nn.Module, kind: type[TrainedModule]) -> None:
    """Makes a module an instance of ``kind`` and of its own class, in place."""
    module.__class__ = _subclass(kind, type(module))


_subclasses: dict[tuple[type[TrainedModule], type[nn.Module]], type[nn.Module]] = {}


def _subclass(kind: type[TrainedModule], original: type[nn.Module]) -> type[nn.Module]:
    key = kind, original
    if key not in _subclasses:
        names = {"__module__": original.__module__, "__doc__": original.__doc__}
        _subclasses[key] = type(original.__name__, key, names)
    return _subclasses[key]


def _rebuild(kind: type[TrainedModule], original: type[nn.Module]) -> nn.Module:
    made = _subclass(kind, original)
    return made.__new__(made)


def update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, pixels: int) -> None:
    """Moves running statistics as torch's batch norm does.

    Args:
        norm: in training mode.
        mean: (C,) of the batch.
        variance: (C,) of the batch, biased.
        pixels: N * H * W.
    """
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    with torch.no_grad():
        share = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if share is None:
                share = 1.0 / float(norm.num_batches_tracked)
        share = 0.0 if share is None else share
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance * (pixels / (pixels - 1)), share)


def is_plain_norm(norm: nn.Module) -> bool:
    """Whether a batch norm takes the batch's statistics now and has float32 weights."""
    return (
        isinstance(norm, nn.BatchNorm2d)
        and norm.training
        and norm.weight is not None
        and norm.bias is not None
        and norm.weight.dtype == norm.bias.dtype == torch.float32
    )


def is_watched(module: nn.Module) -> bool:
    """Whether somebody's hooks or parametrizations want to see this module called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or hasattr(module, "parametrizations")
    )
