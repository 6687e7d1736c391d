"""The installed package is tested, seeds are fixed, and every contract class gets the cases of its operator."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when torch loads OpenMP: workers that wait must not spin on cores that other processes need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

# Behind everything else: `benchmarks` is found, and the installed convfirst_ext is not hidden by its sources.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT] + [str(ROOT)]


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _fixed_seed_and_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.cls is None or "case" not in metafunc.fixturenames:
        return
    from convfirst_ext.testing import CASES

    every = getattr(metafunc.function, "every", 1)
    cases = CASES[metafunc.cls.op][::every]
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])
