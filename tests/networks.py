"""Networks for the fusion tests: random weights, batch norm statistics that are not trivial."""

import timm
import torch
import torchvision
from torch import nn


def network(name: str, **options: object) -> nn.Module:
    """A timm model, or torchvision's after the prefix "tv:", in eval mode."""
    torch.manual_seed(0)
    if name.startswith("tv:"):
        model = torchvision.models.get_model(name.removeprefix("tv:"), weights=None, **options)
    else:
        model = timm.create_model(name, **options)
    return with_statistics(model).eval()


def with_statistics(model: nn.Module) -> nn.Module:
    """Gives every batch norm statistics and an affine map that change its input."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(0.1 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(shape, generator=generator))
                module.bias.copy_(0.1 * torch.randn(shape, generator=generator))
    return model


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()
