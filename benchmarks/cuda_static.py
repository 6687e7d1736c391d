"""What do the CUDA kernels take of a GPU? ``python -m benchmarks.cuda_static``.

Compiles every .cu for each compute capability, without a GPU, and reads what ptxas reports: registers, shared memory of
fixed size, spills, and how many warps registers and threads leave on a multiprocessor (the share of its limit). Dynamic
shared memory, which the launch decides, may leave fewer. Ends with an error where a kernel spills registers, because
spills are slow and always have a cure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from convfirst_ext.bench.results import ResultFile

CSRC = Path(__file__).resolve().parent.parent / "csrc"
ARCHS = ("80", "90a")

# Of a multiprocessor (CUDA programming guide, "Technical Specifications per Compute Capability").
REGISTERS, MOST_WARPS, WARP = 65536, 64, 32
REGISTERS_AT_A_TIME = 256  # of a warp

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
LIMITS = re.compile(r"\.entry (\w+)\(.*?\.maxntid (\d+)", re.DOTALL)


class Kernel(NamedTuple):
    """One kernel for one compute capability, as ptxas sees it."""

    source: str
    arch: str
    name: str
    threads: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    occupancy: float


class NoCompiler(Exception):
    """Why nothing can be compiled."""


def toolkit() -> Path:
    """The folder of nvcc and ptxas."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    found = shutil.which("nvcc")
    folders = [*(Path(home) / "bin" for home in homes), Path("/usr/local/cuda/bin")]
    folders += [Path(found).resolve().parent] if found else []
    for folder in folders:
        if (folder / "nvcc").exists() and (folder / "ptxas").exists():
            return folder
    raise NoCompiler("there is no nvcc: set CUDA_HOME to a CUDA toolkit")


def occupancy(threads: int, registers: int) -> float:
    """The share of a multiprocessor's warps that blocks of so many threads with so many registers each can fill."""
    warps = -(-threads // WARP)
    of_warp = -(-registers * WARP // REGISTERS_AT_A_TIME) * REGISTERS_AT_A_TIME
    blocks = min(MOST_WARPS // warps, REGISTERS // (of_warp * warps))
    return blocks * warps / MOST_WARPS


def compile_source(folder: Path, source: Path, arch: str) -> list[Kernel]:
    """The kernels of one source for one compute capability; raises RuntimeError with the compiler's words."""
    with tempfile.TemporaryDirectory() as work:
        ptx, cubin = Path(work) / "kernels.ptx", Path(work) / "kernels.cubin"
        flags = ["-std=c++17", "-O3", f"-I{CSRC}", f"-arch=compute_{arch}"]
        _run([folder / "nvcc", *flags, "-ptx", source, "-o", ptx])
        report = _run([folder / "ptxas", "-v", "-O3", f"-arch=sm_{arch}", ptx, "-o", cubin])
        threads = {name: int(count) for name, count in LIMITS.findall(ptx.read_text())}
    return list(read_report(report, source.name, arch, threads))


def read_report(report: str, source: str, arch: str, threads: dict[str, int]) -> Iterator[Kernel]:
    """The kernels in what ptxas printed."""
    for entry in ENTRY.finditer(report):
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        count, registers = threads[entry["name"]], int(entry["registers"])
        yield Kernel(
            source=source,
            arch=f"sm_{arch}",
            name=entry["name"],
            threads=count,
            registers=registers,
            shared_bytes=int(shared[1]) if shared else 0,
            spill_bytes=int(entry["stores"]) + int(entry["loads"]),
            occupancy=occupancy(count, registers),
        )


def readable(names: list[str]) -> list[str]:
    """C++ names without what all of them have, where a demangler is there."""
    filter_path = shutil.which("c++filt")
    if filter_path is None:
        return names
    text = subprocess.run([filter_path], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    plain = [re.sub(r"convfirst::cuda::|\(anonymous namespace\)::|^void ", "", line) for line in text.splitlines()]
    return [line.partition("(")[0] if ">(" not in line else line.partition(">(")[0] + ">" for line in plain]


def _run(command: list[Any]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout + done.stderr


def compile_all(folder: Path, archs: list[str], jobs: int) -> list[Kernel]:
    """Every kernel of csrc/cuda for every compute capability."""
    tasks = [(folder, source, arch) for arch in archs for source in sorted((CSRC / "cuda").glob("*.cu"))]
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        found = pool.map(lambda task: compile_source(*task), tasks)
        return [kernel for kernels in found for kernel in kernels]


def print_table(kernels: list[Kernel], names: list[str], console: Console) -> None:
    """One row a source and compute capability, and one for every kernel that spills."""
    table = Table("source", "for", "kernels", "registers", "occupancy", "spills, bytes")
    for source, arch in dict.fromkeys((kernel.source, kernel.arch) for kernel in kernels):
        group = [kernel for kernel in kernels if (kernel.source, kernel.arch) == (source, arch)]
        registers = sorted(kernel.registers for kernel in group)
        shares = sorted(round(100 * kernel.occupancy) for kernel in group)
        spills = sum(kernel.spill_bytes for kernel in group)
        between = f"{registers[0]} to {registers[-1]}", f"{shares[0]} to {shares[-1]} %"
        table.add_row(source, arch, str(len(group)), *between, str(spills))
    console.print(table)
    for kernel, name in zip(kernels, names, strict=True):
        if kernel.spill_bytes:
            console.print(f"[red]{name} for {kernel.arch} spills {kernel.spill_bytes} bytes[/red]", soft_wrap=True)


def main() -> None:
    """Compiles, writes JSON and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=list(ARCHS), help="compute capabilities, as nvcc names them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    console = Console()
    try:
        folder = toolkit()
    except NoCompiler as reason:
        console.print(f"nothing to check: {reason}", soft_wrap=True)
        return
    release = re.search(r"release (\S+),", _run([folder / "nvcc", "--version"]))
    kernels = compile_all(folder, options.archs, options.jobs)
    names = readable([kernel.name for kernel in kernels])
    file = ResultFile.create(options.output, "cuda_static", nvcc=release[1] if release else None)
    file.content["records"] = [kernel._asdict() | {"name": name} for kernel, name in zip(kernels, names, strict=True)]
    file.flush()
    print_table(kernels, names, console)
    console.print(f"[bold]{file.path}[/bold]", soft_wrap=True)
    spilling = sum(kernel.spill_bytes > 0 for kernel in kernels)
    if spilling:
        raise SystemExit(f"{spilling} of {len(kernels)} kernels spill registers")


if __name__ == "__main__":
    main()
