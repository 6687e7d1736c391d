import torch
from contract import OpContract
from gradient_contract import GradientContract

from convfirst_ext import ops


class TestPointwiseConv2d(OpContract, GradientContract):
    op = "pointwise_conv2d"


def test_the_residual_comes_after_the_activation() -> None:
    image, weight, residual = torch.ones(1, 4, 2, 2), -torch.ones(4, 4, 1, 1), torch.full((1, 4, 2, 2), -5.0)
    actual = ops.pointwise_conv2d(image, weight, activation="relu", residual=residual)
    assert torch.equal(actual, residual)


def test_the_residual_may_be_the_input() -> None:
    image, weight = torch.randn(2, 20, 5, 5), torch.randn(20, 20, 1, 1)
    before = image.clone()
    actual = ops.pointwise_conv2d(image, weight, residual=image)
    torch.testing.assert_close(actual, ops.pointwise_conv2d(image, weight) + image)
    assert torch.equal(image, before)
