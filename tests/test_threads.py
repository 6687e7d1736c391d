"""Results do not depend on the number of threads, nor on who else is calling."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from contract import DTYPES

from convfirst_ext.ops.selection import choose_kernel
from convfirst_ext.testing import CASES, OpCase, sample

# Every tenth case, and every case large enough to be shared in more than one way.
LARGE = [case for cases in CASES.values() for case in cases if torch.Size(case.shapes["input"]).numel() >= 10_000]
SAMPLE = list({str(case): case for case in [*sample(10), *LARGE]}.values())


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_any_number_of_threads_gives_the_same_bits(case: OpCase) -> None:
    for dtype in DTYPES:
        tensors = case.make(dtype, values="normal")
        results = []
        for threads in (1, 2, 3, 1, 7):
            torch.set_num_threads(threads)
            results.append(case.run(tensors))
        if _is_ours(case):
            assert all(torch.equal(results[0], result) for result in results[1:])


def _is_ours(case: OpCase) -> bool:
    """Whether the front door takes a kernel of this package: torch promises no such thing."""
    if case.op != "conv2d":
        return True
    options = {key: value for key, value in case.options.items() if key not in ("padding", "groups")}
    padded = bool(case.options.get("padding", 0))
    groups = case.options.get("groups", 1)
    options = {key: (value, value) if isinstance(value, int) else value for key, value in options.items()}
    return choose_kernel(case.shapes["weight"], groups=groups, padded=padded, **options).kernel is not None


def test_squeeze_excite_and_large_maps_are_among_them() -> None:
    assert any("squeeze_excite" in case.options for case in SAMPLE if case in LARGE)
    assert {case.op for case in LARGE} >= {"depthwise_conv2d", "depthwise_separable", "mbconv", "pointwise_conv2d"}


@pytest.fixture
def prepared() -> Iterator[list[tuple[OpCase, dict[str, torch.Tensor], torch.Tensor]]]:
    cases = [case for case in sample(25) if _is_ours(case)]
    tensors = [case.make(values="normal") for case in cases]
    yield [(case, given, case.run(given)) for case, given in zip(cases, tensors, strict=True)]


def test_repeated_calls_give_the_same_bits(prepared) -> None:
    for _ in range(3):
        for case, tensors, expected in reversed(prepared):
            assert torch.equal(case.run(tensors), expected)


@pytest.mark.parametrize("intra_op_threads", [1, 2])
def test_python_threads_call_at_the_same_time(prepared, intra_op_threads: int) -> None:
    def run_all(offset: int) -> list[bool]:
        torch.set_num_threads(intra_op_threads)
        turned = prepared[offset:] + prepared[:offset]
        return [torch.equal(case.run(tensors), expected) for case, tensors, expected in turned]

    with ThreadPoolExecutor(4) as pool:
        for outcome in pool.map(run_all, range(0, 16, 4)):
            assert all(outcome)
