"""No operator touches memory outside its tensors: they begin and end at pages that must not be accessed."""

import sys

import pytest
from sessions import run_cases

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="guard pages are made by Linux calls")


@pytest.mark.parametrize("side", ["begin", "end"])
def test_tensors_at_a_guard_page(side: str) -> None:
    run_cases("--every=5", f"--guard={side}")


@pytest.mark.slow
@pytest.mark.parametrize("side", ["begin", "end"])
def test_tensors_of_every_case_at_a_guard_page(side: str) -> None:
    run_cases(f"--guard={side}")


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_tensors_at_a_guard_page_with_other_kernels(isa: str) -> None:
    from convfirst_ext import _native

    if isa not in _native.cpu_info()["available"]:
        pytest.skip(f"this CPU has no {isa}")
    run_cases("--every=9", "--guard=end", CONVFIRST_CPU_ISA=isa)
