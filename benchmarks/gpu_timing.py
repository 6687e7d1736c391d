"""Times of calls on a GPU: with a cold L2 cache, and back to back in a CUDA graph; and what the GPU can do at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]

WARM_UP = 3
CALLS_A_GRAPH = 10
MOST_CALLS = 200


class Ceilings(NamedTuple):
    """Measured in this run: bytes a second of a large copy, read and written, and products of large matrices."""

    copy_bytes: float
    flops: dict[str, float]

    def floor(self, bytes_moved: float, flops: float, dtype: str) -> float:
        """The seconds that no kernel can beat by much: the longer of moving and computing."""
        return max(bytes_moved / self.copy_bytes, flops / self.flops[dtype])


class Clock:
    """Measures calls for about ``seconds`` each."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        properties = torch.cuda.get_device_properties(0)
        # Twice the cache, so that nothing of the call before is left.
        self.flush = torch.empty(2 * properties.L2_cache_size, dtype=torch.uint8, device="cuda")

    def cold(self, call: Call) -> list[float]:
        """Seconds of single calls, each with an L2 cache that holds nothing of their tensors."""
        for _ in range(WARM_UP):
            call()
        events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        end = time.monotonic() + self.seconds
        while len(events) < MOST_CALLS and (time.monotonic() < end or len(events) < WARM_UP):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.flush.zero_()
            start.record()
            call()
            stop.record()
            events.append((start, stop))
            stop.synchronize()
        return [start.elapsed_time(stop) * 1e-3 for start, stop in events]

    def graphed(self, call: Call) -> list[float]:
        """Seconds of a call, back to back with others in a CUDA graph: nothing of the launch is left."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS_A_GRAPH):
                call()
        return [seconds / CALLS_A_GRAPH for seconds in self.cold(graph.replay)]


def median_us(seconds: list[float]) -> float:
    """The median in microseconds."""
    return statistics.median(seconds) * 1e6


def measure_ceilings(clock: Clock) -> Ceilings:
    """Copies 1 GiB and multiplies matrices of 8192 x 8192, random so that power is as in real work."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() * source.element_size() / statistics.median(clock.cold(lambda: target.copy_(source)))
    flops = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        a, b = torch.randn(2, 8192, 8192, device="cuda").to(dtype)
        flops[str(dtype).removeprefix("torch.")] = 2 * 8192**3 / min(clock.cold(lambda a=a, b=b: a @ b))
    return Ceilings(copy, flops)
