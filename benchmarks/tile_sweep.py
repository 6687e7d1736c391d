"""How near is the planner's tile to the best of a sweep? ``python -m benchmarks.tile_sweep``.

As the CS267 report swept its blocks: every layer runs with every tile of a grid and with the planner's, in turns; the
fastest run of each counts. A layer runs in a chain between two small products, as inside a network, where threads are
together already; its own time is taken.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import convfirst_ext as cf
from benchmarks import RESULTS
from convfirst_ext.analysis.ceilings import load_native, measure_ceilings
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.nn import PackedChain
from convfirst_ext.nn.packed_chain import Link
from convfirst_ext.nn.packed_module import PackedModule

Tile = dict[str, int]
LANES = 16
LEAST_ROUNDS = 3
_BATCH_SECONDS = 0.002  # calls between two changes of the tile


class Layer(NamedTuple):
    """A depthwise ("dw"), pointwise ("pw"), depthwise-separable ("dw+pw") or inverted residual ("mbconv") layer."""

    kind: str
    size: int
    channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    batch: int = 1

    @property
    def name(self) -> str:
        """As the table has it."""
        window = "" if self.kind == "pw" else f" {self.kernel}x{self.kernel}/{self.stride}"
        return f"{self.kind}{window} {self.channels}->{self.out_channels}, {self.size}x{self.size}, b{self.batch}"


LAYERS = [
    Layer("dw", 112, 64, 64),
    Layer("dw", 56, 128, 128, batch=4),
    Layer("dw", 28, 240, 240, 5),
    Layer("dw", 56, 96, 96, 7),
    Layer("dw", 14, 672, 672, 5, batch=4),
    Layer("dw", 112, 96, 96, 3, 2),
    Layer("pw", 112, 32, 64),
    Layer("pw", 56, 128, 128),
    Layer("pw", 28, 192, 768),
    Layer("pw", 14, 512, 512),
    Layer("pw", 14, 512, 512, batch=4),
    Layer("pw", 14, 672, 112, batch=16),
    Layer("pw", 7, 960, 160, batch=16),
    Layer("pw", 7, 320, 1280),
    Layer("pw", 7, 2048, 512, batch=8),
    Layer("dw+pw", 112, 32, 64),
    Layer("dw+pw", 28, 256, 256),
    Layer("dw+pw", 14, 512, 512, batch=4),
    Layer("mbconv", 112, 16, 24, 3, 2),
    Layer("mbconv", 56, 24, 24),
    Layer("mbconv", 28, 40, 40, 5),
    Layer("mbconv", 14, 96, 96),
    Layer("mbconv", 14, 112, 112, 5, batch=4),
    Layer("mbconv", 7, 160, 160),
]


def modules_of(layer: Layer) -> nn.Module:
    """Returns the stock layers, each with the ReLU6 that networks have."""
    hidden = layer.channels * (6 if layer.kind == "mbconv" else 1)
    window = dict(kernel_size=layer.kernel, stride=layer.stride, padding=layer.kernel // 2, groups=hidden)
    depthwise = [nn.Conv2d(hidden, hidden, **window), nn.ReLU6()]
    parts = {
        "dw": depthwise,
        "pw": [nn.Conv2d(layer.channels, layer.out_channels, 1), nn.ReLU6()],
        "dw+pw": [*depthwise, nn.Conv2d(hidden, layer.out_channels, 1), nn.ReLU6()],
        "mbconv": [
            nn.Conv2d(layer.channels, hidden, 1),
            nn.ReLU6(),
            *depthwise,
            nn.Conv2d(hidden, layer.out_channels, 1),
        ],
    }
    return nn.Sequential(*parts[layer.kind]).eval()


def grid_of(layer: Layer) -> Iterator[Tile]:
    """Gives the tiles of the sweep."""
    out = -(-layer.size // layer.stride)
    if layer.kind == "pw":
        pixels = layer.batch * out * out
        runs = [run for run in (14, 28, 56, 98, 112, 168, 196, 224, 336, 448, 896) if run <= pixels]
        yield from ({"run_pixels": run, "parts": parts} for run in runs for parts in (1, 2))
    elif layer.kind == "dw":
        yield from ({"band_rows": rows} for rows in sorted({1, 2, 4, 6, 8, 11, 14, 20, 28, 56, out}) if rows <= out)
    else:
        hidden = layer.channels * (6 if layer.kind == "mbconv" else 1)
        rows = sorted({1, 2, 4, 8, 14, out})
        blocks = sorted({1, 2, 4, 8, 16, -(-hidden // 16)})
        for keeps, row, block in itertools.product((1, -1), rows, blocks):
            if row <= out and block * 16 < hidden + 16:
                yield {"keeps_hidden": keeps, "row_group": row, "hidden_blocks": block}


def chain_of(layer: Layer) -> PackedChain:
    """Returns a chain of three, the layer in the middle."""
    before = nn.Conv2d(layer.channels, layer.channels, 1)
    after = nn.Conv2d(layer.out_channels, LANES, 1)
    links = []
    for index, part in enumerate((before, modules_of(layer), after)):
        packed = next(m for m in cf.optimize(part.eval()).modules() if isinstance(m, PackedModule))
        links.append(Link(packed, index, -1))
    return PackedChain(links)


def sweep(layer: Layer, seconds: float) -> dict[str, Any]:
    """Returns the layer's fastest run with the planner's tile and with every tile of the grid."""
    native, chain = load_native(), chain_of(layer)
    image = torch.rand(layer.batch, layer.channels, layer.size, layer.size)
    image = image.contiguous(memory_format=torch.channels_last)
    tiles: list[Tile] = [{}, *grid_of(layer)]
    fastest = [float("inf")] * len(tiles)
    try:
        with torch.no_grad():
            expected = chain(image)
            end = time.perf_counter() + seconds
            rounds = 0
            while rounds < LEAST_ROUNDS or time.perf_counter() < end:
                for index, tile in enumerate(tiles):
                    native.force_tiles(**tile)
                    fastest[index] = min(fastest[index], _fastest_run(chain, image))
                    if not rounds and not torch.allclose(chain(image), expected, rtol=1e-4, atol=1e-4):
                        raise RuntimeError(f"{layer.name} computes something else with tile {tile}")
                rounds += 1
    finally:
        native.force_tiles()
    best = min(range(1, len(tiles)), key=lambda index: fastest[index])
    return {
        "layer": layer._asdict(),
        "planned_ms": 1e3 * fastest[0],
        "best_ms": 1e3 * fastest[best],
        "best_tile": tiles[best],
        "sweep": [{"tile": tile, "ms": 1e3 * taken} for tile, taken in zip(tiles[1:], fastest[1:], strict=True)],
    }


def _fastest_run(chain: PackedChain, image: torch.Tensor) -> float:
    chain(image)  # the caches know the new tile
    fastest, end = float("inf"), time.perf_counter() + _BATCH_SECONDS
    while time.perf_counter() < end:
        fastest = min(fastest, chain.profile(image)[1][1])
    return fastest


def main() -> None:
    """Sweeps and writes JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["dw", "pw", "dw+pw", "mbconv"], help="kinds of layers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each layer")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    ceilings = measure_ceilings(options.threads).to_json()
    file = ResultFile.create(options.output, "tile_sweep", settings=settings, ceilings=ceilings)
    table = Table("layer", "planner ms", "best ms", "best tile", "planner / best")
    for layer in track([layer for layer in LAYERS if layer.kind in options.only], "layers"):
        record = sweep(layer, options.seconds)
        file.add(record)
        tile = ", ".join(f"{name} {size}" for name, size in record["best_tile"].items())
        ratio = record["planned_ms"] / record["best_ms"]
        table.add_row(layer.name, f"{record['planned_ms']:.4f}", f"{record['best_ms']:.4f}", tile, f"{ratio:.3f}")
    console = Console()
    console.print(table)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    main()
