"""The activations of ``ops.ACTIVATIONS`` as torch's modules."""

from __future__ import annotations

from torch import nn

from convfirst_ext.ops.activation import check_activation

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
}


def activation_module(name: str, argument: str = "activation") -> nn.Module:
    """A module that computes an activation of ``ops.ACTIVATIONS``.

    Raises:
        ValueError: there is no such activation; ``argument`` is what the message calls it.
    """
    check_activation(name, argument)
    if name in ("gelu", "gelu_tanh"):
        return nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")
    return ACTIVATION_MODULES[name]() if name in ACTIVATION_MODULES else nn.Identity()


def activation_name(module: nn.Module | None) -> str | None:
    """The activation of ``ops.ACTIVATIONS`` that one of torch's modules computes, or None; "identity" for None."""
    if module is None or type(module) is nn.Identity:
        return "identity"
    if type(module) is nn.GELU:
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    return next((name for name, kind in ACTIVATION_MODULES.items() if type(module) is kind), None)
