"""Pass: a transposed convolution, its batch norm and its activation become one call."""

from __future__ import annotations

import copy

from torch import fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import absorb_activation, absorb_norm, flat_name, module_of, replace_module
from convfirst_ext.nn import ConvTranspose2d


def fold_transposed(graph_module: fx.GraphModule) -> int:
    """Folds batch norms and activations into the transposed convolutions before them that have a kernel.

    Returns:
        How many those are.
    """
    folded = 0
    for node in list(graph_module.graph.nodes):
        module = module_of(graph_module, node)
        if is_transposed(module) and len(node.args) == 1:
            _fold(graph_module, node, module)  # type: ignore[arg-type]
            folded += 1
    return folded


def is_transposed(module: nn.Module | None) -> bool:
    """Whether the module is a transposed convolution that our kernels take."""
    if type(module) not in (nn.ConvTranspose2d, ConvTranspose2d) or recognition.has_hooks(module):  # type: ignore[arg-type]
        return False
    return recognition.choose_transposed_for(module).kernel is not None  # type: ignore[arg-type]


def _fold(graph_module: fx.GraphModule, node: fx.Node, conv: nn.ConvTranspose2d) -> None:
    source = str(node.target)
    replacement = copy.copy(conv)
    replacement._parameters = dict(conv._parameters)
    replacement.__dict__.pop("_kept", None)
    replacement.__class__ = ConvTranspose2d
    assert isinstance(replacement, ConvTranspose2d)
    norm = absorb_norm(graph_module, node, source)
    if norm is not None:
        _fold_norm(replacement, recognition.affine_of(norm))
    replacement.activation = absorb_activation(graph_module, node)
    replace_module(graph_module, node, flat_name(source, "transposed"), replacement)


def _fold_norm(conv: nn.ConvTranspose2d, affine: recognition.Affine) -> None:
    # (groups, C / groups, O / groups, R, S)
    scale = affine.scale.view(conv.groups, 1, -1, 1, 1)
    weight = conv.weight.detach().double()
    bias = affine.shift
    if conv.bias is not None:
        bias = bias + conv.bias.detach().double() * affine.scale
    conv.weight = nn.Parameter(
        (weight.view(conv.groups, -1, *weight.shape[1:]) * scale).flatten(0, 1).to(conv.weight.dtype),
        requires_grad=False,
    )
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
