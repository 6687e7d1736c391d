"""How fast are zero-skipping gradients and padded layers, against torch's? ``python -m benchmarks.against_torch``.

Both are torch operators on torch's threads, so they take turns in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from convfirst_ext import analysis, ops
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.ops import gradients, packed

TURN_SECONDS = 0.15


class Layer(NamedTuple):
    """A convolution whose gradients or output are timed."""

    name: str
    channels: int
    out_channels: int
    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    batch: int = 16

    @property
    def padding(self) -> int:
        """Half of the dilated kernel."""
        return self.dilation * (self.kernel // 2)


# The paper's claim: skipping padding pays on small maps with many channels.
PADDED = [
    Layer(f"3x3 on {size}x{size}, {channels} channels, b{batch}", channels, channels, size, 3, batch=batch)
    for channels in (64, 512)
    for batch in (1, 16)
    for size in (1, 2, 4, 7, 14, 28, 56)
    if channels * size <= 64 * 56
]
LAYERS = [
    Layer("3x3 s2 64 to 128", 64, 128, 56, 3, 2),
    Layer("3x3 s2 128 to 256", 128, 256, 28, 3, 2),
    Layer("3x3 s2 256 to 512", 256, 512, 14, 3, 2),
    Layer("5x5 s2 64 to 128", 64, 128, 28, 5, 2),
    Layer("3x3 dilation 2", 64, 64, 28, 3, 1, 2),
    Layer("3x3 dilation 4", 64, 64, 28, 3, 1, 4),
    Layer("depthwise 5x5", 96, 96, 28, 5, groups=96),
    Layer("depthwise 7x7", 96, 96, 28, 7, groups=96),
    Layer("depthwise 5x5 s2", 96, 96, 28, 5, 2, groups=96),
    Layer("depthwise 3x3 dilation 2", 96, 96, 28, 3, 1, 2, 96),
]


def contestants(layer: Layer) -> dict[str, dict[str, Callable[[], object]]]:
    """Returns, for the gradient of data and of weights, what each contestant calls."""
    image, weight = tensors_of(layer)
    stride, pad, dilation = (layer.stride,) * 2, (layer.padding,) * 2, (layer.dilation,) * 2
    grad = torch.randn_like(F.conv2d(image, weight, None, stride, pad, dilation, layer.groups))
    dense = [t.contiguous(memory_format=torch.channels_last) for t in (grad, image, weight)]
    window = stride, (layer.padding,) * 4, dilation, layer.groups

    def stock(tensors: list[Tensor], wanted: list[bool]) -> Callable[[], object]:
        arguments = (None, stride, pad, dilation, False, (0, 0), layer.groups, wanted)
        return lambda: torch.ops.aten.convolution_backward(*tensors, *arguments)

    calls = {}
    for kind, wanted in (("data", [True, False, False]), ("weights", [False, True, False])):
        calls[kind] = {
            "eager": stock([grad, image, weight], wanted),
            "channels_last": stock(dense, wanted),
        }
    size = image.shape[2:]
    calls["data"]["convfirst"] = lambda: gradients.input_gradient(dense[0], weight, size, *window)
    calls["weights"]["convfirst"] = lambda: gradients.weight_gradient(dense[1], dense[0], weight.shape[2:], *window)
    return calls


def forward_contestants(layer: Layer) -> dict[str, dict[str, Callable[[], object]]]:
    """Returns what each contestant calls for the layer's output; our weights are packed once, as for inference.

    "convfirst" is the kernel that ``optimize`` takes, "trimmed" the one that skips the padding.
    """
    image, weight = tensors_of(layer)
    dense = [t.contiguous(memory_format=torch.channels_last) for t in (image, weight)]
    pad = layer.padding
    arguments = (None, (1, 1), (pad,) * 4, (1, 1), 1, layer.out_channels, "identity")
    bias = packed.pack_bias(None, layer.out_channels)
    kernel = ops.selection.choose_kernel(weight.shape, groups=1, padded=True, packed=True).kernel or "dense"
    trimmed, chosen = packed.pack_weight(weight), packed.pack_weight_for(kernel, weight)
    return {
        "forward": {
            "eager": lambda: F.conv2d(image, weight, padding=pad),
            "channels_last": lambda: F.conv2d(*dense, padding=pad),
            "trimmed": lambda: packed.conv2d("trimmed", dense[0], trimmed, bias, *arguments),
            "convfirst": lambda: packed.conv2d(kernel, dense[0], chosen, bias, *arguments),
        }
    }


def tensors_of(layer: Layer) -> tuple[Tensor, Tensor]:
    """Returns a random image and weight."""
    image = torch.randn(layer.batch, layer.channels, layer.size, layer.size)
    return image, torch.randn(layer.out_channels, layer.channels // layer.groups, layer.kernel, layer.kernel)


def time_in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Returns minimum and median milliseconds of each call over all rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            end = time.perf_counter() + TURN_SECONDS
            while time.perf_counter() < end:
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"min_ms": min(t), "median_ms": statistics.median(t)} for name, t in times.items()}


def plot_sizes(records: list[dict[str, Any]], path: Path) -> None:
    """Draws how much faster than the best of torch's two layouts a padded layer is, by feature-map size."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    series: dict[tuple[int, int], list[tuple[int, float, float]]] = {}
    for record in records:
        if record["of"] != "forward":
            continue
        lowest = {name: timing["min_ms"] for name, timing in record["timings"].items()}
        best = min(lowest["eager"], lowest["channels_last"])
        key = record["layer"]["channels"], record["layer"]["batch"]
        point = record["layer"]["size"], best / lowest["convfirst"], best / lowest["trimmed"]
        series.setdefault(key, []).append(point)
    for number, (marker, ((channels, batch), points)) in enumerate(zip("osD^", series.items(), strict=False)):
        sizes, chosen, trimmed = zip(*points, strict=True)
        label, style = f"{channels} channels, batch {batch}", {"marker": marker, "color": f"C{number}"}
        axes.plot(sizes, chosen, label=f"{label}, Winograd", **style)
        axes.plot(sizes, trimmed, label=f"{label}, padding skipped", linestyle="--", **style)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="feature-map size, pixels a side", ylabel="torch's best time / ours")
    ticks = sorted({size for points in series.values() for size, *_ in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title("3x3 convolution, padding 1")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Times every layer and writes JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--rounds", type=int, default=8, help="turns each contestant gets")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {"threads": options.threads, "rounds": options.rounds, "turn_seconds": TURN_SECONDS}
    file = ResultFile.create(options.output, "against_torch", settings=settings)
    table = Table(
        "layer", "of", "eager ms", "channels_last ms", "trimmed ms", "convfirst ms", "over the best", "zeros saved"
    )
    jobs = [(layer, contestants) for layer in LAYERS] + [(layer, forward_contestants) for layer in PADDED]
    for layer, make in track(jobs, "layers"):
        torch.manual_seed(0)
        image, weight = (tuple(tensor.shape) for tensor in tensors_of(layer))
        count = analysis.conv2d_multiply_adds if make is forward_contestants else analysis.weight_grad_multiply_adds
        work = count(image, weight, layer.stride, layer.padding, layer.dilation)
        for kind, calls in make(layer).items():
            times = time_in_turns(calls, options.rounds)
            file.add({"layer": layer._asdict(), "of": kind, "timings": times, "zeros_saved": work.saved})
            lowest = {name: figures["min_ms"] for name, figures in times.items()}
            best = min(lowest["eager"], lowest["channels_last"]) / lowest["convfirst"]
            names = "eager", "channels_last", "trimmed", "convfirst"
            milliseconds = [f"{lowest[name]:.2f}" if name in lowest else "" for name in names]
            table.add_row(layer.name, kind, *milliseconds, f"{best:.2f}", f"{work.saved:.0%}")
    console = Console()
    console.print(table)
    plot_path = file.path.with_suffix(".png")
    plot_sizes(file.records, plot_path)
    for path in (plot_path, file.path):
        console.print(f"[bold]{path}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    main()
