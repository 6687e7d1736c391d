"""A network on a machine: the least time of every layer and block, and what fusing would give (Lavin, 2404.03617)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convfirst_ext.analysis.dataflow import Block, Dataflow
from convfirst_ext.analysis.intensity import KernelCost
from convfirst_ext.analysis.machines import Machine
from convfirst_ext.analysis.waterline import maximum_efficiency, minimum_latencies, roofline_efficiency


@dataclass(frozen=True)
class LayerRecord:
    """One kernel of the layer-by-layer network: a convolution, product, pooling or gate with what follows it.

    Attributes:
        name: of its module.
        block: name of the block it belongs to, "" for none.
        kind: one of ``intensity.KINDS``.
        input_shape: of its input.
        output_shape: of its output.
        macs: multiply-adds.
        operations: n, two a multiply-add; of a layer without any, one for every element that it reads.
        bytes: b, of inputs, outputs and parameters, each once.
        intensity: n / b in operations per byte.
        bound: "arithmetic" or "memory", whichever takes longer.
        seconds: the least time on the machine (equation 11).
        share: of the layer-by-layer network's least time, 0 to 1.
        cumulative_share: of this layer and those before it.
    """

    name: str
    block: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    operations: float
    bytes: float
    intensity: float
    bound: str
    seconds: float
    share: float
    cumulative_share: float


@dataclass(frozen=True)
class BlockRecord:
    """A block, or a layer that belongs to none.

    Attributes:
        name: of its module.
        layers: how many kernels it takes layer by layer.
        input_shape: of its first layer.
        output_shape: of its last layer.
        macs: multiply-adds.
        operations: n of one kernel that does it all.
        bytes: b of that kernel: input, output, residual from elsewhere and parameters.
        intensity: n / b in operations per byte.
        bound: "arithmetic" or "memory", as one kernel.
        layer_bytes: bytes of its layers by themselves.
        layer_seconds: the least time of its layers one after the other.
        seconds: the least time as one kernel.
        cumulative_share: of this block and those before it, 0 to 1 of the block-by-block network's least time.
        network_speedup: how much faster the layer-by-layer network gets where this block alone is fused.
    """

    name: str
    layers: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int
    operations: float
    bytes: float
    intensity: float
    bound: str
    layer_bytes: float
    layer_seconds: float
    seconds: float
    cumulative_share: float
    network_speedup: float


class NetworkAnalysis:
    """Waterline analysis of a network, layer by layer and block by block.

    Args:
        flow: what the network computes.
        machine: gives peak arithmetic, bandwidth and the size of an element.
        batch: images.

    Attributes:
        machine: as given.
        batch: as given.
        layers: one record a kernel, in the order of execution.
        blocks: one record a block, or a layer outside of blocks, in the order of execution.
        layer_costs: of ``layers``.
        block_costs: of ``blocks``.

    Raises:
        ValueError: the network computes nothing, or batch is not positive.
    """

    def __init__(self, flow: Dataflow, machine: Machine, batch: int) -> None:
        if batch < 1:
            raise ValueError(f"batch must be positive, but is {batch}.")
        if not flow.kernels:
            raise ValueError("flow must hold at least one operation on its input, but is empty.")
        self.machine, self.batch = machine, batch
        self.layer_costs = [flow.cost(kernel, machine.bytes_per_element) for kernel in flow.kernels]
        found = flow.blocks(batch)
        owners = {index: block.name for block in found for index in block.kernels}
        self.layers = self._layer_records(flow, owners)
        alone = [Block(layer.name, (i,)) for i, layer in enumerate(self.layers) if i not in owners]
        parts = sorted([*found, *alone], key=lambda block: block.kernels)
        self.block_costs = [
            flow.fused_cost(block, machine.bytes_per_element)
            if len(block.kernels) > 1
            else self.layer_costs[block.kernels[0]]
            for block in parts
        ]
        self.blocks = self._block_records(parts)

    @property
    def macs(self) -> int:
        """Multiply-adds of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def ideal_seconds(self) -> float:
        """Time of the multiply-adds at the peak (equation 1)."""
        return 2 * self.macs / self.machine.flops_per_second

    @property
    def layer_seconds(self) -> float:
        """The least time layer by layer (equation 12)."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def block_seconds(self) -> float:
        """The least time block by block (equation 12)."""
        return sum(block.seconds for block in self.blocks)

    @property
    def layer_efficiency(self) -> float:
        """Maximum efficiency layer by layer, 0 to 1 (equation 14)."""
        return maximum_efficiency(self.layer_costs, self.machine)

    @property
    def block_efficiency(self) -> float:
        """Maximum efficiency block by block, 0 to 1 (equation 14)."""
        return maximum_efficiency(self.block_costs, self.machine)

    @property
    def mediant_efficiency(self) -> float:
        """What the roofline of all layers at once would promise, 0 to 1; never below ``layer_efficiency``."""
        return roofline_efficiency(self.layer_costs, self.machine)

    def to_dict(self) -> dict[str, Any]:
        """Machine, batch, totals and records as plain dicts, lists, strings and numbers."""
        return {
            "machine": asdict(self.machine),
            "batch": self.batch,
            "macs": self.macs,
            "ideal_seconds": self.ideal_seconds,
            "layer_seconds": self.layer_seconds,
            "block_seconds": self.block_seconds,
            "layers": [asdict(layer) for layer in self.layers],
            "blocks": [asdict(block) for block in self.blocks],
        }

    def __str__(self) -> str:
        blocks = sum(block.layers > 1 for block in self.blocks)
        return (
            f"{2e-9 * self.macs:.3g} GFLOP on {self.machine.name}: {len(self.layers)} layers, at least "
            f"{1e3 * self.layer_seconds:.3g} ms ({self.layer_efficiency:.0%} of peak); with {blocks} blocks fused "
            f"{1e3 * self.block_seconds:.3g} ms ({self.block_efficiency:.0%})."
        )

    def _layer_records(self, flow: Dataflow, owners: dict[int, str]) -> list[LayerRecord]:
        seconds, total = self._least(self.layer_costs)
        records = []
        for index, (kernel, cost) in enumerate(zip(flow.kernels, self.layer_costs, strict=True)):
            first, last = flow.operations[kernel.members[0]], flow.operations[kernel.members[-1]]
            records.append(
                LayerRecord(
                    name=cost.name,
                    block=owners.get(index, ""),
                    kind=cost.kind,
                    input_shape=first.input_shape,
                    output_shape=last.output_shape,
                    macs=flow.macs(kernel),
                    operations=cost.operations,
                    bytes=cost.bytes,
                    intensity=cost.intensity,
                    bound=self._bound(cost),
                    seconds=seconds[index],
                    share=seconds[index] / total[-1],
                    cumulative_share=total[index] / total[-1],
                )
            )
        return records

    def _block_records(self, parts: Sequence[Block]) -> list[BlockRecord]:
        seconds, total = self._least(self.block_costs)
        records = []
        for index, (block, cost) in enumerate(zip(parts, self.block_costs, strict=True)):
            layers = [self.layers[i] for i in block.kernels]
            before = sum(layer.seconds for layer in layers)
            records.append(
                BlockRecord(
                    name=block.name,
                    layers=len(layers),
                    input_shape=layers[0].input_shape,
                    output_shape=layers[-1].output_shape,
                    macs=sum(layer.macs for layer in layers),
                    operations=cost.operations,
                    bytes=cost.bytes,
                    intensity=cost.intensity,
                    bound=self._bound(cost),
                    layer_bytes=sum(layer.bytes for layer in layers),
                    layer_seconds=before,
                    seconds=seconds[index],
                    cumulative_share=total[index] / total[-1],
                    network_speedup=self.layer_seconds / (self.layer_seconds - before + seconds[index]),
                )
            )
        return records

    def _least(self, costs: Sequence[KernelCost]) -> tuple[list[float], list[float]]:
        """Least times and their running sum."""
        seconds = minimum_latencies(costs, self.machine)
        return seconds.tolist(), np.cumsum(seconds).tolist()

    def _bound(self, cost: KernelCost) -> str:
        return "arithmetic" if cost.intensity >= self.machine.op_byte else "memory"
