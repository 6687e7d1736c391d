"""How much memory does a layer take beside its output? ``python -m benchmarks.skipping_memory``.

Every figure is that of a fresh process whose allocator gives freed blocks back at once: the highest resident memory
during a call, less what was there before and less the output.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import RESULTS
from convfirst_ext import ops
from convfirst_ext.apps.memory import ALLOCATOR, measure_growth
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.bench.timer import Contestant, ContestantFailure, Workload, ask_once
from convfirst_ext.ops import packed

CONTESTANTS = ("eager", "channels_last", "convfirst")


class Layer(NamedTuple):
    """A convolution, a transposed one, or the weight gradient of one."""

    name: str
    kind: str  # "padded", "dilated", "transposed", "weights"
    channels: int
    out_channels: int
    size: int
    kernel: int
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    batch: int = 16


LAYERS = [
    Layer("transposed k4 s2, 256 to 128, 16x16", "transposed", 256, 128, 16, 4, 2),
    Layer("transposed k4 s2, 64 to 3, 64x64", "transposed", 64, 3, 64, 4, 2),
    Layer("transposed depthwise k4 s2, 128, 28x28", "transposed", 128, 128, 28, 4, 2, groups=128),
    Layer("3x3 padded, 512 channels, 7x7", "padded", 512, 512, 7, 3),
    Layer("3x3 dilation 2, 64 channels, 56x56", "dilated", 64, 64, 56, 3, 1, 2, 2),
    Layer("weights of 3x3 s2, 64 to 128, 56x56", "weights", 64, 128, 56, 3, 2),
    Layer("weights of depthwise 5x5, 96, 28x28", "weights", 96, 96, 28, 5, 1, 2, groups=96),
]


def call_of(layer: Layer, contestant: str) -> Callable[[], torch.Tensor]:
    """Returns the layer's call; our weights are packed before it where a module would keep them packed."""
    torch.manual_seed(0)
    image = torch.randn(layer.batch, layer.channels, layer.size, layer.size)
    shape = (layer.out_channels, layer.channels // layer.groups, layer.kernel, layer.kernel)
    if layer.kind == "transposed":
        shape = (layer.channels, layer.out_channels // layer.groups, layer.kernel, layer.kernel)
    weight = torch.randn(shape)
    if contestant != "eager":
        image = image.contiguous(memory_format=torch.channels_last)
    ours = contestant == "convfirst"
    if contestant == "channels_last":
        weight = weight.contiguous(memory_format=torch.channels_last)
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups
    if layer.kind == "transposed":
        function = ops.split_conv_transpose2d if ours else F.conv_transpose2d
        return lambda: function(image, weight, None, stride, padding, 0, groups, dilation)
    if layer.kind == "weights":
        grad = torch.randn(F.conv2d(image, weight, None, stride, padding, dilation, groups).shape)
        grad = grad if contestant == "eager" else grad.contiguous(memory_format=torch.channels_last)
        if ours:
            return lambda: ops.strided_weight_grad(image, shape, grad, stride, padding, dilation, groups)
        arguments = (None, (stride,) * 2, (padding,) * 2, (dilation,) * 2, False, (0, 0), groups, [False, True, False])
        return lambda: torch.ops.aten.convolution_backward(grad, image, weight, *arguments)[1]
    if not ours:
        return lambda: F.conv2d(image, weight, None, stride, padding, dilation, groups)
    kept = packed.pack_weight(weight), packed.pack_bias(None, layer.out_channels)
    window = (None, (stride,) * 2, (padding,) * 4, (dilation,) * 2, groups, layer.out_channels, "identity")
    return lambda: packed.conv2d("trimmed", image, *kept, *window)


def build(layer: Layer, contestant: str, threads: int) -> Workload:
    """Returns the measurement for a process that started with ``ALLOCATOR`` in its environment."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    # Pages in the code and starts the threads, which are no workspace.
    call_of(layer._replace(batch=1, size=max(4, layer.kernel * layer.dilation)), contestant)()
    call = call_of(layer, contestant)

    def measure() -> dict[str, int] | None:
        peak = measure_growth(call)
        if peak is None:
            return None
        output = call()
        size = output.numel() * output.element_size()
        return {"output_bytes": size, "extra_bytes": max(0, peak.first - size)}

    return Workload(measure)


def main() -> None:
    """Measures and writes JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    os.environ.update(ALLOCATOR)  # of the processes that are started from here on
    file = ResultFile.create(options.output, "skipping_memory", settings={"threads": options.threads})
    table = Table("layer", "output MiB", *(f"{name}: beside it, MiB" for name in CONTESTANTS))
    for layer in track(LAYERS, "layers"):
        found: dict[str, Any] = {}
        for name in CONTESTANTS:
            try:
                found[name] = ask_once(Contestant(name, partial(build, layer, name, options.threads)))
            except ContestantFailure as failure:
                found[name] = {"error": str(failure)}
        file.add({"layer": layer._asdict(), "memory": found})
        sizes = [f"{found[name].get('extra_bytes', float('nan')) / 2**20:.2f}" for name in CONTESTANTS]
        table.add_row(layer.name, f"{found['eager'].get('output_bytes', 0) / 2**20:.2f}", *sizes)
    console = Console()
    console.print(table)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    main()
