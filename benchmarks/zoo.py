"""Does every network of timm and torchvision keep its results? ``python -m benchmarks.zoo``.

Every classifier that contains a convolution, with random weights and statistics, through ``optimize`` and ``patch``, a
process each: outputs, gradients of all parameters and the keys of the state_dict. ``--resume FILE`` goes on with an
interrupted sweep.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import RESULTS
from convfirst_ext.bench.results import ResultFile

SIZES = (64, 224)  # the second where a network does not take the first
TIMEOUT = 600


def networks() -> list[str]:
    """Names of all classifiers: timm's, then torchvision's after "tv:"."""
    import timm
    import torchvision

    import convfirst_ext.models  # noqa: F401  (timm knows ConvFirstNet from here on)

    return [*timm.list_models(), *(f"tv:{name}" for name in torchvision.models.list_models(module=torchvision.models))]


def is_convolutional(name: str, most_parameters: float) -> bool:
    """Whether a network contains a convolution beyond a patch embedding, and fits."""
    import torch
    from torch import nn

    from benchmarks.zoo_model import create

    with torch.device("meta"):
        try:
            model = create(name)
        except Exception:  # noqa: BLE001  (what cannot be made without memory is looked at in its own process)
            return True
    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    return len(convolutions) > 1 and sum(p.numel() for p in model.parameters()) <= most_parameters


def examine(name: str) -> dict[str, Any]:
    """What ``benchmarks.zoo_model`` finds about a network, or how it failed."""
    found: dict[str, Any] = {}
    for size in SIZES:
        command = [sys.executable, "-m", "benchmarks.zoo_model", name, str(size)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return {"passed": False, "failure": f"no result after {TIMEOUT} s", "size": size}
        if done.returncode == 0:
            return {**json.loads(done.stdout.splitlines()[-1]), "size": size}
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        found = {"passed": False, "failure": last[0][:300], "size": size}
    return found


def main() -> None:
    """Sweeps, writes JSON and prints what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="names; all where none is given")
    parser.add_argument("--sample", type=int, help="only so many, drawn with a fixed seed")
    parser.add_argument("--most-parameters", type=float, default=60e6, help="larger networks are left out")
    parser.add_argument("--resume", type=Path, help="results file to go on with")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for results")
    options = parser.parse_args()
    settings = {"sizes": list(SIZES), "most_parameters": options.most_parameters}
    names = options.models or networks()
    if options.sample is not None:
        names = random.Random(0).sample(names, min(options.sample, len(names)))
    if options.resume:
        file = ResultFile.resume(options.resume, "zoo", settings)
    else:
        file = ResultFile.create(options.output, "zoo", settings=settings)
    for name in track(names, "networks", console=Console(stderr=True)):
        if not file.has(model=name) and is_convolutional(name, options.most_parameters):
            file.add({"model": name, **examine(name)})
    report(file)


def report(file: ResultFile) -> None:
    """Prints how many passed, and every network that did not."""
    failed = [record for record in file.records if not record["passed"]]
    table = Table("network", "optimize", "gradients", "stock", "failure")
    for record in failed:
        errors = [record.get(key) for key in ("optimize_error", "gradient_error", "stock_gradient_error")]
        cells = ["" if error is None else f"{error:.1e}" for error in errors]
        table.add_row(record["model"], *cells, record.get("failure", ""))
    console = Console()
    if failed:
        console.print(table)
    console.print(f"{len(file.records) - len(failed)} of {len(file.records)} networks passed; {file.path}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
