"""``patch``: trainable drop-ins, in place."""

from __future__ import annotations

from torch import nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.trained_blocks import train_fused
from convfirst_ext.nn import Conv2d, ConvTranspose2d


def patch(model: nn.Module) -> nn.Module:
    """Swaps every ``torch.nn.Conv2d`` and ``ConvTranspose2d`` that has a kernel for ours, in place.

    Parameters, buffers, hooks, training mode and state_dict keys stay the same objects; subclasses, which may compute
    something else, are left alone. Calling it again changes nothing.

    Args:
        model: any module.

    Returns:
        The same module.

    Raises:
        TypeError: model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {type(model).__name__}.")
    swap_layers(model)
    swap_transposed(model)
    train_fused(model)
    return model


def swap_layers(model: nn.Module) -> None:
    """Swaps every ``torch.nn.Conv2d`` that has a kernel, in place."""
    for module in model.modules():
        if Conv2d.matches(module) and recognition.choose_for(module).kernel is not None:  # type: ignore[arg-type]
            Conv2d.from_torch(module)  # type: ignore[arg-type]


def swap_transposed(model: nn.Module) -> None:
    """Swaps every ``torch.nn.ConvTranspose2d`` that has a kernel, in place."""
    for module in model.modules():
        if ConvTranspose2d.matches(module) and recognition.choose_transposed_for(module).kernel is not None:  # type: ignore[arg-type]
            ConvTranspose2d.from_torch(module)  # type: ignore[arg-type]
