"""Pass: the linear layer that gives a model's output.

At small batches it only reads its weights once, which torch does in one thread.
"""

from __future__ import annotations

from torch import fx, nn

from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.folding import flat_name, module_of, only_user, replace_module
from convfirst_ext.nn import PackedLinear


def pack_classifier(graph_module: fx.GraphModule) -> None:
    """Replaces every plain linear layer whose result is the graph's output."""
    for node in list(graph_module.graph.nodes):
        linear = module_of(graph_module, node)
        if type(linear) is not nn.Linear or recognition.has_hooks(linear):
            continue
        user = only_user(node)
        if user is not None and user.op == "output":
            source = str(node.target)
            packed = PackedLinear(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
            packed.source = source
            replace_module(graph_module, node, flat_name(source, "fused"), packed)
