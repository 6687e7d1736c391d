"""Pass: a transposed convolution, its batch norm and its activation become one call."""

from __future__ import annotations

import copy

from torch import fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import activation_at, bypass, flat_name, module_of, only_user, replace_module
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
    follower = only_user(node)
    norm = module_of(graph_module, follower)
    if follower is not None and norm is not None and recognition.is_batch_norm(norm):
        _fold_norm(replacement, recognition.affine_of(norm))  # type: ignore[arg-type]
        if recognition.activation_inside(norm) == "identity":  # type: ignore[arg-type]
            bypass(graph_module, follower)
        else:
            replace_module(graph_module, follower, flat_name(source, "activation"), norm.get_submodule("act"))
        follower = only_user(node)
    activation = activation_at(graph_module, follower)
    if follower is not None and activation is not None:
        replacement.activation = activation
        bypass(graph_module, follower)
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
