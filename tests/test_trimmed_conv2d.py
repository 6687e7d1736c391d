import pytest
import torch
import torch.nn.functional as F
from contract import OpContract
from gradient_contract import GradientContract

from convfirst_ext import ops


class TestTrimmedConv2d(OpContract, GradientContract):
    op = "trimmed_conv2d"


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_padding_never_meets_a_weight(value: float) -> None:
    """Torch multiplies the padded zero and gets NaN; a skipped product is none."""
    image, weight = torch.ones(1, 4, 2, 2), torch.zeros(6, 4, 3, 3)
    weight[:, :, 0, 0] = value
    actual = ops.trimmed_conv2d(image, weight, padding=1)
    expected = torch.zeros(1, 6, 2, 2)
    expected[:, :, 1, 1] = 4 * value  # the only output whose first tap meets the image
    torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize(("groups", "out_channels"), [(2, 8), (3, 24), (3, 45)])
def test_groups_without_a_kernel(groups: int, out_channels: int) -> None:
    image, weight = torch.randn(1, 12, 5, 5), torch.randn(out_channels, 12 // groups, 3, 3)
    with pytest.raises((ValueError, RuntimeError), match="groups must be 1, the input channels, or leave a multiple"):
        ops.trimmed_conv2d(image, weight, groups=groups)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    for batch, size, channels in ((1, 7, 48), (3, 2, 96), (16, 4, 33), (2, 40, 3)):
        image, weight = torch.randn(batch, 64, size, size), torch.randn(channels, 64, 3, 3)
        results = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(ops.trimmed_conv2d(image, weight, padding=1))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_a_large_weight_takes_the_way_without_packed_tensors() -> None:
    image, weight, bias = torch.randn(2, 96, 3, 3), torch.randn(96, 96, 3, 3), torch.randn(96)
    with torch.no_grad():
        actual = ops.trimmed_conv2d(image, weight, bias, padding=1)
        torch.testing.assert_close(actual, F.conv2d(image, weight, bias, padding=1), rtol=1e-4, atol=1e-4)
