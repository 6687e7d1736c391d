"""Loads the operator library into torch and connects the CPU facts module to it."""

import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from convfirst_ext import _native

FOLDER = Path(__file__).parent


def _built(name: str) -> Path | None:
    paths = (FOLDER / f"{name}{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.exists()), None)


def _operator_library() -> Path:
    path = _built("_ops")
    if path is None:
        raise ImportError(f"the operator library _ops is missing from {FOLDER}; install the package by `pip install .`")
    return path


def _load_cuda_operators() -> Path | None:
    """The library of CUDA kernels, loaded; None where torch has no CUDA or the package was built without it."""
    path = _built("_ops_cuda") if torch.version.cuda is not None else None
    if path is None:
        return None
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:  # built for another CUDA than torch's
        warnings.warn(
            f"CUDA tensors go to torch's own kernels, because {path.name} does not load: {error}", stacklevel=2
        )
        return None
    return path


def _package_version() -> str:
    try:
        return version("convfirst_ext")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"


VERSION = _package_version()
OPERATOR_LIBRARY = _operator_library()
torch.ops.load_library(str(OPERATOR_LIBRARY))  # type: ignore[no-untyped-call]
CUDA_OPERATOR_LIBRARY = _load_cuda_operators()
_native.attach(str(OPERATOR_LIBRARY))
_native.cpu_info()  # a CONVFIRST_CPU_ISA that cannot be honoured fails here, not in the first call
