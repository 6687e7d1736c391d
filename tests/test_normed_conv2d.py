"""The convolution between two batch norms: exact on small integers, forward and backward, on any window."""

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import normed_conv2d
from convfirst_ext.ops.activation import apply_activation


def integers(*shape: int, most: int = 2) -> Tensor:
    values = torch.randint(-most, most + 1, shape).float()
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def case_of(draw: Any, kind: str) -> tuple[Tensor, Tensor, tuple]:
    """Input, weight and window."""
    if kind == "pointwise":
        image = integers(draw(1, 5), draw(1, 70), draw(1, 12), draw(1, 12))
        return image, integers(draw(1, 70), image.shape[1], 1, 1), ((1, 1), (0, 0, 0, 0), (1, 1), 1)
    width = 8 if kind == "grouped" else 1
    groups = draw(2, 9) if width == 8 else draw(2, 50)
    image = integers(draw(1, 4), groups * width, draw(1, 14), draw(1, 14))
    kernel, stride, dilation = ([draw(1, most) for _ in range(2)] for most in (5, 3, 3))
    sides = [draw(0, 5) for _ in range(4)]
    return image, integers(groups * width, width, *kernel), (stride, sides, dilation, groups)


def reference(
    image: Tensor, norm: tuple | None, activation: str, gate: Tensor | None, weight: Tensor, window: tuple
) -> Tensor:
    stride, (left, right, top, bottom), dilation, groups = window
    value = image
    if norm is not None:
        value = apply_activation(activation, image * norm[0][:, None, None] + norm[1][:, None, None])
    if gate is not None:
        value = value * gate[:, :, None, None]
    with torch.backends.mkldnn.flags(enabled=False):
        return F.conv2d(F.pad(value, (left, right, top, bottom)), weight, None, stride, 0, dilation, groups)


@pytest.mark.parametrize("kind", ["pointwise", "depthwise", "grouped"])
def test_fuzz(kind: str) -> None:
    generator = random.Random(kind)
    draw = generator.randint
    compared = 0
    for _ in range(150):
        image, weight, window = case_of(draw, kind)
        channels = image.shape[1]
        norm = None if draw(0, 2) == 0 else (integers(channels, most=1), integers(channels))
        activation = "identity" if norm is None else generator.choice(["identity", "relu", "relu6"])
        gate = (
            integers(image.shape[0], channels, most=1)
            if norm is not None and kind == "pointwise" and draw(0, 1)
            else None
        )
        try:
            expected = reference(image, norm, activation, gate, weight, window)
        except RuntimeError:
            continue
        scale, shift = norm or (None, None)
        arguments = (activation, weight, *window)
        output, mean, variance = normed_conv2d.forward(image, scale, shift, gate, *arguments)
        assert torch.equal(output, expected)
        exact_variance, exact_mean = torch.var_mean(expected.double(), (0, 2, 3), correction=0)
        torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(variance.double(), exact_variance, rtol=1e-5, atol=1e-5)
        check_gradients(image, norm, gate, arguments, expected, draw)
        compared += 1
    assert compared > 80


def check_gradients(
    image: Tensor, norm: tuple | None, gate: Tensor | None, arguments: tuple, output: Tensor, draw: Any
) -> None:
    activation, weight, *window = arguments
    grad = integers(*output.shape, most=1)
    factors = integers(3, output.shape[1], most=1) if draw(0, 1) else None
    through = grad
    if factors is not None:
        a, b, c = factors[:, :, None, None]
        through = a * grad + b * output + c
    exact = [t.double() for t in (image, weight)]
    z = exact[0] if norm is None else exact[0] * norm[0][:, None, None] + norm[1][:, None, None]
    leaves = [z.requires_grad_(), exact[1].requires_grad_()]
    gates = torch.ones(image.shape[:2], dtype=torch.float64) if gate is None else gate.double()
    gates.requires_grad_()
    value = apply_activation(activation, leaves[0]) * gates[:, :, None, None]
    again = reference(value, None, "identity", None, leaves[1], tuple(window))
    with torch.backends.mkldnn.flags(enabled=False):
        of_z, of_weight, of_gate = torch.autograd.grad(again, [*leaves, gates], through.double())
    if gate is not None:  # the gradient of what the gate gave
        flat = value.detach().requires_grad_()
        (of_z,) = torch.autograd.grad(
            reference(flat, None, "identity", None, exact[1].detach(), tuple(window)), flat, through.double()
        )
    scale, shift = norm or (None, None)
    mean = None if norm is None else integers(image.shape[1])
    given = None if factors is None else output.contiguous(memory_format=torch.channels_last)
    results = normed_conv2d.backward(
        grad, given, factors, image, scale, shift, mean, gate, activation, weight, *window, True
    )
    of_input, actual_weight, sums, actual_gate = results
    assert torch.equal(actual_weight.double(), of_weight)
    assert torch.equal(of_input.double(), of_z)
    if gate is not None:
        torch.testing.assert_close(actual_gate.double(), of_gate)
    elif norm is not None:
        centred = image.double() - mean.double()[:, None, None]
        torch.testing.assert_close(sums[0].double(), of_z.sum((0, 2, 3)))
        torch.testing.assert_close(sums[1].double(), (of_z * centred).sum((0, 2, 3)))
    without = normed_conv2d.backward(
        grad, given, factors, image, scale, shift, mean, gate, activation, weight, *window, False
    )
    assert without[0].numel() == 0 and torch.equal(without[1], actual_weight)


@pytest.mark.parametrize(
    ("channels", "out_channels", "groups", "kernel"), [(40, 56, 1, 1), (33, 33, 33, 3), (32, 32, 4, 3)]
)
def test_any_number_of_threads_gives_the_same_bits(channels: int, out_channels: int, groups: int, kernel: int) -> None:
    image = torch.randn(3, channels, 20, 17).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out_channels, channels // groups, kernel, kernel)
    scale, shift = torch.rand(channels), torch.randn(channels)
    window = ((1, 1), (kernel // 2,) * 4, (1, 1), groups)
    results = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        output, mean, variance = normed_conv2d.forward(image, scale, shift, None, "silu", weight, *window)
        factors = torch.ones(3, out_channels)
        back = normed_conv2d.backward(
            output, output, factors, image, scale, shift, shift, None, "silu", weight, *window, True
        )
        results.append([output, mean, variance, *back])
    for one, two, three in zip(*results, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


IMAGE = torch.randn(2, 16, 4, 5).contiguous(memory_format=torch.channels_last)
ONES = torch.ones(16)
WEIGHT = torch.randn(24, 16, 1, 1)
WINDOW = ([1, 1], [0, 0, 0, 0], [1, 1], 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: IMAGE.bfloat16()}, "input must have dtype float32"),
        ({0: IMAGE[:0]}, "input must not be empty"),
        ({1: None}, "scale and shift must be given together"),
        ({1: None, 2: None}, "activation and gate need scale and shift"),
        ({1: torch.ones(5)}, "scale must have 16 elements"),
        ({3: torch.ones(2, 5)}, "gate must have 32 elements"),
        ({4: "sinh"}, "activation must be"),
        ({5: torch.randn(24, 15, 1, 1)}, "weight must have 16 input channels"),
        ({5: torch.randn(24, 16, 3, 3), 7: [1, 1, 1, 1]}, "weight must have a kernel of 1x1"),
        ({5: torch.randn(16, 4, 3, 3), 9: 4}, "groups must have one or eight channels"),
        ({3: torch.ones(2, 16), 5: torch.randn(16, 1, 3, 3), 9: 16}, "gate must go with a pointwise"),
        ({6: [0, 1]}, "stride must be two positive"),
        ({7: [0, 0]}, "padding must be four"),
    ],
)
def test_wrong_calls(change: dict, message: str) -> None:
    arguments: list[Any] = [IMAGE, ONES, ONES, None, "relu", WEIGHT, *WINDOW]
    normed_conv2d.forward(*arguments)
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(RuntimeError, match=message):
        normed_conv2d.forward(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: IMAGE}, "grad must have the shape"),
        ({2: torch.ones(3, 23)}, "factors must have 72 elements"),
        ({1: None}, "output and factors must be given together"),
        ({6: None}, "mean must be given"),
    ],
)
def test_wrong_calls_backward(change: dict, message: str) -> None:
    output = normed_conv2d.forward(IMAGE, ONES, ONES, None, "relu", WEIGHT, *WINDOW)[0]
    arguments: list[Any] = [
        output,
        output,
        torch.ones(3, 24),
        IMAGE,
        ONES,
        ONES,
        ONES,
        None,
        "relu",
        WEIGHT,
        *WINDOW,
        True,
    ]
    normed_conv2d.backward(*arguments)
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(RuntimeError, match=message):
        normed_conv2d.backward(*arguments)
