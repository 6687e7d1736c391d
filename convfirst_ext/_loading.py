"""Loads the operator library into torch and connects the CPU facts module to it."""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from convfirst_ext import _native


def _operator_library() -> Path:
    folder = Path(__file__).parent
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_ops{suffix}"
        if path.exists():
            return path
    raise ImportError(f"the operator library _ops is missing from {folder}; install the package with `pip install .`")


def _package_version() -> str:
    try:
        return version("convfirst_ext")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"


VERSION = _package_version()
OPERATOR_LIBRARY = _operator_library()
torch.ops.load_library(str(OPERATOR_LIBRARY))  # type: ignore[no-untyped-call]
_native.attach(str(OPERATOR_LIBRARY))
_native.cpu_info()  # a CONVFIRST_CPU_ISA that cannot be honoured fails here, not in the first call
