"""How many bytes does each block move behind the L2 cache, over those it must? ``python -m benchmarks.bytes_moved``.

A simulated cache (set-associative, least recently used, write-back) sees every block's own access trace, on one thread,
cold at its start. A block must move its input, output, weights and a residual from elsewhere, once each. All of it is
computed, not measured. Hardware also fetches lines before it overwrites them, unless it notices that all of them is
written; "with fetches" counts these too.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import timm
import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import convfirst_ext as cf
import convfirst_ext.models  # noqa: F401  (timm knows ConvFirstNet from here on)
from benchmarks import RESULTS
from benchmarks.access_trace import trace_of
from convfirst_ext.analysis.ceilings import load_native, measure_ceilings
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.fusion.tiles import tiles_of
from convfirst_ext.fusion.work import Call, packed_work
from convfirst_ext.nn import PackedChain, PackedMBConv
from convfirst_ext.nn.packed_module import PackedModule

MODELS = ("mobilenetv2_100", "efficientnet_b0", "convfirstnet_pico")
WAYS = 8


def blocks_of(name: str, batch: int, size: int) -> list[tuple[PackedModule, Call]]:
    """Returns every packed block of an optimized network with what it gets and gives."""
    model = cf.optimize(timm.create_model(name).eval())
    calls: list[tuple[PackedModule, Call]] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        calls.append((module, Call(args[0], args[1] if len(args) > 1 else None, output)))

    for module in model.modules():
        if isinstance(module, PackedModule):
            module.register_forward_hook(note)
        if isinstance(module, PackedChain):
            module.forward = module.run_stepwise
    with torch.no_grad():
        model(torch.rand(batch, 3, size, size))
    return calls


def moved_by(module: PackedModule, call: Call, cache_bytes: int) -> dict[str, Any] | None:
    """Returns the simulated and the unavoidable bytes of a block, None for a kind without a trace."""
    trace = trace_of(module, call)
    if trace is None:
        return None
    output = trace.output
    found = load_native().simulate_cache(trace.accesses, cache_bytes, WAYS, output.start, output.size)
    tiles = tiles_of(module, call.input) if isinstance(module, PackedMBConv) else None
    return {
        "block": module.source,
        "kernel": module.describe(),
        "shapes": [list(call.input.shape), list(call.output.shape)],
        "accesses": len(trace.accesses),
        "read": found["read"],
        "written": found["written"],
        "write_missed": found["write_missed"],
        "bound": packed_work(module, call, tiles).bytes_bound,
    }


def table_of(name: str, records: list[dict[str, Any]]) -> Table:
    """Returns a row a run of equal blocks, with the bytes of one, and the sums."""
    table = Table(title=f"{name}: bytes behind the L2 cache", box=box.SIMPLE_HEAD)
    table.add_column("block", no_wrap=True)
    for heading in ("times", "input", "bound MiB", "moved MiB", "moved / bound", "with fetches"):
        table.add_column(heading, justify="right")
    runs = itertools.groupby([*records, _total(records)], key=lambda r: [r[key] for key in r if key != "block"])
    for _, equal in runs:
        record, *others = equal
        moved, bound = record["read"] + record["written"], record["bound"]
        shape = "x".join(map(str, record["shapes"][0][1:])) if "shapes" in record else ""
        ratios = f"{moved / bound:.2f}", f"{(moved + record['write_missed']) / bound:.2f}"
        kernel = record["kernel"].replace("squeeze-excite", "SE").replace("group width", "gw")
        count = str(1 + len(others)) if shape else ""
        table.add_row(kernel, count, shape, f"{bound / 2**20:.2f}", f"{moved / 2**20:.2f}", *ratios)
    return table


def _total(records: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {key: sum(record[key] for record in records) for key in ("read", "written", "write_missed", "bound")}
    return {"kernel": "total", **sums}


def main() -> None:
    """Simulates and writes JSON and a table a network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = load_native().cpu_info()["l2_bytes"]
    settings = {**{k: v for k, v in vars(options).items() if k != "output"}, "cache_bytes": cache, "ways": WAYS}
    ceilings = measure_ceilings(1, 0.05).to_json()
    file = ResultFile.create(options.output, "bytes_moved", settings=settings, ceilings=ceilings)
    console = Console()
    for name in options.models:
        calls = blocks_of(name, options.batch, options.size)
        records = [moved_by(*call, cache) for call in track(calls, name, transient=True)]
        traced = [record for record in records if record is not None]
        file.add({"network": name, "blocks": traced, "without_trace": len(records) - len(traced)})
        console.print(table_of(name, traced))
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


if __name__ == "__main__":
    main()
