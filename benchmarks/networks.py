"""How fast are whole networks, against every peer in the same run? ``python -m benchmarks.networks``."""

from __future__ import annotations

import argparse
import sys

from benchmarks import RESULTS
from convfirst_ext.bench.comparison import run_comparison
from convfirst_ext.bench.network_cases import MODELS, network_cases
from convfirst_ext.bench.options import Options, add_arguments
from convfirst_ext.bench.peers import RUNTIMES


def main() -> None:
    """Times networks and writes JSON, a table and a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm names")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    # The layout of a three-channel image is nothing beside a network, so OpenVINO runs once.
    runtimes = [name for name in RUNTIMES if name != "openvino_nhwc"]
    add_arguments(parser, batch=[1, 16], runtimes=runtimes, output=RESULTS)
    options = parser.parse_args()
    try:
        run_comparison("networks", network_cases(options.models, options.batch, options.size), Options.of(options))
    except ValueError as error:
        sys.exit(f"benchmarks.networks: {error}")


if __name__ == "__main__":
    main()
