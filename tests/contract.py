"""What every operator promises, tested on its own list of cases: a test class names the operator and adds its own."""

import itertools
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.testing import CASES, Bounded, OpCase, assert_exact, assert_within, padding_sides

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
IMAGES = ("input", "residual")
SPATIAL_WEIGHTS = ("weight", "depthwise_weight", "conv_weight")

Test = TypeVar("Test", bound=Callable[..., None])


def on_every(step: int) -> Callable[[Test], Test]:
    """A test that takes only every ``step``-th case of the list."""

    def mark(test: Test) -> Test:
        test.every = step  # type: ignore[attr-defined]
        return test

    return mark


def lay_out(tensors: dict[str, Tensor], layout: torch.memory_format) -> dict[str, Tensor]:
    return {name: t.contiguous(memory_format=layout) if name in IMAGES else t for name, t in tensors.items()}


def cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def poisoned(case: OpCase, value: float) -> dict[str, Tensor]:
    """Integers, with ``value`` in the middle of the input."""
    tensors = case.make()
    if tensors["input"].numel():
        tensors["input"][tuple(size // 2 for size in tensors["input"].shape)] = value
    return tensors


def assert_right(case: OpCase, actual: Tensor, reference: Bounded) -> None:
    (assert_exact if case.is_exact else assert_within)(actual, reference)


class OpContract:
    """Subclasses set ``op``; every test that takes ``case`` runs on that operator's cases."""

    op: str

    def test_small_integers_in_every_dtype_and_layout(self, case: OpCase) -> None:
        tensors = case.make()
        reference = case.reference(tensors)
        for dtype, layout in itertools.product(DTYPES, LAYOUTS):
            actual = case.run(lay_out(cast(tensors, dtype), layout))
            assert actual.dtype == dtype
            assert_right(case, actual, reference)

    def test_random_values_within_the_stated_bound(self, case: OpCase) -> None:
        for dtype in DTYPES:
            tensors = case.make(dtype, values="normal")
            assert_within(case.run(tensors), case.reference(tensors))

    @on_every(2)
    def test_memory_format_is_that_of_torch(self, case: OpCase) -> None:
        tensors = case.make()
        for image, weight in itertools.product(LAYOUTS, LAYOUTS):
            given = lay_out(tensors, image)
            given |= {n: t.contiguous(memory_format=weight) for n, t in tensors.items() if n in SPATIAL_WEIGHTS}
            expected, actual = torch_layers(case, given), case.run(given)
            assert actual.shape == expected.shape
            for layout in LAYOUTS if actual.numel() else ():
                assert actual.is_contiguous(memory_format=layout) == expected.is_contiguous(memory_format=layout)
            if all(size > 1 for size in actual.shape):
                assert actual.stride() == expected.stride()

    @on_every(3)
    def test_views(self, case: OpCase) -> None:
        tensors = case.make()
        reference = case.reference(tensors)
        for view in VIEWS:
            views = {name: view(tensor) for name, tensor in tensors.items()}
            assert_right(case, case.run(views), reference)
            assert all(torch.equal(views[name], tensors[name]) for name in views), "an argument was written to"

    @on_every(7)
    def test_expanded_input(self, case: OpCase) -> None:
        tensors = case.make()
        tensors["input"] = tensors["input"][:1, :, :1, :].expand(tensors["input"].shape)
        assert_right(case, case.run(tensors), case.reference(tensors))

    @on_every(3)
    def test_nan_reaches_exactly_the_outputs_that_see_it(self, case: OpCase) -> None:
        tensors = poisoned(case, float("nan"))
        expected = case.reference(tensors).value.isnan()
        for dtype in DTYPES:
            assert torch.equal(case.run(cast(tensors, dtype)).isnan(), expected)

    @on_every(5)
    def test_infinity(self, case: OpCase) -> None:
        for value in (float("inf"), -float("inf")):
            if case.is_exact:
                tensors = poisoned(case, value)
                expected = case.reference(tensors).value.float()
                torch.testing.assert_close(case.run(tensors), expected, rtol=0, atol=0, equal_nan=True)

    @on_every(11)
    def test_denormal_and_huge_values(self, case: OpCase) -> None:
        tensors = case.make(values="normal")
        for scale in (1e-38, 1e-41, 1e12):
            scaled = dict(tensors) | {"input": tensors["input"] * scale}
            reference = case.reference(scaled)
            # Below the normal range a product is off by up to half the smallest number, 2**-149.
            assert_within(case.run(scaled), reference._replace(error=reference.error + 1e-42))

    def test_names_are_unique_and_bounds_are_tight(self) -> None:
        cases = CASES[self.op]
        assert len({case.name for case in cases}) == len(cases)
        for case in cases[::3]:
            reference = case.reference(case.make(values="normal"))
            if reference.value.numel():
                typical = reference.value.pow(2).mean().sqrt()
                assert reference.error.max() < 0.01 * (typical + 0.1), case


def torch_layers(case: OpCase, tensors: dict[str, Tensor]) -> Tensor:
    """The same layers by ``F.conv2d``, without what lies between them: it has the memory format that is asked for."""
    x = tensors["input"]
    if case.op == "split_conv_transpose2d":
        return F.conv_transpose2d(x, tensors["weight"], **case.options)
    if "expand_weight" in tensors:
        x = F.conv2d(x, tensors["expand_weight"])
    weight = next(tensors[name] for name in SPATIAL_WEIGHTS if name in tensors)
    dilation = case.options.get("dilation", 1)
    sides = padding_sides(case.options.get("padding", 0), weight.shape[2:], dilation)
    padded = F.pad(x, sides) if any(sides) else x
    x = F.conv2d(padded, weight, None, case.options.get("stride", 1), 0, dilation, x.shape[1] // weight.shape[1])
    for name in ("pointwise_weight", "project_weight"):
        x = F.conv2d(x, tensors[name]) if name in tensors else x
    return x


def _every_second_channel(tensor: Tensor) -> Tensor:
    dim = min(1, tensor.dim() - 1)
    return (
        torch.stack([tensor, torch.full_like(tensor, float("nan"))], dim + 1)
        .flatten(dim, dim + 1)
        .unfold(dim, 1, 2)[..., 0]
    )


def _transposed_pixels(tensor: Tensor) -> Tensor:
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.dim() == 4 else tensor


def _part_of_a_larger_tensor(tensor: Tensor) -> Tensor:
    surrounded = F.pad(tensor, (1, 2) * tensor.dim(), value=float("nan"))
    return surrounded[tuple(slice(1, 1 + size) for size in tensor.shape)]


def _unaligned(tensor: Tensor) -> Tensor:
    return torch.cat([torch.full((1,), float("nan"), dtype=tensor.dtype), tensor.flatten()])[1:].view(tensor.shape)


VIEWS = (_every_second_channel, _transposed_pixels, _part_of_a_larger_tensor, _unaligned)
