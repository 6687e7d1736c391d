"""How fast are transposed convolutions without inserted zeros? ``python -m benchmarks.zero_skipping``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

from torch import nn

from benchmarks import RESULTS
from convfirst_ext.bench.cases import Case
from convfirst_ext.bench.comparison import run_comparison
from convfirst_ext.bench.options import Options, add_arguments
from convfirst_ext.bench.peers import RUNTIMES

TRANSPOSED = "transposed convolutions"


def transposed(
    channels: int, out_channels: int, kernel: int, padding: int, extra: int = 0, groups: int = 1
) -> nn.Module:
    """Returns one transposed convolution of stride 2 in a container, which tracers need."""
    layer = nn.ConvTranspose2d(channels, out_channels, kernel, 2, padding, extra, groups)
    return nn.Sequential(layer)


def dcgan_generator() -> nn.Module:
    """Returns the generator of DCGAN (Radford et al., 2016): 100 numbers to a 64x64 image."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(100, 1024, 4, bias=False), nn.BatchNorm2d(1024), nn.ReLU()]
    for channels in (1024, 512, 256):
        up = nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False)
        layers += [up, nn.BatchNorm2d(channels // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(128, 3, 4, 2, 1), nn.Tanh())


def unet_decoder() -> nn.Module:
    """Returns two stages of a U-Net's decoder: upsample by two, two 3x3 convolutions."""
    layers: list[nn.Module] = []
    for channels in (256, 128):
        half = channels // 2
        layers += [nn.ConvTranspose2d(channels, half, 2, 2), nn.Conv2d(half, half, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(half, half, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


_Row = tuple[str, str, int, int, int, Callable[[], nn.Module]]

# group, name, channels, image size, batch, module
_ROWS: list[_Row] = [
    (TRANSPOSED, "k4 s2 to 128", 256, 16, 16, partial(transposed, 256, 128, 4, 1)),
    (TRANSPOSED, "k4 s2 to 3", 64, 64, 16, partial(transposed, 64, 3, 4, 1)),
    (TRANSPOSED, "k5 s2 to 64", 128, 32, 16, partial(transposed, 128, 64, 5, 2, 1)),
    (TRANSPOSED, "k4 s2 to 512", 1024, 4, 16, partial(transposed, 1024, 512, 4, 1)),
    (TRANSPOSED, "k2 s2 to 64", 128, 28, 8, partial(transposed, 128, 64, 2, 0)),
    (TRANSPOSED, "depthwise k4 s2", 128, 28, 8, partial(transposed, 128, 128, 4, 1, 0, 128)),
    (TRANSPOSED, "DCGAN generator", 100, 1, 16, dcgan_generator),
    (TRANSPOSED, "U-Net decoder", 256, 16, 4, unet_decoder),
]


def zero_skipping_cases(batches: list[int] | None = None) -> list[Case]:
    """Returns every case at its own batch size, or at each of ``batches``."""
    cases = []
    for group, name, channels, size, batch, make in _ROWS:
        for number in batches or [batch]:
            title = f"{name}, {channels}x{size}x{size}, b{number}"
            cases.append(Case(title, make, (number, channels, size, size), channels_last_input=True, group=group))
    return cases


def main() -> None:
    """Times the layers and writes JSON, a table and a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, batch=None, runtimes=list(RUNTIMES), output=RESULTS)
    options = parser.parse_args()
    try:
        cases = zero_skipping_cases(options.batch)
        run_comparison("zero_skipping", cases, Options.of(options))
    except ValueError as error:
        sys.exit(f"benchmarks.zero_skipping: {error}")


if __name__ == "__main__":
    main()
