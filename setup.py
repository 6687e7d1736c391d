"""Builds the operator library, its CPU facts module and the Python package around them."""

from __future__ import annotations

import os
from pathlib import Path

import pybind11
import torch
from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension

ROOT = Path(__file__).parent
TORCH = Path(torch.__file__).parent

# One build serves every torch from here on: only the stable ABI is used.
TARGET_TORCH = "0x020b000000000000"

COMPILE_ARGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
if os.environ.get("CONVFIRST_WERROR") == "1":
    COMPILE_ARGS.append("-Werror")


def sources(*folders: str) -> list[str]:
    """Every .cpp directly inside the folders, in a stable order."""
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).glob("*.cpp"))


operators = Extension(
    "convfirst_ext._ops",
    sources=["csrc/ops.cpp", *sources("csrc/cpu", "csrc/cpu/microkernels", "csrc/tiling")],
    # System headers: their warnings are not ours.
    extra_compile_args=[*COMPILE_ARGS, f"-DTORCH_TARGET_VERSION={TARGET_TORCH}", "-isystem", str(TORCH / "include")],
    library_dirs=[str(TORCH / "lib")],
    libraries=["torch_cpu"],
    language="c++",
)

native = Extension(
    "convfirst_ext._native",
    sources=["csrc/native.cpp", *sources("csrc/tiling")],
    include_dirs=[pybind11.get_include()],
    extra_compile_args=COMPILE_ARGS,
    libraries=["dl"],
    language="c++",
)

setup(ext_modules=[operators, native], cmdclass={"build_ext": BuildExtension})
