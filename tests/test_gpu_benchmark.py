"""The one GPU command, as far as a machine without a GPU goes: its cases, its records, its budget."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_blocks, gpu_cases, gpu_timing
from convfirst_ext.bench.results import ResultFile

CEILINGS = gpu_timing.Ceilings(4e12, {"float16": 8e14, "bfloat16": 8e14, "float32": 6e13})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_and_is_content(tmp_path) -> None:
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path}; from benchmarks.gpu import main; main()"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stdout.startswith("nothing to run: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", [*gpu_cases.CASES[: -len(gpu_blocks.BLOCKS) : 3], *gpu_blocks.BLOCKS], ids=str)
def test_contestants_compute_the_same(case: gpu_cases.Case | gpu_blocks.BlockCase) -> None:
    contestants = gpu_cases.build(case.small, "cpu")
    assert list(contestants.calls) == ["channels_last", "inductor", "convfirst"]
    reference = contestants.reference()
    for name in ("channels_last", "convfirst"):
        torch.testing.assert_close(contestants.calls[name](), reference, rtol=1e-4, atol=1e-4)


def test_cases_are_named_once_and_count_right() -> None:
    assert len({str(case) for case in gpu_cases.CASES}) == len(gpu_cases.CASES)
    case = gpu_cases.Case("convfirst", 64, 64, width=8, expansion=6)
    pixels = 128 * 64 * 64
    assert case.flops == pixels * (2 * 9 * 8 * 64 + 2 * 2 * 64 * 384)
    assert case.bytes_moved == 2 * 2 * pixels * 64
    assert gpu_cases.Case("forward", 8, 9, stride=2).outputs == 128 * 8 * 25
    block = gpu_blocks.BlockCase("MBConv", 8, 16, 9, 4, blur=True)
    before, after = 128 * 81, 128 * 25
    assert block.flops == 2 * (before * (8 * 32 + 72 * 32) + after * 32 * 16)
    assert block.bytes_moved == 2 * (before * 8 + after * 16)
    block = gpu_blocks.BlockCase("ConvFirst", 8, 16, 9, 6, blur=True)
    assert block.flops == 2 * (before * 8 * 72 + after * (16 * 48 + 48 * 16))


def test_a_record_has_rates_and_the_share_of_the_roofline() -> None:
    case = gpu_cases.Case("forward", 144, 56)
    floor = case.bytes_moved / 4e12
    timings = {
        "channels_last": {"cold_us": 9e6 * floor, "graph_us": 8e6 * floor},
        "inductor": {"error": "no"},
        "convfirst": {"cold_us": 2e6 * floor, "graph_us": 1e6 * floor},
    }
    record = gpu.describe(case, timings, CEILINGS)
    assert record["roofline_percent"] == pytest.approx(50)
    assert record["speedup_cold"] == pytest.approx(4.5) and record["speedup_graph"] == pytest.approx(8)
    assert "50% of roofline, 4.50x" in gpu.line_of(record)
    assert "inductor failed (no)" in gpu.line_of(record)


def test_a_wrong_or_failing_contestant_is_not_timed() -> None:
    reference = torch.ones(4)
    assert "off by" in gpu.time_contestant(None, lambda: torch.zeros(4), reference, 1e-3)["error"]
    assert "off by" in gpu.time_contestant(None, lambda: torch.full((4,), float("nan")), reference, 1e-3)["error"]
    assert "ZeroDivisionError" in gpu.time_contestant(None, lambda: 1 / 0, reference, 1e-3)["error"]


def test_commands_keep_within_the_budget(tmp_path: Path) -> None:
    from rich.console import Console

    run = gpu.Run(ResultFile.create(tmp_path, "gpu"), 0.5, Console(quiet=True))
    assert run.command("quick", [sys.executable, "-c", "print('hello')"])
    assert not run.command("slow", [sys.executable, "-c", "import time; time.sleep(30)"])
    quick, slow = run.file.records
    assert quick["output"] == ["hello"] and slow["output"] == ["the budget is spent"] and slow["seconds"] < 5
