"""Networks for the fusion tests: random weights, batch norm statistics that are not trivial."""

import timm
import torch
import torchvision
from torch import nn

from convfirst_ext.testing.statistics import with_statistics

__all__ = ["network", "relative_error", "with_statistics"]


def network(name: str, **options: object) -> nn.Module:
    """A timm model, or torchvision's after the prefix "tv:", in eval mode."""
    torch.manual_seed(0)
    if name.startswith("tv:"):
        model = torchvision.models.get_model(name.removeprefix("tv:"), weights=None, **options)
    else:
        model = timm.create_model(name, **options)
    return with_statistics(model).eval()


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()
