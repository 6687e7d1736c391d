"""Every microkernel of every instruction set this CPU has, and the operators on top of them."""

import json

import pytest
from sessions import run_cases, run_python

from convfirst_ext import _native

KNOWN = ("portable", "avx2", "avx512", "avx512fp16")
AVAILABLE = tuple(_native.cpu_info()["available"])
SEEDS = range(8)

MICROKERNELS = [
    pytest.param(isa, name, id=f"{isa}-{name}") for isa in AVAILABLE for name in _native.list_microkernels(isa)
]


def test_portable_kernels_are_everywhere_and_the_richest_set_is_in_use() -> None:
    info = _native.cpu_info()
    assert tuple(info["known"]) == KNOWN
    assert AVAILABLE[0] == "portable" and list(AVAILABLE) == [name for name in KNOWN if name in AVAILABLE]
    assert info["l1_bytes"] > 0 and info["l2_bytes"] > 0 and info["l3_bytes"] > 0


@pytest.mark.parametrize(("isa", "name"), MICROKERNELS)
def test_microkernel_is_exact_on_small_integers(isa: str, name: str) -> None:
    errors = {seed: _native.check_microkernel(isa, name, seed) for seed in SEEDS}
    assert errors == dict.fromkeys(SEEDS, 0.0)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_every_family_is_there(isa: str) -> None:
    names = _native.list_microkernels(isa)
    assert len(names) == len(set(names))
    families = ("gemm_", "depthwise_k", "depthwise_any", "grouped8_k", "grouped8_any", "gather_", "finish_", "widen_")
    for family in families:
        assert any(name.startswith(family) for name in names), family
    for row in ("gemm_1x1", "activate", "sum", "scale"):
        assert row in names


@pytest.mark.parametrize("isa", AVAILABLE)
def test_operators_under_every_instruction_set(isa: str) -> None:
    run_cases("--every=6", CONVFIRST_CPU_ISA=isa)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_results_that_pass_the_caches(isa: str) -> None:
    """As those of large layers do."""
    run_cases("--every=7", "--stream", CONVFIRST_CPU_ISA=isa)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_the_environment_variable_chooses(isa: str) -> None:
    code = "import json; from convfirst_ext import ops, _native; print(json.dumps(_native.cpu_info()))"
    session = run_python("-c", code, CONVFIRST_CPU_ISA=isa)
    assert json.loads(session.stdout)["isa"] == isa, session.stderr


@pytest.mark.parametrize("isa", [*(name for name in KNOWN if name not in AVAILABLE), "AVX2", "neon", "avx512 "])
def test_an_instruction_set_that_cannot_be_had_is_named_at_import(isa: str) -> None:
    session = run_python("-c", "import convfirst_ext", CONVFIRST_CPU_ISA=isa)
    assert session.returncode == 1
    complaint = session.stderr.strip().splitlines()[-1]
    assert complaint.startswith(("RuntimeError: ", "ImportError: "))
    assert "CONVFIRST_CPU_ISA" in complaint and f"'{isa}'" in complaint
    assert ", ".join(AVAILABLE) in complaint


def test_an_empty_variable_is_none() -> None:
    assert run_python("-c", "import convfirst_ext", CONVFIRST_CPU_ISA="").returncode == 0


def test_unknown_names_raise_value_error() -> None:
    with pytest.raises(ValueError, match="isa must be .* 'mmx'"):
        _native.list_microkernels("mmx")
    with pytest.raises(ValueError, match="isa must be .* 'mmx'"):
        _native.check_microkernel("mmx", "gemm_1x1", 0)
    with pytest.raises(ValueError, match="name must be .* 'gemm_0x0'"):
        _native.check_microkernel("portable", "gemm_0x0", 0)
    with pytest.raises(ValueError, match="name must be .* ''"):
        _native.time_microkernel("portable", "", 0.0)


def test_time_microkernel_counts_work() -> None:
    timing = _native.time_microkernel("portable", "gemm_2x1", 0.001)
    assert timing["ns_per_call"] > 0 and timing["flops_per_call"] > 0 and timing["bytes_per_call"] > 0
