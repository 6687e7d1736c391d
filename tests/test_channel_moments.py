"""Mean and variance of channels in one pass."""

import pytest
import torch

from convfirst_ext.ops.channel_moments import channel_moments


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 1), (1, 17, 3, 5), (5, 40, 9, 7), (16, 33, 30, 31)])
def test_equals_var_mean(shape: tuple[int, ...]) -> None:
    image = torch.randn(shape) * 3 + 1
    variance, mean = torch.var_mean(image.double(), (0, 2, 3), correction=0)
    for given in (image, image.contiguous(memory_format=torch.channels_last)):
        actual_mean, actual_variance = channel_moments(given)
        torch.testing.assert_close(actual_mean.double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(actual_variance.double(), variance, rtol=1e-5, atol=1e-6)


def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    image = torch.randn(4, 3, 50, 50) + 1000
    variance, mean = torch.var_mean(image.double(), (0, 2, 3), correction=0)
    actual_mean, actual_variance = channel_moments(image)
    torch.testing.assert_close(actual_mean.double(), mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(actual_variance.double(), variance, rtol=1e-5, atol=0)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    image = torch.randn(3, 40, 25, 31)
    results = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        results.append(torch.cat(channel_moments(image)))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_wrong_calls() -> None:
    with pytest.raises(RuntimeError, match="input must have dtype float32"):
        channel_moments(torch.randn(1, 2, 3, 3).bfloat16())
    with pytest.raises(RuntimeError, match="input must have at least one pixel"):
        channel_moments(torch.randn(0, 2, 3, 3))
    with pytest.raises(RuntimeError, match="input must have 4 dimensions"):
        torch.ops.convfirst.channel_moments(torch.randn(2, 3))
