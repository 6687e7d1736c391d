"""How exact are Winograd convolutions in float32? ``python -m benchmarks.winograd_error``.

Errors of normally distributed layers against float64: our kernels, a direct convolution, and F(4x4, 3x3) at the points
that are usual elsewhere, 0, +-1 and +-2, whose transforms and products are rounded to float32 here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from convfirst_ext import ops
from convfirst_ext.bench.results import ResultFile

CHANNELS = (16, 64, 256, 512)
OUTPUTS = 64
SIZE = 16

# B^T, 24 G and A^T of F(4x4, 3x3) at 0, 1, -1, 2, -2 and infinity.
_USUAL_INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
_USUAL_INPUT += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
_USUAL_FILTER = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
_USUAL_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def usual_points(image: Tensor, weight: Tensor) -> Tensor:
    """Returns the convolution, padded by 1, of an image whose sides are multiples of 4, at the usual points."""
    b, a = torch.tensor(_USUAL_INPUT).float(), torch.tensor(_USUAL_OUTPUT).float()
    g = torch.tensor(_USUAL_FILTER).double() / 24
    tiles = F.pad(image, (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4)
    values, weights = b @ tiles @ b.t(), (g @ weight.double() @ g.t()).float()
    sums = torch.zeros(len(image), len(weight), *values.shape[2:])
    for channel in range(image.shape[1]):  # one after the other, as the kernels add them
        sums += values[:, None, channel] * weights[None, :, channel, None, None]
    outputs = a @ sums @ a.t()
    return outputs.permute(0, 1, 2, 4, 3, 5).reshape(len(image), len(weight), *image.shape[2:])


def contestants(image: Tensor, weight: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Returns what computes the layer in float32."""
    return {
        "direct": lambda: ops.dense_conv2d(image, weight, padding=1),
        "F(2x2)": lambda: ops.winograd_conv2d(image, weight, padding=1, tile=2),
        "F(4x4)": lambda: ops.winograd_conv2d(image, weight, padding=1, tile=4),
        "F(4x4), usual points": lambda: usual_points(image, weight),
    }


def main() -> None:
    """Computes all errors and writes JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    file = ResultFile.create(options.output, "winograd_error", settings={"outputs": OUTPUTS, "size": SIZE})
    table = Table("channels", "kernel", "standard deviation", "largest")
    for channels in CHANNELS:
        torch.manual_seed(0)
        image = torch.randn(4, channels, SIZE, SIZE)
        weight = torch.randn(OUTPUTS, channels, 3, 3) / (9 * channels) ** 0.5
        exact = F.conv2d(image.double(), weight.double(), padding=1)
        for name, compute in contestants(image, weight).items():
            error = compute().double() - exact
            figures = {"deviation": error.std().item(), "largest": error.abs().max().item()}
            file.add({"channels": channels, "kernel": name, **figures})
            table.add_row(str(channels), name, f"{figures['deviation']:.1e}", f"{figures['largest']:.1e}")
    console = Console()
    console.print(table)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    main()
