"""What does a call cost beside its work: does time grow with it, is memory bounded? ``python -m benchmarks.cost``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import RESULTS
from benchmarks.cost_parts import PARTS, QUICK, Record, Scale, Setting
from benchmarks.cost_report import plot_figures, print_figures
from convfirst_ext.bench.network_cases import network_cases
from convfirst_ext.bench.peers import check_names
from convfirst_ext.bench.results import ResultFile

MODELS = ("tf_efficientnet_lite0", "mobilenetv2_100")


def measure(file: ResultFile, names: list[str], models: list[str], threads: int, scale: Scale) -> None:
    """Runs the parts and adds their records to the file, which is written after each."""
    jobs = [(name, model) for name in names for model in (models if PARTS[name].per_network else [""])]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # auto_refresh would draw from a thread while a contestant is being timed.
    with Progress(*columns, auto_refresh=False) as progress:
        bar = progress.add_task("starting", total=len(jobs))
        for name, model in jobs:
            title = f"{name} {model}".strip()

            def tell(text: str, title: str = title) -> None:
                progress.update(bar, description=f"{title}, {text}", refresh=True)

            for record in PARTS[name].measure(Setting(model, threads, scale, tell)):
                file.add(_titled(name, model, record))
            progress.update(bar, advance=1, refresh=True)


def _titled(name: str, model: str, record: Record) -> Record:
    return {"part": name, "model": model, **record}


def main() -> None:
    """Measures and writes JSON, a table and a plot."""
    options = _parse()
    names = options.only.split(",") if options.only else list(PARTS)
    models = options.models or list(MODELS[:1] if options.quick else MODELS)
    try:
        check_names("--only", names, list(PARTS))
        network_cases(models, [1], 224)  # says which name timm does not know
        if options.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {options.threads}")
    except ValueError as error:
        sys.exit(f"benchmarks.cost: {error}")
    console = Console()
    settings = {"threads": options.threads, "quick": options.quick, "only": names, "models": models}
    file = ResultFile.create(options.output, "cost", settings=settings)
    try:
        measure(file, names, models, options.threads, QUICK if options.quick else Scale())
    except KeyboardInterrupt:
        console.print(f"interrupted; {file.path} has what was measured", soft_wrap=True)
        sys.exit(130)
    print_figures(file.records, console)
    plot_path = file.path.with_suffix(".png")
    plot_figures(file.content, plot_path)
    for path in (plot_path, file.path):
        console.print(f"[bold]{path}[/bold]", soft_wrap=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="PART,PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--models", nargs="+", help=f"timm names; {' and '.join(MODELS)} without")
    parser.add_argument("--threads", type=int, default=2, help="of every runtime, but in the part threads")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny inputs, one network, few calls")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON and the plot")
    return parser.parse_args()


if __name__ == "__main__":
    main()
