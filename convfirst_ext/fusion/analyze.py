"""``analyze``: the least time of a network's layers and blocks on a machine, without running it there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convfirst_ext.analysis.dataflow import Dataflow
from convfirst_ext.analysis.machines import Machine, find_machine
from convfirst_ext.analysis.network import NetworkAnalysis
from convfirst_ext.fusion.ceilings import ceilings_for
from convfirst_ext.fusion.tracing import trace

_FLOAT = 4


def analyze(model: nn.Module, example: Any, machine: Machine | str = "this") -> NetworkAnalysis:
    """Waterline analysis of a model (Lavin, arXiv 2404.03617, section 4): layer by layer, and with its blocks fused.

    Nothing is computed: the model runs on the meta device, so that any batch takes a fraction of a second. Layers
    are convolutions, products, poolings and gates; norms with fixed statistics, activations and residual additions
    belong to the layer before them. Every tensor moves once, its elements as large as the machine's.

    Args:
        model: stock or patched, in any mode; it is not changed.
        example: an input tensor (N, ...), on any device, or a tuple of arguments whose first tensor is one.
        machine: or what ``analysis.find_machine`` takes, such as "a5000" or "mine.toml"; or "this" for the CPU at hand
            in float32, on torch's present number of threads, with the bandwidth of the cache that holds the largest
            layer, or of memory.

    Returns:
        Records of layers and blocks, totals and efficiencies; ``str`` gives a summary.

    Raises:
        TypeError: model is not a module, example holds no tensor, or machine is neither a Machine nor a str.
        ValueError: machine is not known, or the model is optimized or cannot run on the meta device.
        OSError: a file of machines cannot be read.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {type(model).__name__}.")
    arguments = example if isinstance(example, tuple) else (example,)
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    if not tensors or tensors[0].dim() == 0:
        raise TypeError(f"example must be a tensor (N, ...) or a tuple with one, but is {type(example).__name__}.")
    if not isinstance(machine, (Machine, str)):
        raise TypeError(f"machine must be a Machine, a name or a FILE.toml, but is {type(machine).__name__}.")
    chosen = find_machine(machine) if isinstance(machine, str) and machine != "this" else machine
    flow = trace(model, arguments)
    if not isinstance(chosen, Machine):
        chosen = _this_machine(flow)
    return NetworkAnalysis(flow, chosen, tensors[0].shape[0])


def _this_machine(flow: Dataflow) -> Machine:
    ceilings = ceilings_for(torch.get_num_threads())
    largest = int(max((flow.cost(kernel, _FLOAT).bytes for kernel in flow.kernels), default=0))
    threads = f"{ceilings.threads} thread{'s' if ceilings.threads > 1 else ''}"
    level = ceilings.level(largest).replace("DRAM", "memory")
    name = f"this CPU, {threads}, data in {level}"
    return Machine(name, ceilings.flops_per_second, ceilings.bytes_per_second(largest), _FLOAT)
