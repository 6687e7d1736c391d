"""The judge is judged: its bounds catch the mistakes that kernels make, and its data is what it says."""

import pytest
import torch

from convfirst_ext import ops
from convfirst_ext.testing import CASES, OPERATORS, OpCase, assert_exact, assert_within, padding_sides, sample
from convfirst_ext.testing.bounded import Bounded, activate, convolve, exact, rounding

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# What is no 2-D convolution of an image: its own test file holds its cases.
WITH_OWN_CASES = {"conv1d", "conv_transpose1d", "conv_transpose2d", "convfirst", "strided_weight_grad"}


def test_every_public_operator_has_cases() -> None:
    functions = {name for name in ops.__all__ if callable(getattr(ops, name)) and name.islower()}
    assert functions - WITH_OWN_CASES == set(OPERATORS) == set(CASES)
    assert all(len(cases) > 100 for cases in CASES.values())
    assert {case.op for case in sample(10)} == set(OPERATORS)


@pytest.mark.parametrize("case", sample(20), ids=str)
def test_data_is_repeatable_and_exact_in_every_dtype(case: OpCase) -> None:
    tensors = case.make()
    for dtype in DTYPES:
        again = case.make(dtype)
        assert all(torch.equal(again[name].float(), tensors[name]) for name in tensors)
        assert {name: tuple(tensor.shape) for name, tensor in again.items()} == case.shapes
    other = case.make(seed=1)
    assert any(not torch.equal(other[name], tensors[name]) for name in tensors) or case.shapes["input"][0] == 0
    if case.is_exact:
        assert case.reference(tensors).value.abs().max().item() < 2**24 if case.shapes["input"][0] else True


@pytest.mark.parametrize("case", sample(20), ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_mistakes_are_caught(case: OpCase, dtype: torch.dtype) -> None:
    tensors = case.make(dtype, values="normal")
    reference = case.reference(tensors)
    if reference.value.numel() == 0:
        return
    right = reference.value.to(dtype)
    assert_within(right, reference)
    typical = reference.value.pow(2).mean().sqrt().item()
    mistake = max(0.02 * typical, 4 * torch.finfo(dtype).eps * reference.value.abs().max().item(), 1e-5)
    for wrong in (right + mistake, _with_one_changed(right, mistake), _with_one_changed(right, float("nan"))):
        with pytest.raises(AssertionError, match="out of bounds"):
            assert_within(wrong.to(dtype), reference)
        with pytest.raises(AssertionError, match="differ"):
            assert_exact(wrong.to(dtype), reference)
    with pytest.raises(AssertionError, match="shape"):
        assert_within(right[..., None], reference)


def _with_one_changed(tensor: torch.Tensor, by: float) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] += by
    return changed


def test_one_rounding_is_allowed_and_two_are_not() -> None:
    value = torch.tensor([1.0 + 2.0**-9], dtype=torch.float64)
    reference = Bounded(value, torch.zeros_like(value))
    assert_within(torch.tensor([1.0], dtype=torch.bfloat16), reference)
    with pytest.raises(AssertionError):
        assert_within(torch.tensor([1.0 + 2.0**-7], dtype=torch.bfloat16), reference)
    assert rounding(value, torch.float32).item() == 0.0
    assert rounding(torch.tensor([1e-9], dtype=torch.float64), torch.float16).item() == 2.0**-25


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_bounds_hold_for_torch_in_single_precision(name: str) -> None:
    image, weight, bias = torch.randn(2, 40, 9, 9), torch.randn(30, 40, 3, 3) / 20, torch.randn(30)
    reference = activate(convolve(exact(image), weight, bias), name)
    actual = ops.activation.apply_activation(name, torch.nn.functional.conv2d(image, weight, bias))
    assert_within(actual, reference)


def test_padding_in_every_form_is_sides() -> None:
    assert padding_sides(2, (3, 3), 1) == (2, 2, 2, 2)
    assert padding_sides((1, 2), (3, 3), 1) == (2, 2, 1, 1)
    assert padding_sides((1, 2, 3, 4), (3, 3), 1) == (1, 2, 3, 4)
    assert padding_sides("valid", (3, 3), 1) == (0, 0, 0, 0)
    assert padding_sides("same", (4, 3), (1, 2)) == (2, 2, 1, 2)
