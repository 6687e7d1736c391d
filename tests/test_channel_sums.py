"""Channel sums: exact on whole numbers, by any number of threads."""

import pytest
import torch

from convfirst_ext.ops.channel_sums import channel_sums


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 17, 9, 5), (3, 40, 64, 33), (0, 5, 3, 3)])
def test_sums_of_whole_numbers_are_exact(shape: tuple[int, ...]) -> None:
    image = torch.randint(-9, 10, shape).float()
    for given in (image, image.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(channel_sums(given), image.sum((0, 2, 3)))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    image = torch.randn(3, 40, 33, 21)
    results = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        results.append(channel_sums(image))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_what_is_refused() -> None:
    with pytest.raises(RuntimeError, match="float32"):
        channel_sums(torch.randn(1, 2, 3, 3).bfloat16())
    with pytest.raises(RuntimeError, match="input must have 4 dimensions"):
        torch.ops.convfirst.channel_sums(torch.randn(2, 3))
