"""Depthwise CUDA kernels on the emulator: every window of the operator's list, and sizes around every tile."""

import ctypes

import pytest
import torch
from emulated_calls import DTYPES, channels_last, check_forward, check_gradients, forward, tile_case

from convfirst_ext.testing import CASES, OpCase, assert_exact, assert_within

OP = "depthwise_conv2d"
LISTED = [case for case in CASES[OP] if 0 < max(case.shapes["input"][2:]) <= 20]

# Below, at and above a tile: 64 fp16 or 32 fp32 channels, 8, 16 and 32 columns, several strips of rows.
TILES = [
    tile_case(OP, size, 1, kernel, stride=stride)
    for kernel in (3, 5, 7)
    for stride in (1, 2)
    for size in ((1, 72, 9, 7), (2, 8, 17, 18), (1, 64, 5, 37))
]
SHIFTED = [
    tile_case(OP, (1, 16, 12, 11), 1, kernel, stride=stride, padding=padding)
    for kernel in (3, 5, 7)
    for stride in (1, 2)
    for padding in ((0, 0, 0, 0), (1, 0, 2, 1), (2, 3, 0, 2))
]


@pytest.mark.parametrize("case", LISTED, ids=str)
def test_every_window_of_the_list(library: ctypes.CDLL, case: OpCase) -> None:
    check_forward(case, DTYPES[len(case.name) % 3])
    check_gradients(case, DTYPES[(len(case.name) + 1) % 3])


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


def test_activation_and_residual(library: ctypes.CDLL) -> None:
    raw = torch.ops.convfirst_emulated
    for activation in ("relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh", "sigmoid", "hardsigmoid"):
        case = tile_case(OP, (1, 24, 6, 9), 1, 3, activation=activation)
        tensors = case.make(values="normal")
        assert_within(forward(case, tensors), case.reference(tensors))
    tensors = case.make()
    residual = torch.randint(-3, 4, (1, 24, 6, 9)).float()
    from convfirst_ext.ops.packed import pack_bias, pack_weight

    window = [1, 1], [1, 1, 1, 1], [1, 1], 24, 24, "relu"
    values = pack_weight(tensors["weight"]), pack_bias(tensors["bias"], 24), channels_last(residual)
    actual = raw.depthwise_conv2d_packed(channels_last(tensors["input"]), *values, *window)
    plain = tile_case(OP, (1, 24, 6, 9), 1, 3, activation="relu").reference(tensors)
    assert_exact(actual, plain._replace(value=plain.value + residual))


def test_unaligned_tensors_get_the_right_result_too(library: ctypes.CDLL) -> None:
    """They start where no 16-byte access may."""
    case = tile_case(OP, (1, 16, 6, 9), 1, 3)
    tensors = case.make(torch.float16)
    memory = torch.zeros(6 * 9 * 16 + 1, dtype=torch.float16)
    shifted = memory[1:].view(1, 6, 9, 16).permute(0, 3, 1, 2).copy_(tensors["input"])
    actual = torch.ops.convfirst_emulated.depthwise_conv2d(
        shifted, tensors["weight"], tensors["bias"], [1, 1], [1, 1, 1, 1], [1, 1], 16
    )
    assert_exact(actual, case.reference(tensors))


def test_nan_reaches_exactly_the_outputs_that_see_it(library: ctypes.CDLL) -> None:
    for case in TILES[::4]:
        tensors = case.make()
        tensors["input"][0, 5, 3, 4] = float("nan")
        expected = case.reference(tensors).value.isnan()
        for dtype in DTYPES:
            actual = forward(case, {name: tensor.to(dtype) for name, tensor in tensors.items()})
            assert torch.equal(actual.isnan(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "groups must divide the 16 input and 16 output channels, but is 3"),
        ({"weight": torch.zeros(17, 1, 3, 3)}, "groups must divide the 16 input and 17 output channels, but is 16"),
        ({"weight": torch.zeros(16, 2, 3, 3)}, "weight must have 1 input channels a group, but has 2"),
        ({"weight": torch.zeros(16, 1, 3, 3).half()}, "weight must have the dtype of input"),
        ({"input": torch.zeros(1, 16, 5, 5)}, "input must be dense in channels_last order"),
        ({"bias": torch.zeros(3)}, "bias must have 16 elements, but has 3"),
        ({"stride": [0, 1]}, "stride must be two positive numbers"),
        ({"padding": [0, 0, 0, 0], "weight": torch.zeros(16, 1, 7, 7)}, "must be at least as large as"),
    ],
)
def test_bad_arguments_are_named(library: ctypes.CDLL, change: dict[str, object], message: str) -> None:
    arguments = {
        "input": channels_last(torch.zeros(1, 16, 5, 5)),
        "weight": torch.zeros(16, 1, 3, 3),
        "bias": None,
        "stride": [1, 1],
        "padding": [1, 1, 1, 1],
        "dilation": [1, 1],
        "groups": 16,
    } | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convfirst_emulated.depthwise_conv2d(*arguments.values())
