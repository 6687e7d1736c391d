"""The inference building blocks, called as fused modules call them."""

import itertools
import math

import pytest
import torch
from contract import DTYPES
from torch import Tensor

import convfirst_ext as cf
from convfirst_ext import ops
from convfirst_ext.ops import packed
from convfirst_ext.testing import CASES, OpCase, assert_exact, assert_within, padding_sides
from convfirst_ext.testing.bounded import add, exact

KERNELS = packed.KERNELS
CASES_BY_KERNEL = [
    pytest.param(kernel, case, id=str(case))
    for kernel in KERNELS
    for case in CASES[f"{kernel.rstrip('24')}_conv2d"][:: 4 if kernel != "pointwise" else 2]
    if "residual" not in case.shapes and kernel.endswith(str(case.options.get("tile", "")))
]


def run_packed(kernel: str, case: OpCase, tensors: dict[str, Tensor], residual: Tensor | None) -> Tensor:
    weight, options = tensors["weight"], case.options
    dilation = _pair(options.get("dilation", 1))
    groups = tensors["input"].shape[1] if kernel == "depthwise" else options.get("groups", 1)
    return packed.conv2d(
        kernel,
        tensors["input"].contiguous(memory_format=torch.channels_last),
        packed.pack_weight_for(kernel, weight),
        packed.pack_bias(tensors.get("bias"), weight.shape[0]),
        residual,
        _pair(options.get("stride", 1)),
        padding_sides(options.get("padding", 0), weight.shape[2:], dilation),
        dilation,
        groups,
        weight.shape[0],
        options.get("activation", "identity"),
    )


@pytest.mark.parametrize(("kernel", "case"), CASES_BY_KERNEL)
def test_every_kernel_takes_a_residual(kernel: str, case: OpCase) -> None:
    for dtype in DTYPES:
        tensors = case.make(dtype)
        plain = run_packed(kernel, case, tensors, None)
        assert plain.is_contiguous(memory_format=torch.channels_last) and plain.dtype == dtype
        residual = torch.randint(-3, 4, plain.shape).to(dtype).contiguous(memory_format=torch.channels_last)
        expected = add(case.reference(tensors), exact(residual))
        actual = run_packed(kernel, case, tensors, residual)
        (assert_exact if case.is_exact else assert_within)(actual, expected)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (16, 3, 3, 3), (17, 1, 5, 1), (40, 8, 2, 3)])
def test_packed_weights_have_sixteen_output_channels_in_the_last_place(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weight = torch.randn(shape).to(dtype)
    if dtype == torch.float64:
        with pytest.raises(RuntimeError, match="weight must have dtype"):
            packed.pack_weight(weight)
        return
    for given in (
        weight,
        weight.contiguous(memory_format=torch.channels_last),
        weight.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        actual = packed.pack_weight(given)
        out_channels, group_in, rows, columns = shape
        assert actual.dtype == torch.float32 and actual.is_contiguous()
        assert actual.shape == (-(-out_channels // 16), rows, columns, group_in, 16)
        lanes = actual.permute(0, 4, 3, 1, 2).reshape(-1, group_in, rows, columns)
        assert torch.equal(lanes[:out_channels], weight.float())
        assert not lanes[out_channels:].any()


@pytest.mark.parametrize("tile", [2, 4])
def test_winograds_weights_are_filtered_in_float64(tile: int) -> None:
    points = {2: (0, 1, -1), 4: (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}[tile]
    rows = [[x**k / math.prod(x - y for y in points if y != x) for k in range(3)] for x in points]
    if tile == 2:
        rows[0] = [1, 0, 0]  # the sign of a point's rows is free
    matrix = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)
    for dtype in DTYPES:
        weight = torch.randn(20, 5, 3, 3).to(dtype)
        actual = packed.pack_weight_for(f"winograd{tile}", weight.contiguous(memory_format=torch.channels_last))
        expected = packed.pack_weight((matrix @ weight.double() @ matrix.t()).float())
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


def test_winograd_takes_3x3_kernels_only() -> None:
    with pytest.raises(RuntimeError, match="weight must have 3x3 kernels for a Winograd convolution, but has 1x3"):
        packed.pack_weight_for("winograd4", torch.zeros(8, 8, 1, 3))
    with pytest.raises(RuntimeError, match="tile must be 2 or 4, but is 3"):
        torch.ops.convfirst.pack_winograd_weight(torch.zeros(8, 8, 3, 3), 3)


def test_packed_bias_is_padded_with_zeros() -> None:
    assert torch.equal(packed.pack_bias(None, 17), torch.zeros(32))
    assert packed.pack_bias(torch.ones(17, dtype=torch.bfloat16), 17).tolist() == [1.0] * 17 + [0.0] * 15
    bias = torch.randn(32)[::2]
    assert packed.pack_bias(bias, 16).is_contiguous() and torch.equal(packed.pack_bias(bias, 16), bias)


def test_packing_keeps_no_graph() -> None:
    weight = torch.randn(16, 1, 3, 3, requires_grad=True)
    assert not packed.pack_weight(weight).requires_grad
    assert not packed.pack_bias(torch.randn(16, requires_grad=True), 16).requires_grad


ARGUMENTS = {
    "input": torch.randn(1, 16, 5, 5).contiguous(memory_format=torch.channels_last),
    "weight": packed.pack_weight(torch.randn(16, 1, 3, 3)),
    "bias": packed.pack_bias(None, 16),
    "residual": None,
    "stride": (1, 1),
    "padding": (1, 1, 1, 1),
    "dilation": (1, 1),
    "groups": 16,
    "out_channels": 16,
    "activation": "identity",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.randn(1, 16, 5, 5)}, "input must be dense in channels_last"),
        ({"input": torch.randn(16, 5, 5)}, "input must have 4 dimensions"),
        ({"input": torch.zeros(1, 16, 5, 5, dtype=torch.int32)}, "dtype|channels_last"),
        ({"weight": torch.randn(16, 1, 3, 3)}, "weight must be packed"),
        ({"weight": packed.pack_weight(torch.randn(32, 1, 3, 3))}, "weight must be packed"),
        ({"weight": packed.pack_weight(torch.randn(16, 1, 3, 3)).double()}, "weight must be"),
        ({"weight": packed.pack_weight(torch.randn(16, 2, 3, 3))}, "weight must have 1 input channels"),
        ({"bias": torch.zeros(15)}, "bias must have 16 elements"),
        ({"bias": torch.zeros(32)[::2]}, "bias must be a contiguous"),
        ({"residual": torch.randn(1, 16, 5, 5)}, "residual must be dense"),
        ({"residual": torch.randn(1, 16, 5, 4).contiguous(memory_format=torch.channels_last)}, "residual must"),
        (
            {"residual": torch.randn(1, 16, 5, 5).bfloat16().contiguous(memory_format=torch.channels_last)},
            "residual must",
        ),
        ({"stride": (0, 1)}, "stride must be"),
        ({"stride": (1, -1)}, "stride must be"),
        ({"dilation": (1, 0)}, "dilation must be"),
        ({"padding": (1, 1, 1, -1)}, "padding must be"),
        ({"padding": (0, 0, 0, 0), "dilation": (3, 3)}, "input of 5x5"),
        ({"groups": 0}, "groups must divide"),
        ({"groups": 5}, "groups must divide"),
        ({"groups": 1}, "weight must have|groups must"),
        ({"out_channels": 0}, "weight must be packed|channel"),
        ({"out_channels": 15}, "groups must divide"),
        ({"activation": "tanh"}, "activation must be"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(change, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        packed.conv2d("depthwise", **(ARGUMENTS | change))


@pytest.mark.parametrize("kernel", ["pointwise", "grouped", "dense"])
def test_a_kernel_refuses_the_shape_of_another(kernel: str) -> None:
    with pytest.raises(RuntimeError, match="groups must|weight, stride, padding and groups must"):
        packed.conv2d(kernel, **ARGUMENTS)


def _block_arguments() -> dict[str, object]:
    return {
        "input": torch.randn(1, 8, 6, 6).contiguous(memory_format=torch.channels_last),
        "expand_weight": packed.pack_weight(torch.randn(24, 8, 1, 1)),
        "expand_bias": packed.pack_bias(None, 24),
        "conv_weight": packed.pack_weight(torch.randn(24, 1, 3, 3)),
        "conv_bias": packed.pack_bias(None, 24),
        "se": None,
        "project_weight": packed.pack_weight(torch.randn(12, 24, 1, 1)),
        "project_bias": packed.pack_bias(None, 12),
        "residual": None,
        "stride": (1, 1),
        "padding": (1, 1, 1, 1),
        "dilation": (1, 1),
        "groups": 24,
        "hidden_channels": 24,
        "out_channels": 12,
        "activation": "relu6",
    }


SE = tuple(
    itertools.chain.from_iterable(
        (packed.pack_weight(torch.randn(o, i, 1, 1)), packed.pack_bias(None, o)) for o, i in ((5, 24), (24, 5))
    )
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.randn(1, 8, 6, 6)}, "input must be dense"),
        ({"input": torch.randn(1, 9, 6, 6).contiguous(memory_format=torch.channels_last)}, "expand_weight must have"),
        ({"expand_bias": None}, "expand_bias must be given"),
        ({"expand_weight": None, "expand_bias": None, "se": SE}, "hidden_channels must be"),
        ({"conv_weight": packed.pack_weight(torch.randn(24, 8, 3, 3))}, "conv_weight must have 1"),
        ({"conv_weight": torch.randn(24, 1, 3, 3)}, "conv_weight must be packed"),
        ({"conv_weight": packed.pack_weight(torch.randn(40, 1, 3, 3))}, "conv_weight must have"),
        ({"groups": 12}, "groups must be"),
        ({"groups": 3}, "conv_weight must have 8"),
        ({"project_weight": packed.pack_weight(torch.randn(12, 16, 1, 1))}, "project_weight must have"),
        ({"project_bias": torch.zeros(12)}, "project_bias must have 16"),
        ({"out_channels": 17}, "project_weight must have"),
        ({"residual": torch.randn(1, 12, 6, 5).contiguous(memory_format=torch.channels_last)}, "residual must"),
        ({"se": (SE[2], SE[1], SE[2], SE[3])}, "se_reduce_weight must have"),
        ({"se": (*SE[:3], torch.zeros(8))}, "se_expand_bias must have"),
        ({"se": SE, "se_gate": "step"}, "se_gate must be"),
        ({"activation": "celu"}, "activation must be"),
        ({"output_activation": ""}, "output_activation must be"),
        ({"padding": (0, 0, 0, 0), "dilation": (3, 3)}, "input of 6x6"),
    ],
)
def test_a_block_whose_parts_do_not_fit_is_refused(change, message: str) -> None:
    arguments = _block_arguments()
    packed.mbconv(**arguments)
    with pytest.raises(RuntimeError, match=message):
        packed.mbconv(**(arguments | change))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_of_a_large_result_is_used_again(dtype: torch.dtype) -> None:
    """The C library would map it anew, and every page would cost a fault."""
    image = torch.randn(1, 8, 400, 400, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(160, 8, 1, 1, dtype=dtype)
    cf.release_memory()
    first = ops.pointwise_conv2d(image, weight)
    address, expected = first.data_ptr(), first[0, :, 7, 9].clone()
    assert cf.release_memory() == 0
    del first
    second = ops.pointwise_conv2d(image, weight)
    assert second.data_ptr() == address and torch.equal(second[0, :, 7, 9], expected)
    del second
    assert cf.release_memory() >= 160 * 400 * 400 * dtype.itemsize
