import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import OpContract
from gradient_contract import GradientContract

from convfirst_ext import ops
from convfirst_ext.ops.selection import choose_kernel


class TestConv2d(OpContract, GradientContract):
    op = "conv2d"


def test_positional_arguments_are_those_of_torch() -> None:
    image, weight, bias = torch.randn(2, 6, 9, 9), torch.randn(12, 1, 3, 3), torch.randn(12)
    actual = ops.conv2d(image, weight, bias, (2, 1), (1, 0), (1, 2), 6)
    torch.testing.assert_close(actual, F.conv2d(image, weight, bias, (2, 1), (1, 0), (1, 2), 6))


def test_keyword_arguments_are_those_of_torch() -> None:
    image, weight = torch.randn(1, 8, 5, 5), torch.randn(8, 8, 3, 3)
    arguments = {"input": image, "weight": weight, "bias": None, "stride": [2], "padding": [1], "dilation": [1]}
    torch.testing.assert_close(ops.conv2d(**arguments, groups=1), F.conv2d(**arguments, groups=1))


@pytest.mark.parametrize("groups", [1, 3])
def test_an_image_without_a_batch(groups: int) -> None:
    image, weight = torch.randn(3, 8, 9), torch.randn(6, 3 // groups, 3, 3)
    actual = ops.conv2d(image, weight, padding="same", groups=groups)
    assert actual.shape == (6, 8, 9)
    torch.testing.assert_close(actual, F.conv2d(image, weight, padding="same", groups=groups))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_dtypes_without_a_kernel_go_to_torch(dtype: torch.dtype) -> None:
    image, weight = torch.randn(1, 4, 6, 6, dtype=dtype), torch.randn(4, 1, 3, 3, dtype=dtype)
    assert torch.equal(ops.conv2d(image, weight, groups=4), F.conv2d(image, weight, groups=4))


@pytest.mark.parametrize("wants_gradient", [False, True])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups"), [(16, 16), (16, 2), (16, 1), (3, 1)])
def test_autocast_is_that_of_torch(channels: int, groups: int, stored: torch.dtype, wants_gradient: bool) -> None:
    """Autocast gives layers inputs of one dtype and weights of another."""
    image = torch.randn(2, channels, 7, 7).to(stored)
    weight = torch.randn(16, channels // groups, 3, 3, requires_grad=wants_gradient)
    bias = torch.randn(16, requires_grad=wants_gradient)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = F.conv2d(image, weight, bias, padding=1, groups=groups)
        actual = ops.conv2d(image, weight, bias, padding=1, groups=groups)
    assert actual.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
    if wants_gradient:
        actual.float().sum().backward()
        assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_whole_numbers_of_numpy_are_numbers() -> None:
    image, weight = torch.randn(1, 8, 6, 6), torch.randn(8, 1, 3, 3)
    actual = ops.conv2d(image, weight, None, np.int64(1), (np.int32(1), np.int64(1)), np.int64(1), np.int64(8))
    torch.testing.assert_close(actual, F.conv2d(image, weight, padding=1, groups=8))


def test_two_by_two_ones_in_bfloat16_are_counted() -> None:
    ones = torch.ones(1, 2, 2, 2, dtype=torch.bfloat16)
    for weight, groups, expected in ((ones, 1, 8), (ones.view(2, 1, 2, 2), 2, 4)):
        assert ops.conv2d(ones, weight, groups=groups).unique().tolist() == [expected]


def test_a_module_can_be_on_the_meta_device() -> None:
    image, weight = torch.empty(2, 8, 9, 9, device="meta"), torch.empty(8, 1, 3, 3, device="meta")
    assert ops.conv2d(image, weight, padding=1, groups=8).shape == (2, 8, 9, 9)


@pytest.mark.parametrize(
    ("shape", "options", "kernel", "reason"),
    [
        ((32, 1, 3, 3), {"groups": 32}, "depthwise", "one input channel"),
        ((64, 1, 3, 3), {"groups": 32, "stride": (2, 2)}, "depthwise", "one input channel"),
        ((64, 32, 1, 1), {"groups": 1}, "pointwise", "1x1"),
        ((64, 32, 1, 1), {"groups": 1, "stride": (2, 2)}, None, "torch"),
        ((32, 3, 3, 3), {"groups": 1, "stride": (2, 2)}, "dense", "input channels"),
        ((64, 64, 3, 3), {"groups": 1, "stride": (2, 2)}, None, "torch"),
        ((64, 64, 3, 3), {"groups": 1}, "winograd", "3x3"),
        ((64, 8, 3, 3), {"groups": 8}, "grouped", "width 8"),
        ((64, 16, 3, 3), {"groups": 4}, "grouped", "width 16"),
        ((64, 4, 3, 3), {"groups": 16}, None, "width 4"),
        ((32, 1, 3, 3), {"groups": 32, "dtype": torch.float64}, None, "float64"),
        ((32, 1, 3, 3), {"groups": 32, "device_type": "xpu"}, None, "xpu"),
    ],
)
def test_the_choice_of_a_kernel_comes_with_its_reason(shape, options, kernel, reason) -> None:
    choice = choose_kernel(shape, **({"stride": (1, 1), "dilation": (1, 1)} | options))
    assert choice.kernel == kernel
    assert reason in choice.reason
