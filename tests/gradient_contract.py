"""What every operator promises to autograd: torch's own gradients, whichever of its arguments want one."""

from collections.abc import Callable

import pytest
import torch
from contract import DTYPES, LAYOUTS, VIEWS, lay_out, on_every
from torch import Tensor

from convfirst_ext.testing import OpCase, assert_within


class GradientContract:
    """Subclasses set ``op``."""

    op: str

    @on_every(2)
    def test_gradients(self, case: OpCase) -> None:
        tensors = case.make(values="integers" if case.is_exact else "normal")
        layout = LAYOUTS[len(case.name) % 2]
        assert_gradients_close(gradients(case.run, lay_out(tensors, layout)), expected_gradients(case, tensors))

    @on_every(13)
    def test_gradients_of_views(self, case: OpCase) -> None:
        tensors = case.make(values="normal")
        expected = expected_gradients(case, tensors)
        for view in VIEWS:
            actual = gradients(lambda leaves, view=view: case.run({n: view(t) for n, t in leaves.items()}), tensors)
            assert_gradients_close(actual, expected)

    @on_every(23)
    def test_gradients_of_single_arguments(self, case: OpCase) -> None:
        tensors = case.make(values="normal")
        expected = expected_gradients(case, tensors)
        for name, tensor in tensors.items():
            leaf = tensor.clone().requires_grad_()
            output = case.run(tensors | {name: leaf})
            assert output.requires_grad
            (gradient,) = torch.autograd.grad(_loss(output), leaf)
            assert_gradients_close({name: gradient}, expected)

    @on_every(17)
    def test_results_do_not_depend_on_grad_mode(self, case: OpCase) -> None:
        for dtype in DTYPES:
            tensors = case.make(dtype, values="normal")
            reference = case.reference(tensors)
            leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
            output = case.run(leaves)
            if dtype == torch.float32:  # elsewhere every layer rounds its output
                assert_within(output, reference)
            for mode in (torch.no_grad(), torch.inference_mode()):
                with mode:
                    quiet = case.run(leaves)
                assert not quiet.requires_grad
                assert quiet.stride() == output.stride() and quiet.dtype == output.dtype
                assert_within(quiet, reference)

    @on_every(29)
    def test_half_precision_gradients(self, case: OpCase) -> None:
        """At the kinks of an activation rounding may flip a gradient, but a wrong one is wrong for all data."""
        for dtype in DTYPES[1:]:
            slack = 8 * torch.finfo(dtype).eps
            for seed in range(5):
                tensors = case.make(dtype, values="normal", seed=seed)
                try:
                    assert_gradients_close(gradients(case.run, tensors), expected_gradients(case, tensors), slack)
                    break
                except AssertionError:
                    if seed == 4:
                        raise

    @on_every(31)
    def test_second_gradients(self, case: OpCase) -> None:
        tensors = case.make(values="normal")
        if "hardsigmoid" in str(case.options):  # torch itself has no second derivative of it
            with pytest.raises(RuntimeError, match="not implemented"):
                second_gradients(case.run, tensors)
            return
        actual = second_gradients(case.run, tensors)
        wide = {name: tensor.double() for name, tensor in tensors.items()}
        expected = second_gradients(lambda leaves: case.reference(leaves).value, wide)
        assert_gradients_close(actual, expected, 2e-4)


def gradients(run: Callable[[dict[str, Tensor]], Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    return dict(zip(leaves, torch.autograd.grad(_loss(run(leaves)), list(leaves.values())), strict=True))


def expected_gradients(case: OpCase, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    return gradients(lambda leaves: case.reference(leaves).value, wide)


def second_gradients(run: Callable[[dict[str, Tensor]], Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of the squared norm of the gradients of a loss that is not linear in the output."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    values = list(leaves.values())
    first = torch.autograd.grad(run(leaves).pow(2).sum(), values, create_graph=True)
    norm = torch.stack([gradient.pow(2).sum() for gradient in first]).sum()
    return dict(zip(leaves, torch.autograd.grad(norm, values), strict=True))


def assert_gradients_close(actual: dict[str, Tensor], expected: dict[str, Tensor], slack: float = 1e-5) -> None:
    """Compares by norm, relative to the size of the expected gradient or to elements of size one."""
    for name, gradient in actual.items():
        difference = (gradient.double() - expected[name]).norm().item()
        assert gradient.shape == expected[name].shape, name
        allowed = slack * (expected[name].norm().item() + gradient.numel() ** 0.5)
        assert difference <= allowed, f"{name}: off by {difference:.3g}, allowed {allowed:.3g}"


def _loss(output: Tensor) -> Tensor:
    """A weighted sum whose gradient is made of small integers."""
    weights = torch.arange(output.numel(), dtype=torch.int64).remainder(7).sub(3)
    return (output * weights.view(output.shape)).sum()
