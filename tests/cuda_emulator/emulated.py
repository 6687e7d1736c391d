"""Compiles the CUDA kernels and their operators for the emulator, once, and loads them."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
FLAGS = ("-std=c++17", "-O1", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
DEFINITIONS = (
    "-DCONVFIRST_EMULATE",
    "-DCONVFIRST_NAMESPACE=convfirst_emulated",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
)


class Unavailable(Exception):
    """What is missing on this machine, in words."""


def cuda_headers() -> Path:
    """The folder of cuda_fp16.h: a toolkit's, or that of the packages which torch's CUDA builds bring along."""
    homes = [Path(os.environ[name]) / "include" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    homes.append(Path("/usr/local/cuda/include"))
    for entry in sys.path:
        homes += sorted(Path(entry).glob("nvidia/*/include"))
    for home in homes:
        if (home / "cuda_fp16.h").exists() and (home / "vector_types.h").exists():
            return home
    raise Unavailable("no cuda_fp16.h: neither a CUDA toolkit nor the package nvidia-cuda-runtime is here")


def sources() -> list[Path]:
    folders = (HERE, CSRC / "cuda")
    found = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".cu", ".cpp"))
    return [*found, CSRC / "ops.cpp"]


def build() -> Path:
    """The emulated library, compiled anew only where a source, the compiler or torch has changed."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise Unavailable("no g++")
    headers = cuda_headers()
    path = Path(tempfile.gettempdir()) / f"convfirst-emulator-{os.getuid()}-{_digest(compiler, headers)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="convfirst-emulator-") as work:
            os.replace(_compile(compiler, headers, Path(work)), path)
    return path


def _digest(compiler: str, headers: Path) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    state = hashlib.sha256("\n".join([version, str(headers), torch.__version__, str(TORCH), *FLAGS]).encode())
    for path in sorted([*HERE.rglob("*"), *CSRC.glob("*.*"), *(CSRC / "cuda").rglob("*")]):
        if path.suffix in (".cpp", ".h", ".cu", ".cuh"):
            state.update(str(path).encode() + path.read_bytes())
    return state.hexdigest()[:16]


def _compile(compiler: str, headers: Path, work: Path) -> Path:
    flags = [*FLAGS, *DEFINITIONS, f"-I{CSRC}", f"-I{HERE}"]
    folders = [headers, TORCH / "include", HERE / "headers"]
    flags += [part for folder in folders for part in ("-isystem", str(folder))]

    def compile_one(source: Path) -> str:
        target = work / f"{source.parent.name}-{source.stem}{source.suffix[1:]}.o"
        _run([compiler, *flags, "-x", "c++", "-c", str(source), "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compile_one, sources()))
    library = work / "emulated.so"
    torch_library = [f"-L{TORCH / 'lib'}", "-ltorch_cpu"]
    _run([compiler, "-shared", "-o", str(library), *objects, *torch_library, "-Wl,--no-undefined", "-lc10"])
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def load() -> ctypes.CDLL:
    """The library; its operators are ``torch.ops.convfirst_emulated``."""
    path = build()
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))
