"""The compile backend under observation, and a network of two blocks for it."""

from typing import Any

import torch
from networks import with_statistics
from test_fusion import block, counts
from torch import nn

from convfirst_ext.fusion.compiling import CompiledGraph, compile_graph


class Recorder:
    """The backend, and what it made of every graph."""

    def __init__(self) -> None:
        self.graphs: list[CompiledGraph] = []

    def __call__(self, captured: torch.fx.GraphModule, inputs: list[Any]) -> CompiledGraph:
        self.graphs.append(compile_graph(captured, inputs))
        return self.graphs[-1]

    @property
    def counts(self) -> list[tuple[int, int, int] | None]:
        return [None if graph.fused is None else counts(graph.fused) for graph in self.graphs]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return with_statistics(nn.Sequential(block(), nn.ReLU6(), block())).eval()


IMAGE = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(0))
