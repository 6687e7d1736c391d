"""Builds the operator library, its CPU facts module, the CUDA kernels where that is possible, and the Python package.

CONVFIRST_CUDA=0 leaves the CUDA kernels out, 1 fails where they cannot be built; CONVFIRST_CUDA_ARCHS names the compute
capabilities, "80;90" where it is not set (newer ones run the last one's PTX). CONVFIRST_SANITIZE is what goes behind
-fsanitize=, as "address,undefined": a build for .ci/sanitize, without CUDA.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pybind11
import torch
from setuptools import Extension, setup

ROOT = Path(__file__).parent
TORCH = Path(torch.__file__).parent

# One build serves every torch from here on: only the stable ABI is used.
TARGET_TORCH = "0x020b000000000000"

WARNINGS = ["-Wall", "-Wextra"] + ["-Werror"] * (os.environ.get("CONVFIRST_WERROR") == "1")
SANITIZERS = os.environ.get("CONVFIRST_SANITIZE", "")
# No optimisations: the kernels, unrolled and instrumented, would take many minutes to compile.
SANITIZED = [f"-fsanitize={SANITIZERS}", "-fno-omit-frame-pointer", "-g1", "-O0"]
OPTIMIZED = SANITIZED if SANITIZERS else ["-O3", "-g0"]
# Messages name the file that a check stands in: relative to the root, wherever that is.
SHORT_PATHS = f"-ffile-prefix-map={ROOT.resolve()}/="
COMPILE_ARGS = ["-std=c++17", *OPTIMIZED, "-fvisibility=hidden", SHORT_PATHS, *WARNINGS]
LINK_ARGS = [f"-fsanitize={SANITIZERS}"] if SANITIZERS else []


def sources(*folders: str, suffix: str = "cpp") -> list[str]:
    """Every file of that suffix directly inside the folders, in a stable order."""
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).glob(f"*.{suffix}"))


def cuda_toolkit() -> Path | str:
    """The CUDA toolkit for this torch, or why there is none."""
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    found = shutil.which("nvcc")
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    # What lies on PATH may be a link or a script, with no headers beside it.
    homes = [*map(Path, named), Path("/usr/local/cuda"), *([Path(found).resolve().parents[1]] if found else [])]
    home = next((home for home in homes if (home / "bin/nvcc").exists() and (home / "include/cuda.h").exists()), None)
    if home is None:
        return "no nvcc was found: set CUDA_HOME to a CUDA toolkit"
    text = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)", text)
    if release is None or release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc in {home} is not of torch's CUDA {torch.version.cuda}"
    return home


def cuda_extension(home: Path) -> Extension:
    """The CUDA kernels and their operators; nvcc compiles kernels only, the rest is C++ on the stable ABI."""
    archs = os.environ.get("CONVFIRST_CUDA_ARCHS", "80;90").split(";")
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    newest = f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"
    visibility = ["-Xcompiler", ",".join(["-fPIC", "-fvisibility=hidden", *WARNINGS])]
    definitions = ["-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TARGET_TORCH}"]
    headers = ["-isystem", str(TORCH / "include"), "-isystem", str(home / "include")]
    libraries = next(path for path in (home / "lib64", home / "lib") if (path / "libcudart_static.a").exists())
    return Extension(
        "convfirst_ext._ops_cuda",
        sources=[*sources("csrc/cuda"), *sources("csrc/cuda", suffix="cu")],
        extra_compile_args={
            "cxx": [*COMPILE_ARGS, *definitions, *headers],
            "nvcc": ["-std=c++17", "-O3", *codes, newest, *visibility],
        },
        library_dirs=[str(TORCH / "lib"), str(libraries)],
        libraries=["torch_cpu", "torch_cuda", "cudart_static", "rt", "dl", "pthread"],
        language="c++",
    )


def cuda_extensions() -> list[Extension]:
    """The CUDA extension, or nothing and a line that says why."""
    wanted = os.environ.get("CONVFIRST_CUDA", "")
    if wanted == "0" or SANITIZERS:
        return []
    home = cuda_toolkit()
    if isinstance(home, Path):
        os.environ["CUDA_HOME"] = str(home)  # before torch's build helper looks for one
        return [cuda_extension(home)]
    if wanted == "1":
        raise SystemExit(f"CONVFIRST_CUDA is 1, but the CUDA kernels cannot be built: {home}")
    print(f"convfirst_ext: without CUDA kernels, because {home}")
    return []


operators = Extension(
    "convfirst_ext._ops",
    sources=["csrc/ops.cpp", *sources("csrc/cpu", "csrc/cpu/microkernels", "csrc/tiling")],
    # System headers: their warnings are not ours.
    extra_compile_args=[*COMPILE_ARGS, f"-DTORCH_TARGET_VERSION={TARGET_TORCH}", "-isystem", str(TORCH / "include")],
    extra_link_args=LINK_ARGS,
    library_dirs=[str(TORCH / "lib")],
    libraries=["torch_cpu"],
    language="c++",
)

native = Extension(
    "convfirst_ext._native",
    sources=["csrc/native.cpp", *sources("csrc/tiling")],
    include_dirs=[pybind11.get_include()],
    extra_compile_args=COMPILE_ARGS,
    extra_link_args=LINK_ARGS,
    libraries=["dl"],
    language="c++",
)

extensions = [operators, native, *cuda_extensions()]
from torch.utils.cpp_extension import BuildExtension  # noqa: E402  (it reads CUDA_HOME when it is imported)

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtension})
