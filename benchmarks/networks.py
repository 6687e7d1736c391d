"""How fast are whole networks, against every peer in the same run? ``python -m benchmarks.networks``."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from torch import nn

from benchmarks.cases import Case
from benchmarks.comparison import add_arguments, run_comparison
from benchmarks.peers import RUNTIMES

MODELS = (
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mnasnet_100",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "convnext_tiny",
)


def create_network(name: str) -> nn.Module:
    """Returns a timm network without pretrained weights."""
    import timm

    return timm.create_model(name, pretrained=False)


def network_cases(models: list[str], batches: list[int], size: int) -> list[Case]:
    """Returns one case a network and batch, all batches of a network together.

    Raises:
        ValueError: timm has no such network, or the size is too small for one.
    """
    import timm

    for name in models:
        if not timm.is_model(name):
            raise ValueError(f"--models must be names timm knows, got '{name}'")
    if size < 32:
        raise ValueError(f"--size must be at least 32, got {size}")
    return [Case(name, partial(create_network, name), (batch, 3, size, size)) for name in models for batch in batches]


def main() -> None:
    """Times networks and writes JSON, a table and a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm names")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    # The layout of a three-channel image is nothing beside a network, so OpenVINO runs once.
    add_arguments(parser, batch=[1, 16], runtimes=[name for name in RUNTIMES if name != "openvino_nhwc"])
    options = parser.parse_args()
    try:
        run_comparison("networks", network_cases(options.models, options.batch, options.size), options)
    except ValueError as error:
        sys.exit(f"benchmarks.networks: {error}")


if __name__ == "__main__":
    main()
