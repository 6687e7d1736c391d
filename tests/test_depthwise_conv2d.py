import pytest
import torch
import torch.nn.functional as F
from contract import OpContract
from gradient_contract import GradientContract, assert_gradients_close, expected_gradients, gradients

from convfirst_ext import ops
from convfirst_ext.testing import CASES


class TestDepthwiseConv2d(OpContract, GradientContract):
    op = "depthwise_conv2d"


@pytest.mark.parametrize("name", ["c24-6x6-s2", "k5-s3-p1", "k3-s2-sides(0, 1, 0, 1)", "k2-s2-sides(2, 0, 1, 3)"])
def test_gradients_that_other_libraries_got_wrong(name: str) -> None:
    case = next(case for case in CASES["depthwise_conv2d"] if case.name == name)
    tensors = case.make()
    assert_gradients_close(gradients(case.run, tensors), expected_gradients(case, tensors), slack=0.0)


def test_sides_are_in_the_order_of_pad() -> None:
    image, weight = torch.randn(1, 4, 6, 7), torch.randn(4, 1, 3, 3)
    sides = (3, 0, 1, 2)
    expected = F.conv2d(F.pad(image, sides), weight, groups=4)
    torch.testing.assert_close(ops.depthwise_conv2d(image, weight, padding=sides), expected)


def test_denormal_weights_cost_no_accuracy() -> None:
    image = torch.full((1, 16, 4, 4), 1e3)
    weight = torch.full((16, 1, 3, 3), 1e-41)
    torch.testing.assert_close(
        ops.depthwise_conv2d(image, weight).double(),
        F.conv2d(image.double(), weight.double(), groups=16),
        rtol=1e-6,
        atol=0,
    )
