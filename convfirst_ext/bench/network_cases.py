"""The networks that are compared, as cases: timm's, with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from convfirst_ext.bench.cases import Case

MODELS = (
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mnasnet_100",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "convnext_tiny",
)


def _timm() -> Any:
    import timm

    import convfirst_ext.models  # noqa: F401  (timm knows ConvFirstNet from here on)

    return timm


def create_network(name: str) -> nn.Module:
    """Returns a timm network without pretrained weights."""
    return _timm().create_model(name, pretrained=False)


def network_cases(models: list[str], batches: list[int], size: int) -> list[Case]:
    """Returns one case a network and batch, all batches of a network together.

    Raises:
        ValueError: timm has no such network, or the size is too small for one.
    """
    timm = _timm()
    for name in models:
        if not timm.is_model(name):
            raise ValueError(f"--models must be names timm knows, got '{name}'")
    if size < 32:
        raise ValueError(f"--size must be at least 32, got {size}")
    return [Case(name, partial(create_network, name), (batch, 3, size, size)) for name in models for batch in batches]
