"""Windows, sizes, dtypes and layouts drawn at random, the same ones in every run."""

from typing import Any

import pytest
import torch
from contract import DTYPES, LAYOUTS, assert_right, lay_out
from gradient_contract import assert_gradients_close, expected_gradients, gradients
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from convfirst_ext import ops
from convfirst_ext.testing import OpCase, assert_within
from convfirst_ext.testing.block_cases import inverted_residual, separable
from convfirst_ext.testing.convolution_cases import convolution, dense, depthwise, grouped, pointwise
from convfirst_ext.testing.transposed_cases import transposed

quick = settings(
    max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
# About a minute of forward passes and both gradients on two cores.
a_minute = settings(max_examples=2500, database=None, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(max_examples=3000, database=None, deadline=None, suppress_health_check=list(HealthCheck))

channels = st.integers(1, 70)
activations = st.sampled_from(ops.ACTIVATIONS)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int], dict[str, Any]]:
    """Image size, kernel size, and stride, padding and dilation that leave an output."""
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)) | st.sampled_from([(3, 3), (5, 5), (7, 7), (3, 3)]))
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 70)))
    sides = draw(st.tuples(*[st.integers(0, 5)] * 4) | st.sampled_from([(1, 1, 1, 1), (2, 2, 2, 2)]))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)) | st.just((1, 1)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)) | st.just((1, 1)) | st.just((2, 2)))
    left, right, top, bottom = sides
    assume(size[0] + top + bottom >= dilation[0] * (kernel[0] - 1) + 1)
    assume(size[1] + left + right >= dilation[1] * (kernel[1] - 1) + 1)
    return size, kernel, {"stride": stride, "padding": sides, "dilation": dilation}


@st.composite
def single_convolutions(draw: st.DrawFn) -> OpCase:
    size, kernel, options = draw(windows())
    common: dict[str, Any] = {"batch": draw(st.integers(1, 3)), "bias": draw(st.booleans())}
    common["activation"] = draw(activations)
    kind = draw(st.sampled_from(["depthwise", "grouped", "dense", "pointwise"]))
    if kind == "pointwise":
        return pointwise("fuzz", draw(channels), draw(channels), size, residual=draw(st.booleans()), **common)
    if kind == "dense":
        return dense("fuzz", draw(st.integers(1, 6)), draw(channels), size, kernel, **options, **common)
    if kind == "grouped":
        width = draw(st.sampled_from([8, 8, 8, 16, 32]))
        return grouped("fuzz", draw(st.integers(1, 48 // width)), size, kernel, width, **options, **common)
    multiplier = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return depthwise("fuzz", draw(channels), size, kernel, multiplier, **options, **common)


@st.composite
def blocks(draw: st.DrawFn) -> OpCase:
    size, kernel, options = draw(windows())
    common: dict[str, Any] = {
        "batch": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "residual": draw(st.booleans()),
    }
    names = draw(activations), draw(activations)
    if draw(st.booleans()):
        both = {"depthwise_activation": names[0], "pointwise_activation": names[1]}
        return separable("fuzz", draw(channels), draw(channels), size, kernel, **options, **common, **both)
    both = {"activation": names[0], "output_activation": names[1]}
    squeeze = draw(st.sampled_from([0, 0, 1, 5, 16, 20]))
    if squeeze:
        both["squeeze_excite"] = (draw(activations), draw(st.sampled_from(["sigmoid", "hardsigmoid"])))
    expands = draw(st.booleans())
    width = draw(st.sampled_from([1, 1, 8]))
    hidden = width * draw(st.integers(1, 12)) if width == 8 else draw(channels)
    in_channels = draw(st.integers(1, 40)) if expands else hidden
    return inverted_residual(
        "fuzz", in_channels, hidden, draw(channels), size, kernel,
        width=width, squeeze=squeeze, expands=expands, **options, **common, **both,
    )  # fmt: skip


@st.composite
def zero_skipping(draw: st.DrawFn) -> OpCase:
    """Convolutions and transposed convolutions whose padding, stride and dilation skip much."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 20, 33]))
    group_in, group_out = draw(st.integers(1, 20)), draw(st.sampled_from([1, 3, 16, 17, 32]))
    if groups > 3:
        group_in = group_out = 1
    elif groups > 1:
        group_out = 16
    batch, bias = draw(st.integers(1, 5)), draw(st.booleans())
    if draw(st.booleans()):
        size, kernel, options = draw(windows())
        options |= {"groups": groups, "batch": batch, "bias": bias, "group_in": group_in}
        return convolution("trimmed_conv2d", "fuzz", groups * group_in, groups * group_out, size, kernel, **options)
    size, kernel = (draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (8, 5))
    stride, dilation = (draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (4, 3))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    extra = tuple(draw(st.integers(0, max(stride[i], dilation[i]) - 1)) for i in range(2))
    assume(
        all((size[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + extra[i] >= 0 for i in (0, 1))
    )
    options = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    options |= {"batch": batch, "bias": bias}
    return transposed("fuzz", groups * group_in, groups * group_out, size, kernel, groups, **options)


def assert_with_gradients(case: OpCase) -> None:
    integers = case.make()
    assert_right(case, case.run(integers), case.reference(integers))
    assert_gradients_close(gradients(case.run, integers), expected_gradients(case, integers))


def assert_case(case: OpCase, dtype: torch.dtype, layout: torch.memory_format) -> None:
    integers = case.make(dtype)
    assert_right(case, case.run(lay_out(integers, layout)), case.reference(integers))
    normal = case.make(dtype, values="normal")
    assert_within(case.run(lay_out(normal, layout)), case.reference(normal))


dtypes, layouts = st.sampled_from(DTYPES), st.sampled_from(LAYOUTS)


@quick
@given(single_convolutions(), dtypes, layouts)
def test_single_convolutions(case: OpCase, dtype: torch.dtype, layout: torch.memory_format) -> None:
    assert_case(case, dtype, layout)


@quick
@given(blocks(), dtypes, layouts)
def test_blocks(case: OpCase, dtype: torch.dtype, layout: torch.memory_format) -> None:
    assert_case(case, dtype, layout)


@quick
@given(zero_skipping())
def test_zero_skipping(case: OpCase) -> None:
    assert_with_gradients(case)


@pytest.mark.slow
@a_minute
@given(zero_skipping())
def test_zero_skipping_for_a_minute(case: OpCase) -> None:
    assert_with_gradients(case)


@pytest.mark.slow
@thorough
@given(single_convolutions() | blocks(), dtypes, layouts)
def test_anything(case: OpCase, dtype: torch.dtype, layout: torch.memory_format) -> None:
    assert_case(case, dtype, layout)
