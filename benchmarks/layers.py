"""How fast are layers and blocks, against every peer and the roofline? ``python -m benchmarks.layers``."""

from __future__ import annotations

import argparse
import sys

from benchmarks import RESULTS
from benchmarks.layer_cases import layer_cases
from convfirst_ext.bench.cases import Case
from convfirst_ext.bench.comparison import run_comparison
from convfirst_ext.bench.options import Options, add_arguments
from convfirst_ext.bench.peers import RUNTIMES


def choose_cases(wanted: list[str] | None, batches: list[int] | None) -> list[Case]:
    """Returns the cases whose name contains one of ``wanted``, or all.

    Raises:
        ValueError: a wanted text is in no case's name.
    """
    cases = list({case.name: case for case in layer_cases(batches)}.values())
    if not wanted:
        return cases
    for text in wanted:
        if not any(text in case.name for case in cases):
            raise ValueError(f"--cases must be parts of {', '.join(case.name for case in cases)}, got '{text}'")
    return [case for case in cases if any(text in case.name for text in wanted)]


def main() -> None:
    """Times layers and blocks and writes JSON, a table and a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", help="only cases whose name contains one of these")
    add_arguments(parser, batch=None, runtimes=list(RUNTIMES), output=RESULTS)
    options = parser.parse_args()
    try:
        run_comparison("layers", choose_cases(options.cases, options.batch), Options.of(options))
    except ValueError as error:
        sys.exit(f"benchmarks.layers: {error}")


if __name__ == "__main__":
    main()
