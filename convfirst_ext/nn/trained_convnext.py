"""ConvNeXt blocks that train with their two products as one operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convfirst_ext.nn.trained_module import TrainedModule, is_watched
from convfirst_ext.ops.conv_norm_block import ConvNorm, conv_norm_block
from convfirst_ext.ops.layout import restore_layout


class ConvNeXtPaths(NamedTuple):
    """Where a block's layers are, by the names of its submodules.

    Attributes:
        depthwise: convolution.
        norm: over channels.
        expand: product to the hidden channels.
        project: product back.
        activation: between them, one of ``normed_activation.ACTIVATIONS``.
        scale: parameter of the layer scale, or None.
        drop_path: module before the input is added.
        others: every submodule, for their hooks.
    """

    depthwise: str
    norm: str
    expand: str
    project: str
    activation: str
    scale: str | None
    drop_path: str
    others: tuple[str, ...]


class TrainedConvNeXt(TrainedModule):
    """``x + drop_path(scale * project(activation(expand(norm(depthwise(x))))))`` of timm or torchvision.

    Attributes:
        trained_paths: its layers.
    """

    trained_paths: ConvNeXtPaths

    def fused(self, input: Tensor) -> Tensor | None:
        """The block's result, or None where its layers must run one by one."""
        paths, module = self.trained_paths, self.get_submodule
        if any(is_watched(module(path)) for path in paths.others):
            return None
        norm, drop_path = module(paths.norm), module(paths.drop_path)
        expand, project = module(paths.expand), module(paths.project)
        scale = None if paths.scale is None else self.get_parameter(paths.scale).flatten()
        weights = [_as_kernel(layer.weight) for layer in (expand, project)]  # type: ignore[arg-type]
        shifts = [_bias_of(expand), _bias_of(project)]
        if any(t.dtype != torch.float32 for t in (*weights, *shifts)):
            return None
        assert isinstance(norm, nn.LayerNorm)
        value = module(paths.depthwise)(input).permute(0, 2, 3, 1)
        value = F.layer_norm(value, norm.normalized_shape, norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
        if scale is not None:
            shifts[1] = shifts[1] * scale
        drops = getattr(drop_path, "drop_prob", getattr(drop_path, "p", 0.0)) > 0
        layers = (ConvNorm(activation=paths.activation, batch_norm=False), ConvNorm(batch_norm=False))
        output, _ = conv_norm_block(value, layers, weights, [None, scale], shifts, residual=None if drops else input)
        output = restore_layout(output, input, self.get_submodule(paths.depthwise).weight)  # type: ignore[arg-type]
        return input + drop_path(output) if drops else output


def _as_kernel(weight: Tensor) -> Tensor:
    return weight.flatten(1)[:, :, None, None]


def _bias_of(layer: nn.Module) -> Tensor:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    return bias if isinstance(bias, Tensor) else weight.new_zeros(weight.shape[0])
