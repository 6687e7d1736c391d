"""CUDA kernels of group width 8 and 16 on the emulator: windows of the operator's list, and sizes around every tile."""

import ctypes

import pytest
import torch
from emulated_calls import channels_last, check_forward, check_gradients, forward, groups_of, tile_case, window_of

from convfirst_ext.testing import CASES, OpCase, assert_within

OP = "grouped_conv2d"
DTYPES = (torch.float16, torch.bfloat16)


def has_kernel(case: OpCase) -> bool:
    (outputs, width, rows, columns), channels = case.shapes["weight"], case.shapes["input"][1]
    stride, _, dilation, _ = window_of(case, groups_of(case))
    sizes = (3, 5) if width == 8 else (3,)
    square = rows == columns and rows in sizes and stride[0] == stride[1] <= 2 and dilation == [1, 1]
    return width in (8, 16) and outputs == channels and square


LISTED = [case for case in CASES[OP] if has_kernel(case)]

# Below, at and above a tile: 1 to 9 groups of a chunk of 8; 8, 16 and 32 columns; several strips of rows.
TILES = [
    tile_case(OP, size, 8, kernel, stride=stride)
    for kernel in (3, 5)
    for stride in (1, 2)
    for size in ((1, 72, 9, 7), (2, 16, 17, 18), (1, 64, 5, 37), (1, 8, 33, 3), (1, 40, 12, 30))
] + [
    tile_case(OP, size, 16, 3, stride=stride)
    for stride in (1, 2)
    for size in ((1, 80, 9, 7), (2, 16, 17, 18), (1, 64, 5, 37), (1, 48, 12, 10))
]
SHIFTED = [
    tile_case(OP, (1, 24, 12, 11), 8, kernel, stride=stride, padding=padding)
    for kernel in (3, 5)
    for stride in (1, 2)
    for padding in ((0, 0, 0, 0), (1, 0, 2, 1), (2, 3, 0, 2))
]


@pytest.mark.parametrize("case", LISTED, ids=str)
def test_windows_of_the_list(library: ctypes.CDLL, case: OpCase) -> None:
    check_forward(case, DTYPES[len(case.name) % 2])
    if case.shapes["input"][0]:
        check_gradients(case, DTYPES[(len(case.name) + 1) % 2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TILES, ids=str)
def test_sizes_around_tiles(library: ctypes.CDLL, case: OpCase, dtype: torch.dtype) -> None:
    library.emulator_set_seed(ctypes.c_uint64(len(case.name)))
    check_forward(case, dtype, packed=case.shapes["input"][0] == 2)
    check_gradients(case, dtype)


@pytest.mark.parametrize("case", SHIFTED, ids=str)
def test_padding_of_any_side(emulator: ctypes.CDLL, case: OpCase) -> None:
    check_forward(case, torch.float16)
    check_gradients(case, torch.float16)


def test_random_values_stay_within_the_bound_of_fp32_sums(library: ctypes.CDLL) -> None:
    for case in TILES[::3]:
        for dtype in DTYPES:
            tensors = case.make(dtype, values="normal")
            assert_within(forward(case, tensors), case.reference(tensors))


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_activation_and_residual(library: ctypes.CDLL, activation: str) -> None:
    from convfirst_ext.ops.packed import pack_bias, pack_weight

    case = tile_case(OP, (2, 24, 6, 9), 8, 3, activation=activation)
    tensors = case.make(torch.float16, values="normal")
    residual = torch.randn(2, 24, 6, 9).half()
    stride, sides, dilation, groups = window_of(case, 3)
    actual = torch.ops.convfirst_emulated.grouped_conv2d_packed(
        channels_last(tensors["input"]),
        pack_weight(tensors["weight"]),
        pack_bias(tensors["bias"], 24),
        channels_last(residual),
        *(stride, sides, dilation, groups, 24, activation),
    )
    plain = case.reference(tensors)
    assert_within(actual, plain._replace(value=plain.value + residual.double()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": channels_last(torch.zeros(1, 32, 5, 5))}, "on CUDA input must have dtype float16 or bfloat16"),
        (
            {"weight": torch.zeros(32, 32, 3, 3).half(), "groups": 1},
            "groups must have 8 or 16 input and output channels",
        ),
        ({"weight": torch.zeros(32, 8, 7, 7).half(), "padding": [3, 3, 3, 3]}, "weight must have a 3x3 or 5x5 kernel"),
        ({"stride": [1, 2]}, "weight must have a 3x3 or 5x5 kernel"),
        ({"groups": 3}, "groups must divide the 32 input and 32 output channels, but is 3"),
    ],
)
def test_what_no_kernel_takes_is_named(library: ctypes.CDLL, change: dict[str, object], message: str) -> None:
    arguments = {
        "input": channels_last(torch.zeros(1, 32, 5, 5).half()),
        "weight": torch.zeros(32, 8, 3, 3).half(),
        "bias": None,
        "stride": [1, 1],
        "padding": [1, 1, 1, 1],
        "dilation": [1, 1],
        "groups": 4,
    } | change
    if arguments["input"].dtype == torch.float32:
        arguments["weight"] = arguments["weight"].float()
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convfirst_emulated.grouped_conv2d(*arguments.values())
