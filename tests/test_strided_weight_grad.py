"""Gradients by the zero-skipping kernels: exact on small integers, on any window, by any number of threads.

Torch's own kernels run without oneDNN here: that has crashed on some of these windows.
"""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext import ops
from convfirst_ext.ops import gradients


def integers(*shape: int) -> Tensor:
    return torch.randint(-2, 3, shape).float()


def torch_gradients(image: Tensor, weight: Tensor, grad: Tensor, window: tuple) -> tuple[Tensor, ...]:
    image, weight = image.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.backends.mkldnn.flags(enabled=False):
        return torch.autograd.grad(F.conv2d(image, weight, None, *window), (image, weight), grad)


def test_fuzz() -> None:
    generator = random.Random(0)
    draw = generator.randint
    compared = 0
    for _ in range(500):
        groups = generator.choice([1, 1, 2, 3, draw(2, 40)])
        channels, out_channels = (groups * generator.choice([1, 3, 16, 20]) for _ in range(2))
        if groups > 3:
            channels = out_channels = groups
        kernel, stride, dilation = (tuple(draw(1, most) for _ in range(2)) for most in (5, 3, 3))
        padding = draw(0, 5), draw(0, 5)
        image = integers(draw(1, 5), channels, draw(1, 10), draw(1, 10))
        weight = integers(out_channels, channels // groups, *kernel)
        with torch.backends.mkldnn.flags(enabled=False):
            try:
                output = F.conv2d(image, weight, None, stride, padding, dilation, groups)
            except RuntimeError:
                continue
        grad = integers(*output.shape)
        of_image, of_weight = torch_gradients(image, weight, grad, (stride, padding, dilation, groups))
        window = (stride, (padding[1], padding[1], padding[0], padding[0]), dilation, groups)
        assert torch.equal(gradients.weight_gradient(image, grad, kernel, *window), of_weight)
        actual = gradients.input_gradient(grad, weight, image.shape[2:], *window)
        fits = groups in (1, out_channels) or channels // groups % 16 == 0
        assert (actual is not None) == fits
        if actual is not None:
            assert torch.equal(actual, of_image)
            compared += 1
    assert compared > 100


@pytest.mark.parametrize(("channels", "out_channels", "groups"), [(40, 56, 1), (33, 33, 33), (32, 64, 2)])
def test_any_number_of_threads_gives_the_same_bits(channels: int, out_channels: int, groups: int) -> None:
    image, grad = torch.randn(3, channels, 20, 17), torch.randn(3, out_channels, 10, 9)
    results = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        results.append(gradients.weight_gradient(image, grad, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), groups))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_long_sums_keep_their_accuracy() -> None:
    image, grad = torch.rand(8, 4, 96, 96), torch.rand(8, 20, 96, 96)
    actual = gradients.weight_gradient(image, grad, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    expected = torch.einsum("nchw,nohw->oc", image.double(), grad.double())[:, :, None, None]
    assert ((actual - expected).abs() / expected).max() < 2e-6


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((6, 4, 3, 3), {"stride": 2, "padding": 1}),
        ((6, 4, 3, 3), {"dilation": 2, "padding": 2}),
        ((4, 1, 5, 5), {"groups": 4, "padding": 2}),
        ((4, 1, 3, 3), {"groups": 4, "padding": 2, "dilation": 2}),
    ],
)
def test_first_and_second_gradients_of_layers_that_use_them(shape: tuple[int, ...], options: dict) -> None:
    image, weight = torch.randn(2, 4, 7, 8), torch.randn(shape)
    kernel = ops.trimmed_conv2d if options.get("groups", 1) == 1 else ops.depthwise_conv2d
    own = {key: value for key, value in options.items() if kernel is ops.trimmed_conv2d or key != "groups"}
    results = []
    for function, given in ((kernel, own), (F.conv2d, options)):
        leaves = [t.clone().requires_grad_() for t in (image, weight)]
        first = torch.autograd.grad(function(*leaves, **given).pow(2).sum(), leaves, create_graph=True)
        norm = torch.stack([gradient.pow(2).sum() for gradient in first]).sum()
        results.append([*first, *torch.autograd.grad(norm, leaves)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": 1.0}, TypeError, "input must be a Tensor"),
        ({"input": torch.randn(4, 6, 6)}, ValueError, "input must have 4 dimensions"),
        ({"grad_output": torch.randn(8, 6, 6)}, ValueError, "grad_output must have 4 dimensions"),
        ({"grad_output": torch.randn(1, 8, 6, 5)}, ValueError, "grad_output must have the output's shape"),
        ({"grad_output": torch.randn(1, 8, 6, 6).double()}, TypeError, "grad_output must have input's dtype"),
        ({"weight_size": (8, 4, 3)}, ValueError, "weight_size must be four positive numbers"),
        ({"weight_size": (8, 4, 0, 3)}, ValueError, "weight_size must be four positive numbers"),
        ({"groups": 2}, ValueError, "groups must divide 8 output channels"),
        ({"groups": 0}, ValueError, "groups must divide 8 output channels"),
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"padding": -1}, ValueError, "padding must be at least 0"),
    ],
)
def test_wrong_arguments(change: dict, error: type[Exception], message: str) -> None:
    right = {"input": torch.randn(1, 4, 6, 6), "weight_size": (8, 4, 3, 3), "grad_output": torch.randn(1, 8, 6, 6)}
    right |= {"padding": 1}
    expected = torch.nn.grad.conv2d_weight(*list(right.values())[:3], padding=1)
    torch.testing.assert_close(ops.strided_weight_grad(**right), expected)
    with pytest.raises(error, match=message):
        ops.strided_weight_grad(**right | change)


def test_wrong_calls() -> None:
    raw = torch.ops.convfirst.strided_weight_grad.default
    image = torch.randn(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(1, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    right = (image, grad, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1], 1)
    assert raw(*right).shape == (8, 4, 3, 3)
    for position, value, message in (
        (0, image.bfloat16(), "must have dtype float32"),
        (1, grad[:, :, :5], "grad must"),
        (2, [3], "kernel_size must be two"),
        (3, [2, 2], "grad must have the shape"),
        (4, [1, 1], "padding must be four"),
        (5, [0, 1], "dilation must be two positive"),
        (6, 3, "groups must divide"),
    ):
        arguments = [*right[:position], value, *right[position + 1 :]]
        with pytest.raises(RuntimeError, match=message):
            raw(*arguments)
