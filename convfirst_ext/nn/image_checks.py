"""What a module asks of the image that it is called with, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from convfirst_ext.ops.checks import DTYPES

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_image(
    input: object, channels: int | None, argument: str = "input", dimensions: tuple[int, ...] = (4,)
) -> bool:
    """Raises unless it is an image of so many channels, any for None; false for what stands for one in tracing.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has other dimensions or channels.
    """
    if not isinstance(input, Tensor):
        if isinstance(input, fx.Proxy):
            return False
        raise TypeError(f"{argument} must be a Tensor, but is {type(input).__name__}.")
    if input.dim() not in dimensions:
        allowed = " or ".join(map(str, dimensions))
        raise ValueError(f"{argument} must have {allowed} dimensions, but has shape {tuple(input.shape)}.")
    is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if channels is not None and not is_traced and input.shape[-3] != channels:
        raise ValueError(f"{argument} must have {channels} channels, but has shape {tuple(input.shape)}.")
    return True


def check_layer_image(input: object, layer: nn.Module, argument: str = "input") -> None:
    """Raises unless it is an image for a convolution: of its channels and, where autocast does not see to it, dtype.

    Raises:
        TypeError: it is no tensor, or of another dtype than the weights.
        ValueError: it has other dimensions or channels.
    """
    channels, weight = getattr(layer, "in_channels", None), getattr(layer, "weight", None)
    if not isinstance(channels, int) or not isinstance(weight, Tensor):  # not torch's layer any more
        return
    if not check_image(input, channels, argument):
        return
    assert isinstance(input, Tensor)
    if input.dtype != weight.dtype and weight.dtype in FLOATS and not torch.is_autocast_enabled(input.device.type):
        raise TypeError(f"{argument} must have the weights' dtype {weight.dtype}, but has {input.dtype}.")


def check_packed_image(input: object, channels: int | None, argument: str = "input") -> bool:
    """Raises unless packed weights can be applied to it; whether it is a single (C, H, W) image.

    Raises:
        TypeError: it is no tensor, or of a dtype that no kernel takes.
        ValueError: it has other dimensions or channels.
    """
    if not check_image(input, channels, argument, (3, 4)):
        return False
    assert isinstance(input, Tensor)
    if input.dtype not in DTYPES:
        raise TypeError(f"{argument} must have dtype float32, bfloat16 or float16, but has {input.dtype}.")
    return input.dim() == 3


def of_one_image(run: Callable[..., Tensor], *images: Tensor | None) -> Tensor:
    """What a module makes of (C, H, W) images, as torch's layers do."""
    batches = [None if image is None else image.unsqueeze(0) for image in images]
    return run(*batches).squeeze(0).contiguous()
