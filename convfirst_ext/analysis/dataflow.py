"""A network as operations on values, and the kernels and blocks that they make up (Lavin, arXiv 2404.03617, section 5).

A kernel is a convolution, product, pooling or gate together with what can be done to its output on the way: norms with
fixed statistics, activations, the addition of a residual. A block is several kernels of one module.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from convfirst_ext.analysis.intensity import CONVOLUTION, FUSED, KernelCost

# More products than any known block has: a stage of a network is no block.
_MOST_PRODUCTS = 4


class Use(NamedTuple):
    """A tensor that an operation reads or writes.

    Attributes:
        value: number of the tensor; views of it have the same.
        elements: how many of it.
    """

    value: int
    elements: int


@dataclass(frozen=True)
class Operation:
    """One step of a network.

    Attributes:
        name: of the innermost module that ran it.
        kind: one of ``intensity.KINDS``.
        macs: multiply-adds.
        reads: its inputs that are no parameters.
        output: what it writes.
        parameters: elements of weights and biases that it reads.
        input_shape: of its first input.
        output_shape: of its output.
        joins: whether the kernel that gives its input can do it too, element by element.
    """

    name: str
    kind: str
    macs: int
    reads: tuple[Use, ...]
    output: Use
    parameters: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    joins: bool = False


class Kernel(NamedTuple):
    """Indices of the operations that one kernel makes, the one it is named after first."""

    members: tuple[int, ...]

    @property
    def anchor(self) -> int:
        """The operation that the kernel is named after."""
        return self.members[0]


class Block(NamedTuple):
    """Kernels that one fused kernel could replace.

    Attributes:
        name: of the module that holds them.
        kernels: their indices, ascending.
    """

    name: str
    kernels: tuple[int, ...]


class Dataflow:
    """Operations in the order of execution.

    Args:
        operations: every one reads values that earlier ones wrote, or inputs.
        outputs: values that leave the network.

    Attributes:
        operations: as given.
        kernels: that compute them layer by layer.
    """

    def __init__(self, operations: Sequence[Operation], outputs: Iterable[int]) -> None:
        self.operations = list(operations)
        self._outputs = set(outputs)
        self._readers: dict[int, set[int]] = defaultdict(set)
        self._writer: dict[int, int] = {}
        for index, operation in enumerate(self.operations):
            self._writer[operation.output.value] = index
            for use in operation.reads:
                self._readers[use.value].add(index)
        self.kernels = self._find_kernels()

    def cost(self, kernel: Kernel, bytes_per_element: float) -> KernelCost:
        """What a kernel must do by itself."""
        operation = self.operations[kernel.anchor]
        moved = bytes_per_element * self._elements(kernel.members)
        return KernelCost(operation.name, operation.kind, self._operations_of(kernel), moved)

    def fused_cost(self, block: Block, bytes_per_element: float) -> KernelCost:
        """The operations of its kernels; of the bytes only what enters and leaves, and the parameters."""
        kernels = [self.kernels[index] for index in block.kernels]
        members = [member for kernel in kernels for member in kernel.members]
        operations = sum(map(self._operations_of, kernels))
        return KernelCost(block.name, FUSED, operations, bytes_per_element * self._elements(members))

    def macs(self, kernel: Kernel) -> int:
        """Multiply-adds of a kernel."""
        return sum(self.operations[member].macs for member in kernel.members)

    def blocks(self, batch: int) -> list[Block]:
        """Modules with two to four products over pixels: inverted residuals, bottlenecks, feed-forward networks.

        A product of one row an image, as in squeeze-excite, makes no block; with its block it belongs to it. At most
        one of the products is a dense convolution.

        Args:
            batch: images.
        """
        products = [self._name(kernel) for kernel in self.kernels if self._is_product(kernel, batch)]
        names = _block_modules(products)
        blocks = []
        for name in names:
            inside = tuple(i for i, kernel in enumerate(self.kernels) if _holds(name, self._name(kernel)))
            if self._can_fuse([self.kernels[i] for i in inside]):
                blocks.append(Block(name, inside))
        return sorted(blocks, key=lambda block: block.kernels)

    def _find_kernels(self) -> list[Kernel]:
        groups: list[list[int]] = []
        kernel_of: dict[int, int] = {}
        for index, operation in enumerate(self.operations):
            givers = [kernel_of[self._writer[use.value]] for use in operation.reads if self._wrote(use, index)]
            # The latest: what it gives is the last that was missing, the others are there already.
            latest = max(givers, default=-1)
            if operation.joins and latest >= 0 and self._same_size(groups[latest][-1], operation):
                groups[latest].append(index)
                kernel_of[index] = latest
            else:
                kernel_of[index] = len(groups)
                groups.append([index])
        return [Kernel(tuple(group)) for group in groups]

    def _wrote(self, use: Use, before: int) -> bool:
        return self._writer.get(use.value, before) < before

    def _same_size(self, index: int, operation: Operation) -> bool:
        return self.operations[index].output.elements == operation.output.elements

    def _elements(self, members: Sequence[int]) -> int:
        """Elements that enter or leave a group of operations, every tensor once, and its parameters."""
        inside = set(members)
        written = {self.operations[member].output.value: self.operations[member].output for member in members}
        entering: dict[int, int] = {}
        for member in members:
            for use in self.operations[member].reads:
                if use.value not in written:
                    entering[use.value] = max(use.elements, entering.get(use.value, 0))
        leaving = sum(use.elements for use in written.values() if self._leaves(use.value, inside))
        return leaving + sum(entering.values()) + sum(self.operations[member].parameters for member in members)

    def _leaves(self, value: int, inside: set[int]) -> bool:
        readers = self._readers.get(value, set())
        return value in self._outputs or not readers or bool(readers - inside)

    def _operations_of(self, kernel: Kernel) -> float:
        """Two a multiply-add; of a kernel without any, one for every element that it reads."""
        macs = self.macs(kernel)
        return 2.0 * macs if macs else float(sum(use.elements for use in self.operations[kernel.anchor].reads))

    def _is_product(self, kernel: Kernel, batch: int) -> bool:
        anchor = self.operations[kernel.anchor]
        return anchor.parameters > 0 and anchor.macs > batch * anchor.parameters

    def _can_fuse(self, kernels: Sequence[Kernel]) -> bool:
        """Whether a kernel could keep hidden channels for a moment only.

        Attention multiplies what it computes itself; of two dense convolutions the second needs all channels of the
        first's neighbouring pixels.
        """
        anchors = [self.operations[kernel.anchor] for kernel in kernels]
        dense = sum(anchor.kind == CONVOLUTION for anchor in anchors)
        return dense < 2 and all(anchor.macs == 0 or anchor.parameters > 0 for anchor in anchors)

    def _name(self, kernel: Kernel) -> str:
        return self.operations[kernel.anchor].name


def _block_modules(products: Sequence[str]) -> list[str]:
    """The innermost modules with at least two products, or a module around one that has but a few products more."""
    count = Counter(ancestor for name in products for ancestor in _ancestors(name))
    innermost = {
        next((ancestor for ancestor in _ancestors(name) if count[ancestor] >= 2), None): None for name in products
    }
    small = [name for name in innermost if name is not None and count[name] <= _MOST_PRODUCTS]
    return list(dict.fromkeys(_grown(name, small, count) for name in small))


def _grown(name: str, blocks: Sequence[str], count: Counter[str]) -> str:
    """ConvNeXt's two products lie in a module of their own, beside the convolution that belongs to them."""
    for outer in _ancestors(name):
        alone = all(other in (name, outer) or not _holds(outer, other) for other in blocks)
        if count[name] < count[outer] <= _MOST_PRODUCTS and alone:
            return outer
    return name


def _ancestors(name: str) -> Iterator[str]:
    """Names of the modules around it, the innermost first, without the network itself."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _holds(outer: str, name: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")
