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
FLAGS = ("-std=c++17", "-g0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
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


class Compiler:
    """Compiles sources for the emulator into objects of one folder."""

    def __init__(self, folder: Path, optimization: str = "-O1") -> None:
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if compiler is None:
            raise Unavailable("no g++")
        self.compiler, self.folder = compiler, folder
        folders = [cuda_headers(), TORCH / "include", HERE / "headers"]
        self.flags = [*FLAGS, optimization, *DEFINITIONS]
        self.includes = [f"-I{CSRC}", f"-I{HERE}", *(part for path in folders for part in ("-isystem", str(path)))]

    def compile(self, source: Path, *flags: str) -> str:
        """The object of a source; flags go first, so that their folders do."""
        target = self.folder / f"{source.parent.name}-{source.stem}{source.suffix[1:]}.o"
        self._run([*self.flags, *flags, *self.includes, "-x", "c++", "-c", str(source), "-o", str(target)])
        return str(target)

    def emulator(self) -> list[str]:
        """The objects of the emulator itself."""
        sources = [HERE / f"{name}.cpp" for name in ("collectives", "fibers", "scheduler", "shadow")]
        done = [self.folder / f"{HERE.name}-{source.stem}cpp.o" for source in sources]
        return [str(t) if t.exists() else self.compile(s) for s, t in zip(sources, done, strict=True)]

    def link(self, objects: list[str], library: Path) -> Path:
        """A shared library of objects."""
        torch_library = [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]
        self._run(["-shared", "-o", str(library), *objects, *torch_library, "-Wl,--no-undefined"])
        return library

    def state(self) -> str:
        """What decides how objects come out, apart from the sources."""
        version = subprocess.run([self.compiler, "--version"], capture_output=True, text=True, check=True).stdout
        return "\n".join([version, torch.__version__, *self.flags, *self.includes])

    def _run(self, arguments: list[str]) -> None:
        done = subprocess.run([self.compiler, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.compiler} {' '.join(arguments)}\n{done.stderr}")


def sources() -> list[Path]:
    """The emulator, its trial kernels, every CUDA kernel and operator, and the operators' schemas."""
    folders = (HERE, CSRC / "cuda")
    found = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".cu", ".cpp"))
    return [*found, CSRC / "ops.cpp"]


def build() -> Path:
    """The emulated library, compiled anew only where a source, the compiler or torch has changed."""
    with tempfile.TemporaryDirectory(prefix="convfirst-emulator-") as work:
        compiler = Compiler(Path(work))
        digest = hashlib.sha256(compiler.state().encode())
        for path in sorted([*HERE.rglob("*"), *CSRC.glob("*.*"), *CSRC.rglob("cuda/**/*"), *CSRC.glob("cpu/*/api.h")]):
            if path.suffix in (".cpp", ".h", ".cu", ".cuh") or path.name == "target":
                digest.update(str(path).encode() + path.read_bytes())
        path = _kept_folder() / f"{digest.hexdigest()[:16]}.so"
        if not path.exists():
            with ThreadPoolExecutor(max_workers=2) as pool:
                objects = list(pool.map(compiler.compile, sources()))
            for old in path.parent.glob("*.so"):
                old.unlink(missing_ok=True)
            shutil.copy(compiler.link(objects, Path(work) / "emulated.so"), path.with_suffix(f".{os.getpid()}"))
            os.replace(path.with_suffix(f".{os.getpid()}"), path)
        return path


def _kept_folder() -> Path:
    """Where the latest library is kept for the next run; nobody else may write there."""
    folder = Path(tempfile.gettempdir()) / f"convfirst-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise RuntimeError(f"{folder} belongs to somebody else or others may write to it")
    return folder


def load() -> ctypes.CDLL:
    """The library; its operators are ``torch.ops.convfirst_emulated``."""
    path = build()
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))
