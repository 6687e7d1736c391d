"""The stem's CUDA kernel on the emulator."""

import ctypes

import pytest
import torch
from emulated_calls import DTYPES, channels_last, check_forward, forward

from convfirst_ext.testing import OpCase, assert_within

OP = "dense_conv2d"


def stem(size: tuple[int, int, int], outputs: int, **options: object) -> OpCase:
    batch, height, width = size
    shapes = {"input": (batch, 3, height, width), "weight": (outputs, 3, 3, 3), "bias": (outputs,)}
    return OpCase(OP, f"{size}-{outputs}-{options}", shapes, {"stride": 2, "padding": 1} | options)


CASES = [
    stem((2, 15, 33), 16),
    stem((1, 16, 32), 24),
    stem((1, 17, 31), 64),
    stem((1, 1, 1), 8),
    stem((1, 33, 70), 32, padding=0),
    stem((1, 9, 10), 40, padding=(0, 1, 0, 1), activation="relu"),
    stem((1, 9, 10), 8, padding=(2, 0, 1, 3), activation="hardswish"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sizes_around_tiles(emulator: ctypes.CDLL, case: OpCase, dtype: torch.dtype) -> None:
    check_forward(case, dtype)
    check_forward(case, dtype, packed=True)


def test_random_values_stay_within_the_bound_of_fp32_sums(library: ctypes.CDLL) -> None:
    for case in CASES:
        for dtype in DTYPES:
            tensors = case.make(dtype, values="normal")
            assert_within(forward(case, tensors), case.reference(tensors))


@pytest.mark.parametrize(
    ("weight", "stride", "message"),
    [
        (torch.zeros(8, 3, 3, 3), [1, 1], "must be 3x3 with stride 2"),
        (torch.zeros(8, 3, 5, 5), [2, 2], "must be 3x3 with stride 2"),
        (torch.zeros(9, 3, 3, 3), [2, 2], "multiple of 8 output channels"),
    ],
)
def test_what_no_kernel_takes_is_named(
    library: ctypes.CDLL, weight: torch.Tensor, stride: list[int], message: str
) -> None:
    image = channels_last(torch.zeros(1, 3, 8, 8))
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convfirst_emulated.dense_conv2d(image, weight, None, stride, [2, 2, 2, 2], [1, 1], 1)
