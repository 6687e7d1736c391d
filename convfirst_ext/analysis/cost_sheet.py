"""Time of our CPU kernels from the rates of their parts: the sum of what one thread does, as the drivers cut the work.

The cuts are those of csrc/cpu: multiply.cpp (products), spatial_run.cpp (rows of a spatial convolution) and the passes
over what they give. Nothing is fitted to a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from convfirst_ext.analysis.kernel_rates import TRIAL_CHANNELS, TRIAL_DEPTH, TRIAL_ROWS, KernelRates

LANES = 16
_NARROW = 8
_TILES: tuple[int, ...] = (14, 8, 7, 4, 2, 1)
_ANY_TILES = (14, 8, 4, 2, 1)
_WIDTHS = (2, 3, 4, 1)
_WINOGRAD_RUN = 28
_EXACT = ("identity", "relu", "relu6")  # a clamp of the product itself


Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class StepCost:
    """Where the time of a step goes.

    Attributes:
        arithmetic: seconds of the busiest thread in microkernels and passes.
        memory: seconds to move the bytes that do not stay in a core's cache.
        meetings: seconds that threads spend on meeting.
    """

    arithmetic: float
    memory: float
    meetings: float

    @property
    def seconds(self) -> float:
        """Their sum: cores wait for what they multiply next."""
        return self.arithmetic + self.memory + self.meetings


class CostSheet:
    """Nanoseconds of one thread for parts of a step.

    Args:
        rates: of this machine.
    """

    def __init__(self, rates: KernelRates) -> None:
        self.rates = rates

    def product(self, pixels: int, channels: int, depth: int) -> float:
        """(pixels, depth) times (depth, channels), cut into register blocks as multiply.cpp does."""
        pixels, blocks, last = max(pixels, 1), -(-channels // LANES), channels % LANES
        whole = blocks - 1 if 0 < last <= _NARROW else blocks
        narrow = self._column(pixels, "narrow", depth) if whole < blocks else 0.0
        if not whole:
            return narrow
        width = min(_WIDTHS, key=lambda width: self._slots(pixels, whole, width))
        count, rest = divmod(whole, width)
        return (
            narrow
            + count * self._column(pixels, str(width), depth)
            + (self._column(pixels, str(rest), depth) if rest else 0.0)
        )

    def spatial(self, rows: int, width: int, channels: int, window: Window, grouped: bool) -> float:
        """Rows of outputs of a convolution whose inputs lie in blocks of channels.

        Args:
            rows: of outputs.
            width: outputs of a row.
            channels: of the output.
            window: kernel, stride and dilation, each (vertical, horizontal).
            grouped: of group width 8; else depthwise.
        """
        (kernel_h, kernel_w), (_, stride), (_, dilation) = window
        family, taps, tiles = "grouped8" if grouped else "depthwise", 1.0, _TILES
        own = f"_k{kernel_h}s{stride}"
        if kernel_h != kernel_w or dilation != 1 or f"{family}{own}_t1" not in self.rates.calls:
            own, taps, tiles = "_any", kernel_h * kernel_w / 9, _ANY_TILES  # its trial is 3x3
        tile = min((t for t in tiles if t <= width), key=lambda t: -(-width // t) * (t + 1.5))
        calls = -(-channels // LANES) * rows * -(-width // tile)
        return calls * taps * self.rates.calls[f"{family}{own}_t{tile}"] / TRIAL_ROWS

    def winograd(self, tiles: int, in_channels: int, channels: int, side: int) -> float:
        """Tiles of side x side outputs of a 3x3 convolution: both transforms, and a product at every position."""
        calls = [self.rates.calls[f"winograd_{end}_{side}"] for end in ("input", "output")]
        transforms = sum(-(-c // LANES) * LANES * ns for c, ns in zip((in_channels, channels), calls, strict=True))
        run = min(tiles, _WINOGRAD_RUN)
        products = (side + 2) ** 2 * self.product(run, -(-channels // LANES) * LANES, in_channels) / run
        return tiles * (transforms / TRIAL_CHANNELS + products)

    def activation(self, elements: float, name: str) -> float:
        """A pass of its own; what a clamp can do is part of the product."""
        return 0.0 if name in _EXACT else elements * self.rates.elements[name]

    def passes(self, elements: float, name: str) -> float:
        """A pass over elements: "sum", "scale", "rescale", "gather_float", "normalize" or "identity", a copy."""
        return elements * self.rates.elements[name]

    def step(self, thread_ns: float, moved: float, working_set: float, meetings: int) -> StepCost:
        """A step of a chain.

        Args:
            thread_ns: what the busiest thread does.
            moved: bytes that all threads move.
            working_set: bytes that pass until these come again; decides which cache they come from.
            meetings: how often threads wait for each other.
        """
        memory = moved / self.rates.bytes_per_second(working_set)
        return StepCost(1e-9 * thread_ns, memory, meetings * self.rates.meeting)

    def _column(self, pixels: int, width: str, depth: int) -> float:
        """All pixels by one column of register blocks."""
        available = self.rates.rows[width]
        pieces = -(-pixels // available[-1])
        even, total, left = -(-pixels // pieces), 0.0, pixels
        while left > 0:
            rows = max(r for r in available if r <= min(left, even))
            times = left // rows if rows == even else 1
            total += times * self._call(rows, width, depth)
            left -= times * rows
        return total

    def _call(self, rows: int, width: str, depth: int) -> float:
        """A register block of any depth: its steps of depth, and what the trial took beside them."""
        blocks = 1 if width == "narrow" else int(width)
        name = f"gemm_narrow_{rows}" if width == "narrow" else f"gemm_{rows}x{width}"
        taken, fma = self.rates.calls[name], self.rates.fma
        least = 2 * rows * blocks * fma  # sums are loaded and stored
        fixed = max(least, taken - TRIAL_DEPTH * _slots_of_a_step(rows, blocks) * fma)
        return fixed + depth * (taken - fixed) / TRIAL_DEPTH

    def _slots(self, pixels: int, blocks: int, width: int) -> float:
        """Multiply-add slots a step of depth, by which multiply.cpp chooses the width of register blocks."""
        available = self.rates.rows.get(str(width))
        if width > blocks or not available:
            return math.inf
        pieces = -(-pixels // available[-1])
        rows, last = -(-pixels // pieces), blocks % width
        return pieces * (
            blocks // width * _slots_of_a_step(rows, width) + (_slots_of_a_step(rows, last) if last else 0)
        )


def busiest_share(tasks: int, threads: int) -> float:
    """The part of equal tasks that the busiest thread gets."""
    return -(-tasks // threads) / tasks


def _slots_of_a_step(rows: int, blocks: int) -> int:
    """As many as its loads where these are more, and never fewer than hide the latency."""
    return max(rows * blocks, rows + blocks, 8)
