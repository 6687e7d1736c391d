"""Batch norm statistics that a network could have learned, so that folding them wrongly shows."""

from __future__ import annotations

import torch
from torch import nn


def with_statistics(model: nn.Module) -> nn.Module:
    """Gives every batch norm of a model statistics and an affine map that change its input; returns the model."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            shape = module.running_mean.shape
            module.running_mean.copy_(0.1 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            if not module.affine:
                continue
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(shape, generator=generator))
                module.bias.copy_(0.1 * torch.randn(shape, generator=generator))
    return model
