"""Counted multiply-adds against counting by hand, and the numbers of the C-K-S paper's cases."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from convfirst_ext import analysis


@pytest.mark.parametrize("size", [(2, 2), (4, 5), (7, 3)])
def test_convolutions_are_counted(size: tuple[int, int]) -> None:
    """Ones convolved with ones count the products that meet the image."""
    for kernel, stride, padding, dilation in itertools.product(((3, 3), (2, 5)), (1, 2, (3, 1)), (2, 4), (1, 2)):
        image, weight = torch.ones(2, 3, *size), torch.ones(4, 3, *kernel)
        try:
            met = F.conv2d(image.double(), weight.double(), None, stride, padding, dilation)
        except RuntimeError:
            with pytest.raises(ValueError, match="input_shape must"):
                analysis.conv2d_multiply_adds(image.shape, weight.shape, stride, padding, dilation)
            continue
        counted = analysis.conv2d_multiply_adds(image.shape, weight.shape, stride, padding, dilation)
        assert counted.without_zeros == met.sum().item()
        assert counted.with_zeros == met.numel() * weight[0].numel()
        gradient = analysis.weight_grad_multiply_adds(image.shape, weight.shape, stride, padding, dilation)
        assert gradient.without_zeros == counted.without_zeros <= gradient.with_zeros


@pytest.mark.parametrize("stride", [1, 2, (3, 2)])
def test_transposed_convolutions_are_counted(stride: int) -> None:
    for kernel, padding, dilation in itertools.product(((3, 3), (4, 2), (1, 1)), (0, 1), (1, 2)):
        image, weight = torch.ones(2, 3, 4, 5), torch.ones(3, 6, *kernel)
        met = F.conv_transpose2d(image.double(), weight.double(), None, stride, padding, 0, 1, dilation)
        counted = analysis.conv_transpose2d_multiply_adds(image.shape, weight.shape, stride, padding, 0, dilation)
        assert counted.without_zeros == met.sum().item()
        assert counted.with_zeros == met.numel() * 3 * kernel[0] * kernel[1]


def test_savings_that_are_known() -> None:
    """Stride 2: three of four products; a padded 3x3 on a 2x2 map: five of nine."""
    assert analysis.conv2d_multiply_adds((1, 8, 2, 2), (8, 8, 3, 3), padding=1).saved == pytest.approx(5 / 9)
    upsampled = analysis.conv_transpose2d_multiply_adds((1, 8, 64, 64), (8, 8, 4, 4), 2, 1)
    assert upsampled.saved == pytest.approx(0.75, abs=0.01)
    assert analysis.conv2d_multiply_adds((1, 8, 9, 9), (8, 8, 3, 3)).saved == 0.0


def test_nothing_is_left() -> None:
    with pytest.raises(ValueError, match="padding must leave an output"):
        analysis.conv_transpose2d_multiply_adds((1, 2, 3, 3), (2, 2, 1, 1), padding=5)
