"""Builds, tests and times the CUDA kernels on a machine with a GPU, in one go: ``python -m benchmarks.gpu``.

Steps: ``build`` (in place, where the CUDA kernels are not there), ``tests`` (``pytest -m cuda``), ``sanitizer``
(compute-sanitizer over small shapes), ``kernels`` (single layers and blocks against torch eager and Inductor, with a
cold L2 cache and under CUDA graphs) and ``networks``. Results are written after every case; no case starts when the
budget is spent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import RESULTS, gpu_blocks, gpu_cases, gpu_timing
from convfirst_ext.bench.results import ResultFile

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("build", "tests", "sanitizer", "kernels", "networks")
OURS = ("convfirst", "convfirst_passes")  # the second: in passes where the first is one cluster an image
LARGEST_ERROR = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}


class Run:
    """What all steps share: the file, the time left and the screen."""

    def __init__(self, file: ResultFile, budget: float, console: Console) -> None:
        self.file, self.console = file, console
        self.end = time.monotonic() + budget

    def left(self) -> float:
        """Seconds of the budget."""
        return self.end - time.monotonic()

    def command(self, step: str, arguments: list[str], **environment: str) -> bool:
        """Runs a command for as long as the budget allows and keeps its end; whether it ended well."""
        start = time.monotonic()
        try:
            limits = {"timeout": max(1.0, self.left()), "env": os.environ | environment}
            done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, **limits)
            code, text = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, text = -1, "the budget is spent"
        end = text.splitlines()[-20:]
        self.file.add({"step": step, "code": code, "seconds": time.monotonic() - start, "output": end})
        self.console.print(
            f"{step}: {'done' if code == 0 else f'failed ({code})'}: {end[-1] if end else ''}", soft_wrap=True
        )
        return code == 0


def build(run: Run) -> None:
    """Builds the CUDA kernels in place, unless they are there."""
    from convfirst_ext.ops import cuda

    if not cuda.REASON_AGAINST:
        run.file.add({"step": "build", "code": 0, "seconds": 0.0, "output": ["already built"]})
    elif run.command("build", [sys.executable, "setup.py", "build_ext", "--inplace"], CONVFIRST_CUDA="1"):
        raise SystemExit("built; run the same command again to use it")
    else:
        raise SystemExit("the CUDA kernels do not build; see the results file")


def tests(run: Run) -> None:
    """The tests that need a GPU."""
    run.command("tests", [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests/test_cuda.py"])


def sanitizer(run: Run) -> None:
    """Out-of-bounds accesses, uninitialised reads and races, on small shapes."""
    path = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(path).exists():
        run.file.add({"step": "sanitizer", "code": 0, "seconds": 0.0, "output": ["there is no compute-sanitizer"]})
        return
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "cuda", "-k", "small", "tests/test_cuda.py"]
    for tool in ("memcheck", "racecheck"):
        run.command(f"sanitizer {tool}", [path, "--tool", tool, "--error-exitcode", "9", *pytest],
                    PYTORCH_NO_CUDA_MEMORY_CACHING="1")  # fmt: skip


def time_contestant(
    clock: gpu_timing.Clock, call: Callable[[], Any], reference: torch.Tensor, limit: float
) -> dict[str, Any]:
    """Error and times of one contestant, or why it failed."""
    try:
        output = call()
        error = ((output.float() - reference).norm() / reference.norm()).item()
        if not error <= limit:
            return {"error": f"off by {error:.2g} of the result's norm"}
        timing: dict[str, Any] = {"relative_error": error, "cold_us": gpu_timing.median_us(clock.cold(call))}
    except Exception as failure:  # one contestant's failure must not end the run
        return {"error": f"{type(failure).__name__}: {failure}"}
    try:
        timing["graph_us"] = gpu_timing.median_us(clock.graphed(call))
    except Exception as failure:  # what cannot be captured still has its other time
        timing["graph_error"] = f"{type(failure).__name__}: {failure}"
    return timing


def kernels(run: Run, only: str = "") -> None:
    """Single layers, their gradients and blocks."""
    clock = gpu_timing.Clock(0.15)
    ceilings = gpu_timing.measure_ceilings(clock)
    run.file.content["ceilings"] = {
        "copy_tbps": ceilings.copy_bytes / 1e12,
        "tflops": {k: v / 1e12 for k, v in ceilings.flops.items()},
    }
    run.file.flush()
    for case in gpu_cases.CASES:
        if only not in str(case):
            continue
        if run.left() < 10:
            run.console.print("the budget is spent")
            return
        contestants = gpu_cases.build(case)
        reference = contestants.reference().float()
        limit = LARGEST_ERROR[case.dtype]
        timings = {name: time_contestant(clock, call, reference, limit) for name, call in contestants.calls.items()}
        record = describe(case, timings, ceilings)
        run.file.add(record)
        run.console.print(line_of(record), soft_wrap=True)
        del contestants, reference
        torch.cuda.empty_cache()


def describe(
    case: gpu_cases.Case | gpu_blocks.BlockCase, timings: dict[str, Any], ceilings: gpu_timing.Ceilings
) -> dict[str, Any]:
    """A case's record: times, and for ours the rates and the share of the roofline."""
    floor = ceilings.floor(case.bytes_moved, case.flops, case.dtype)
    record: dict[str, Any] = {"step": "kernels", "case": str(case), "timings": timings, "floor_us": floor * 1e6}
    ours = timings["convfirst"]
    if "cold_us" in ours:
        seconds = ours["cold_us"] * 1e-6
        record |= {
            "tbps": case.bytes_moved / seconds / 1e12,
            "tflops": case.flops / seconds / 1e12,
            "roofline_percent": 100 * floor / seconds,
        }
        for how in ("cold_us", "graph_us"):
            if how not in ours:
                continue
            peers = [peer[how] for name, peer in timings.items() if name not in OURS and how in peer]
            if peers:
                record[f"speedup_{how.removesuffix('_us')}"] = min(peers) / ours[how]
    return record


def line_of(record: dict[str, Any]) -> str:
    """A record in one line."""
    times = ", ".join(
        f"{name} {timing['cold_us']:.1f} us" if "cold_us" in timing else f"{name} failed ({timing['error'][:60]})"
        for name, timing in record["timings"].items()
    )
    share = f"; {record['roofline_percent']:.0f}% of roofline" if "roofline_percent" in record else ""
    speedup = f", {record['speedup_cold']:.2f}x" if "speedup_cold" in record else ""
    return f"{record['case']}: {times}{share}{speedup}"


def networks(run: Run) -> None:
    """ConvFirstNet-Tiny stock, under Inductor and optimized, and ConvNeXt-Tiny under Inductor; batch 128, float16."""
    import timm

    import convfirst_ext as cf
    import convfirst_ext.models  # noqa: F401  (registers ConvFirstNet with timm)

    clock = gpu_timing.Clock(0.5)
    image = torch.randn(128, 3, 224, 224, device="cuda").half().contiguous(memory_format=torch.channels_last)
    tiny = "convfirstnet_tiny"
    for name, how in (("convnext_tiny", "inductor"), (tiny, "stock"), (tiny, "inductor"), (tiny, "optimized")):
        if run.left() < 30:
            run.console.print("the budget is spent")
            return
        model = timm.create_model(name).eval().cuda().half().to(memory_format=torch.channels_last)
        model = cf.optimize(model) if how == "optimized" else model
        call = torch.compile(model, mode="max-autotune-no-cudagraphs") if how == "inductor" else model
        with torch.inference_mode():
            record = time_network(clock, lambda call=call: call(image))
        run.file.add({"step": "networks", "network": name, "how": how, **record})
        run.console.print(f"{name}, {how}: {record}", soft_wrap=True)


def time_network(clock: gpu_timing.Clock, call: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of a forward pass, or why it failed."""
    try:
        return {
            "cold_ms": gpu_timing.median_us(clock.cold(call)) / 1e3,
            "graph_ms": gpu_timing.median_us(clock.graphed(call)) / 1e3,
        }
    except Exception as failure:  # the other networks go on
        return {"error": f"{type(failure).__name__}: {failure}"}


def reason_against() -> str:
    """Why nothing can be run here, or nothing."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    return "" if torch.cuda.is_available() else "this machine has no CUDA device"


def main() -> None:
    """Runs the steps and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, help="steps to run")
    parser.add_argument("--cases", default="", help="time only the kernels whose name has this in it")
    parser.add_argument("--budget", type=float, default=540.0, metavar="SECONDS", help="start nothing after that")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    console = Console()
    reason = reason_against()
    if reason:
        console.print(f"nothing to run: {reason}", soft_wrap=True)
        return
    device = torch.cuda.get_device_properties(0)
    header = {"gpu": device.name, "capability": f"{device.major}.{device.minor}", "cuda": torch.version.cuda}
    header["driver"] = _driver()
    file = ResultFile.create(options.output, "gpu", settings={"budget": options.budget}, **header)
    run = Run(file, options.budget, console)
    steps: dict[str, Callable[[Run], None]] = {
        "build": build, "tests": tests, "sanitizer": sanitizer, "networks": networks,
        "kernels": lambda run: kernels(run, options.cases),
    }  # fmt: skip
    for step in STEPS:
        if step in options.only:
            steps[step](run)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


if __name__ == "__main__":
    main()
