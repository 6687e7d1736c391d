"""Predicted time of the blocks of an optimized network: a cost sheet for each kind of block, as its driver works."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from convfirst_ext.analysis.cost_sheet import LANES, CostSheet, busiest_share
from convfirst_ext.analysis.kernel_rates import KernelRates
from convfirst_ext.fusion.records import Record
from convfirst_ext.fusion.tiles import Tiles, tiles_of
from convfirst_ext.fusion.work import Call, packed_work
from convfirst_ext.nn import PackedConv2d, PackedConvNeXtBlock, PackedLayerNorm, PackedLinear, PackedMBConv
from convfirst_ext.nn.packed_module import PackedModule
from convfirst_ext.ops.packed import winograd_tile

# convnext_block.cpp: with fewer pixels a thread they share channels; most pixels of a run.
_LEAST_RUN = 28
_MOST_RUN = 112
# fused_block.cpp: after the convolution and after the projection; the gate's second layer and what it scales.
_KEPT_MEETINGS = 2
_SQUEEZE_MEETINGS = 2


class StepWork(NamedTuple):
    """Work of a step.

    Attributes:
        thread_ns: nanoseconds of the busiest thread, its operands in the cache.
        meetings: how often threads wait for each other.
        moved: bytes that all threads move.
    """

    thread_ns: float
    meetings: int
    moved: int


class Forecast:
    """Sees the blocks of a network and predicts what each will take.

    Args:
        rates: of this machine.
    """

    def __init__(self, rates: KernelRates) -> None:
        self._predictor = Predictor(rates)
        self._seen: dict[int, StepWork] = {}

    def see(self, index: int, module: nn.Module, call: Call) -> None:
        """Notes a call of what will be record ``index``; of other modules than our packed ones nothing."""
        if isinstance(module, PackedModule) and call.output.device.type == "cpu":
            self._seen[index] = self._predictor.work(module, call)

    def added_to(self, records: list[Record]) -> list[Record]:
        """The records with predictions: until a block's bytes come again, all blocks have moved theirs."""
        moved = sum(record.bytes_moved for record in records)
        return [
            replace(record, predicted_seconds=self._predictor.seconds(self._seen[index], moved))
            if index in self._seen
            else record
            for index, record in enumerate(records)
        ]


class Predictor:
    """Times of packed modules on this machine.

    Args:
        rates: of its kernels.
    """

    def __init__(self, rates: KernelRates) -> None:
        self._sheet = CostSheet(rates)
        self._threads = rates.threads

    def seconds(self, step: StepWork, working_set: float) -> float:
        """The time of a step.

        Args:
            step: its work.
            working_set: bytes that all steps of a call move; what a step needs comes from the cache that holds them.
        """
        return self._sheet.step(step.thread_ns, step.moved, working_set, step.meetings).seconds

    def work(self, module: PackedModule, call: Call) -> StepWork:
        """What a call of a packed module makes the busiest thread do."""
        tiles = tiles_of(module, call.input) if isinstance(module, PackedMBConv) else None
        moved = packed_work(module, call, tiles).bytes_moved
        if isinstance(module, PackedMBConv) and tiles is not None:
            return StepWork(*self._mbconv(module, call, tiles), moved)
        if isinstance(module, PackedConvNeXtBlock):
            return StepWork(*self._convnext(module, call), moved)
        if isinstance(module, PackedConv2d):
            return StepWork(self._convolution(module, call), 1, moved)
        if isinstance(module, PackedLinear):
            return StepWork(self._linear(module, call), 1, moved)
        name = "normalize" if isinstance(module, PackedLayerNorm) else "sum"  # pooling
        return StepWork(self._sheet.passes(call.input.numel(), name) / self._threads, 1, moved)

    def _convolution(self, module: PackedConv2d, call: Call) -> float:
        images, channels, height, width = call.output.shape
        left = self._sheet.activation(call.output.numel(), module.activation)
        if module.kernel in ("depthwise", "grouped"):
            rows = images * self._spatial(module, height, width, channels)
            copied = self._sheet.passes(_padded_elements(call.input), "gather_float")
            return (rows + copied + left) / self._threads
        if side := winograd_tile(module.kernel):
            tiles = images * -(-height // side) * -(-width // side)
            return (self._sheet.winograd(tiles, module.in_channels, channels, side) + left) / self._threads
        depth = math.prod(module.weight.shape[1:4])
        if module.window.kernel == (1, 1):
            run = -(-images * height * width // self._threads)
            return self._products(run, channels, depth, module.groups) + left / self._threads
        products = images * height * self._products(width, channels, depth, module.groups)
        # A band of rows is copied with its padding; neighbours copy the rows between them twice.
        copied = self._sheet.passes(call.input.numel() * module.window.kernel[0] / module.window.stride[0], "identity")
        return (products + copied + left) / self._threads

    def _products(self, pixels: int, channels: int, depth: int, groups: int) -> float:
        return groups * self._sheet.product(pixels, channels // groups, depth)

    def _linear(self, module: PackedLinear, call: Call) -> float:
        rows, depth = call.output.numel() // module.out_channels, math.prod(module.weight.shape[1:4])
        return self._sheet.product(rows, _whole(-(-module.out_channels // self._threads)), depth)

    def _mbconv(self, module: PackedMBConv, call: Call, tiles: Tiles) -> tuple[float, int]:
        images, _, in_h, in_w = call.input.shape
        _, channels, height, width = call.output.shape
        pixels, hidden = height * width, _whole(module.hidden_channels)
        expand = self._expansion(module, in_h, in_w, -(-height // tiles.rows))
        convolve = self._spatial(module, height, width, module.hidden_channels)
        convolve += self._sheet.activation(hidden * pixels, module.activation)
        project = self._sheet.product(pixels, channels, module.hidden_channels)
        project += self._sheet.activation(channels * pixels, module.output_activation)
        squeeze, alone, meetings = self._squeeze(module, pixels)
        if tiles.order == "kept":
            by_image = images >= 4 * self._threads or images % self._threads == 0
            if by_image:
                return images * (expand + convolve + squeeze + alone + project) / self._threads, 1
            share = busiest_share(-(-hidden // tiles.channels), self._threads)
            return images * ((expand + convolve) * share + (squeeze + project) / self._threads + alone), images * (
                _KEPT_MEETINGS + meetings
            )
        passes = 2 if tiles.order == "strips, twice" else 1
        # Threads that share an image expand the rows between them twice.
        halo = max(module.window.kernel[0] - module.window.stride[0], 0)
        again = 1 + (halo * (self._threads - 1) / in_h if images == 1 else 0)
        rows = -(-images * height // self._threads)
        done = (passes * (expand * again + convolve) + squeeze + project) * rows / height + images * alone
        return done, 1 if passes == 1 else images * (_KEPT_MEETINGS + meetings)

    def _expansion(self, module: PackedMBConv, height: int, width: int, groups: int) -> float:
        """The hidden tensor of an image, the rows that a group of output rows adds at a time."""
        elements = _whole(module.hidden_channels) * height * width
        if module.expand_weight is None:
            return self._sheet.passes(elements, "gather_float")
        run = max(1, round(height / groups)) * width
        product = self._sheet.product(run, _whole(module.hidden_channels), module.in_channels)
        return product * height * width / run + self._sheet.activation(elements, module.activation)

    def _squeeze(self, module: PackedMBConv, pixels: int) -> tuple[float, float, int]:
        """What threads share, sums and the gate on activations or weights; the two layers, of one row; meetings."""
        if module.se_expand_weight is None:
            return 0.0, 0.0, 0
        hidden, squeezed = _whole(module.hidden_channels), module.se_expand_weight.shape[3]
        layers = self._sheet.product(1, _whole(squeezed), hidden) + self._sheet.product(1, hidden, squeezed)
        layers += self._sheet.activation(hidden, module.se_gate)
        outputs = _whole(module.out_channels)
        gated, gate = (outputs, "rescale") if outputs < pixels else (pixels, "scale")
        shared = self._sheet.passes(hidden * pixels, "sum") + self._sheet.passes(hidden * gated, gate)
        return shared, layers, _SQUEEZE_MEETINGS

    def _convnext(self, module: PackedConvNeXtBlock, call: Call) -> tuple[float, int]:
        images, channels, height, width = call.output.shape
        pixels, inputs, hidden = images * height * width, module.in_channels, module.hidden_channels
        done = images * self._spatial(module, height, width, inputs)
        done += self._sheet.passes(_padded_elements(call.input), "gather_float")
        if module.epsilon is not None:
            done += self._sheet.passes(pixels * inputs, "normalize")
        run = min(_MOST_RUN, -(-pixels // self._threads))
        products = self._sheet.product(run, hidden, inputs) + self._sheet.product(run, channels, hidden)
        done += products * pixels / run + self._sheet.activation(pixels * _whole(hidden), module.activation)
        return done / self._threads, 2 if pixels >= self._threads * _LEAST_RUN else 4

    def _spatial(
        self, module: PackedConv2d | PackedMBConv | PackedConvNeXtBlock, height: int, width: int, channels: int
    ) -> float:
        """One image by the module's depthwise convolution, or that of group width 8."""
        return self._sheet.spatial(height, width, channels, module.window[:3], module.groups < channels)


def _whole(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _padded_elements(tensor: Tensor) -> int:
    images, channels, height, width = tensor.shape
    return images * _whole(channels) * height * width
