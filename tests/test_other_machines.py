"""What this machine is not: the torch-free C++ built for aarch64 and run by an emulator, all C++ read by Clang."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from convfirst_ext import _native

ROOT = Path(__file__).resolve().parent.parent
TORCH = Path(torch.__file__).parent
FLAGS = ("-std=c++17", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
TARGET_TORCH = re.search(r'TARGET_TORCH = "(\w+)"', (ROOT / "setup.py").read_text())[1]  # type: ignore[index]

AARCH64_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
OTHER_COMPILERS = (AARCH64_COMPILER, "clang++", "g++-11")


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).glob("*.cpp"))


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def build_checks(compiler: str, optimization: str, folder: Path) -> Path:
    """The program of other_machines/check_kernels.cpp, with all microkernels and planners."""
    programs = [ROOT / "tests/other_machines/check_kernels.cpp"]

    def compile(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        run(compiler, *FLAGS, optimization, f"-I{ROOT / 'csrc'}", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compile, programs + sources("csrc/cpu/microkernels", "csrc/tiling")))
    program = folder / "check_kernels"
    run(compiler, "-static", *objects, "-o", program)  # static: the emulator needs no libraries of that machine
    return program


def assert_exact(lines: list[list[str]]) -> None:
    """Every portable kernel that this machine lists was there, and exact."""
    errors = {(isa, name): error for word, isa, name, error in (line for line in lines if line[0] == "kernel")}
    assert errors == {("portable", name): "0" for name in _native.list_microkernels("portable")}


def assert_planned_as_here(lines: list[list[str]]) -> None:
    blocks, bands = ([line[1:] for line in lines if line[0] == word] for word in ("block", "bands"))
    assert len(blocks) == len(bands) == 24
    for size, channels, stride, threads, *plan in blocks:
        width = int(channels)
        here = _native.plan_tiles(
            int(size), int(size), width, 6 * width, width, stride=int(stride), threads=int(threads)
        )
        assert plan == [str(here[key]) for key in ("order", "row_group", "strip_rows", "hidden_channels")]
    for size, channels, stride, threads, rows in bands:
        shape = (int(size), int(size), int(channels), int(channels), 3, int(stride), True)
        assert int(rows) == _native.plan_conv_tiles(*shape, threads=int(threads))["band_rows"]


@needs(AARCH64_COMPILER, EMULATOR)
@pytest.mark.parametrize(
    ("optimization", "seeds"), [("-O0", 2), pytest.param("-O3", 20, marks=pytest.mark.slow)], ids=["O0", "O3"]
)
def test_kernels_and_plans_of_aarch64(optimization: str, seeds: int, tmp_path: Path) -> None:
    program = build_checks(AARCH64_COMPILER, optimization, tmp_path)
    lines = [line.split() for line in run(EMULATOR, program, seeds).splitlines()]
    assert_exact(lines)
    assert_planned_as_here(lines)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [pytest.param(name, marks=needs(name)) for name in OTHER_COMPILERS])
def test_other_compilers_take_every_file_without_a_warning(compiler: str) -> None:
    torch_headers = ("-isystem", TORCH / "include", f"-DTORCH_TARGET_VERSION={TARGET_TORCH}")
    files = sources("csrc", "csrc/cpu", "csrc/cpu/microkernels", "csrc/tiling")
    files.remove(ROOT / "csrc/native.cpp")  # its headers are those of this machine's Python

    def read(source: Path) -> None:
        run(compiler, *FLAGS, "-fsyntax-only", *torch_headers, source)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(read, files))


def test_a_kernel_that_is_missing_or_wrong_elsewhere_is_told() -> None:
    good = [["kernel", "portable", name, "0"] for name in _native.list_microkernels("portable")]
    assert_exact(good)
    for lines in (good[1:], [*good[:-1], [*good[-1][:3], "0.5"]]):
        with pytest.raises(AssertionError):
            assert_exact(lines)
