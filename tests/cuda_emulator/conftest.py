"""Builds the emulated kernels once a session; skips with the reason where that is not possible."""

import ctypes

import pytest
from emulated import Unavailable, load


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    try:
        return load()
    except Unavailable as reason:
        pytest.skip(f"the CUDA kernels cannot be emulated here: {reason}")


@pytest.fixture(params=[0, 1], ids=["seed0", "seed1"])
def emulator(library: ctypes.CDLL, request: pytest.FixtureRequest) -> ctypes.CDLL:
    """The emulated kernels, with the order of threads and blocks that a seed gives."""
    library.emulator_set_seed(ctypes.c_uint64(request.param))
    return library
