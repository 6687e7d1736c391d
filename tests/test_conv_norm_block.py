"""Rows of convolution, norm and activation as one operator, against the same in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convfirst_ext as cf
from convfirst_ext import ops
from convfirst_ext.ops.activation import apply_activation
from convfirst_ext.ops.conv_norm_block import ConvNorm, conv_norm_block

Leaves = list[Tensor]


def reference(
    layers: list[ConvNorm], image: Tensor, weights: Leaves, scales: Leaves, shifts: Leaves, se: Leaves, squeezed: int
) -> Tensor:
    value = image
    for i, layer in enumerate(layers):
        value = F.conv2d(F.pad(value, layer.padding), weights[i], None, layer.stride, 0, layer.dilation, layer.groups)
        if layer.batch_norm:
            value = F.batch_norm(value, None, None, scales[i], shifts[i], training=True, eps=layer.epsilon)
        else:
            value = value * scales[i][:, None, None] + shifts[i][:, None, None]
        value = apply_activation(layer.activation, value)
        if i == squeezed:
            hidden = F.silu(F.conv2d(value.mean((2, 3), keepdim=True), se[0], se[1]))
            value = value * torch.sigmoid(F.conv2d(hidden, se[2], se[3]))
    return value


def leaves_of(dtype: torch.dtype, values: Leaves) -> Leaves:
    return [value.to(dtype).detach().requires_grad_() for value in values]


def check(
    layers: list[ConvNorm],
    shapes: list[tuple[int, ...]],
    size: tuple[int, ...],
    squeezed: int = -1,
    residual: bool = False,
) -> None:
    torch.manual_seed(0)
    count = len(layers)
    values = [torch.randn(size)]
    values += [torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5 for shape in shapes]
    values += [torch.rand(shape[0]) + 0.5 for shape in shapes] + [torch.randn(shape[0]) * 0.5 for shape in shapes]
    if squeezed >= 0:
        hidden = shapes[squeezed][0]
        values += [
            torch.randn(6, hidden, 1, 1) * 0.3,
            torch.randn(6),
            torch.randn(hidden, 6, 1, 1) * 0.3,
            torch.randn(hidden),
        ]
    exact, ours = leaves_of(torch.float64, values), leaves_of(torch.float32, values)
    image, *rest = exact
    parts = rest[:count], rest[count : 2 * count], rest[2 * count : 3 * count], rest[3 * count :]
    expected = reference(layers, image, *parts, squeezed)
    expected = expected + image if residual else expected
    image, *rest = ours
    se = ops.SqueezeExcite(*rest[3 * count :], "silu", "sigmoid") if squeezed >= 0 else None  # type: ignore[call-arg]
    output, statistics = conv_norm_block(
        image,
        layers,
        rest[:count],
        rest[count : 2 * count],
        rest[2 * count : 3 * count],
        squeeze_excite=se,
        squeezed=squeezed,
        residual=image if residual else None,
    )
    assert len(statistics) == count and output.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn(output.shape)
    actual = [output, *torch.autograd.grad(output, ours, grad)]
    wanted = [expected, *torch.autograd.grad(expected, exact, grad.double())]
    largest = max(value.abs().max().item() for value in wanted[1:])
    for got, want in zip(actual, wanted, strict=True):
        error = (got.double() - want).abs().max().item()
        assert error <= 2e-5 * want.abs().max().item() + 1e-6 * largest


@pytest.mark.parametrize("activation", ["identity", "relu6", "silu", "hardswish"])
def test_inverted_residual(activation: str) -> None:
    layers = [
        ConvNorm(activation=activation),
        ConvNorm(padding=(1, 1, 1, 1), groups=72, activation=activation),
        ConvNorm(),
    ]
    check(layers, [(72, 24, 1, 1), (72, 1, 3, 3), (24, 72, 1, 1)], (3, 24, 14, 13), residual=True)


def test_stride_and_kernel() -> None:
    layers = [ConvNorm(activation="relu6"), ConvNorm((2, 2), (2, 2, 2, 2), groups=40, activation="relu6"), ConvNorm()]
    check(layers, [(40, 16, 1, 1), (40, 1, 5, 5), (24, 40, 1, 1)], (2, 16, 15, 12))


def test_squeeze_excite() -> None:
    layers = [ConvNorm(activation="silu"), ConvNorm((1, 1), (2, 2, 2, 2), groups=100, activation="silu"), ConvNorm()]
    check(layers, [(100, 24, 1, 1), (100, 1, 5, 5), (40, 100, 1, 1)], (3, 24, 9, 10), squeezed=1)


def test_asymmetric_padding() -> None:
    layers = [ConvNorm((2, 2), (0, 1, 0, 1), groups=20, activation="silu"), ConvNorm()]
    check(layers, [(20, 1, 3, 3), (40, 20, 1, 1)], (3, 20, 9, 10))


def test_group_width_eight() -> None:
    layers = [ConvNorm(padding=(1, 1, 1, 1), groups=3), ConvNorm(activation="relu"), ConvNorm()]
    check(layers, [(24, 8, 3, 3), (96, 24, 1, 1), (24, 96, 1, 1)], (3, 24, 9, 10), residual=True)


def test_convolutions_that_torch_computes() -> None:
    layers = [
        ConvNorm((2, 2), (1, 1, 1, 1), activation="relu"),
        ConvNorm(padding=(1, 1, 1, 1), activation="hardswish"),
        ConvNorm(),
    ]
    check(layers, [(32, 3, 3, 3), (20, 32, 3, 3), (16, 20, 1, 1)], (3, 3, 19, 21))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_scale_and_shift_instead_of_batch_norm(activation: str) -> None:
    layers = [ConvNorm(activation=activation, batch_norm=False), ConvNorm(batch_norm=False)]
    check(layers, [(80, 20, 1, 1), (20, 80, 1, 1)], (2, 20, 7, 8), residual=True)


def test_no_scale() -> None:
    image, weight, shift = torch.randn(2, 8, 3, 4), torch.randn(16, 8, 1, 1), torch.randn(16)
    leaves = [image.requires_grad_(), weight.requires_grad_(), shift.requires_grad_()]
    layer = ConvNorm(activation="relu", batch_norm=False)
    output, _ = conv_norm_block(image, [layer], [weight], [None], [shift])
    expected = F.relu(F.conv2d(*leaves))
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(output)
    for actual, wanted in zip(
        torch.autograd.grad(output, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


def test_wants_no_more_gradients_than_asked_for() -> None:
    image, weight = torch.randn(2, 8, 5, 5), torch.randn(8, 1, 3, 3, requires_grad=True)
    layer = ConvNorm(padding=(1, 1, 1, 1), groups=8)
    output, _ = conv_norm_block(image, [layer], [weight], [torch.ones(8)], [torch.zeros(8)])
    output.square().sum().backward()
    assert weight.grad is not None and image.grad is None
    with torch.no_grad():
        again, _ = conv_norm_block(image, [layer], [weight], [torch.ones(8)], [torch.zeros(8)])
    assert torch.equal(again, output)


def test_kept_memory_is_used_again_and_can_be_given_back() -> None:
    image, weight = torch.randn(4, 16, 64, 64), torch.randn(64, 16, 1, 1)
    arguments = ([ConvNorm()], [weight], [torch.ones(64)], [torch.zeros(64)])
    first = conv_norm_block(image, *arguments).output
    expected = first.clone()
    del first
    cf.release_memory()
    second = conv_norm_block(image, *arguments).output
    assert torch.equal(second, expected)
    del second
    assert cf.release_memory() >= expected.numel() * 4
    assert cf.release_memory() == 0


def test_second_gradients() -> None:
    torch.manual_seed(0)
    layers = [ConvNorm(activation="silu"), ConvNorm(padding=(1, 1, 1, 1), groups=16, activation="silu"), ConvNorm()]
    values = [torch.randn(3, 8, 5, 4), torch.randn(16, 8, 1, 1), torch.randn(16, 1, 3, 3), torch.randn(8, 16, 1, 1)]
    values += [torch.rand(c) + 0.5 for c in (16, 16, 8)] + [torch.randn(c) for c in (16, 16, 8)]
    values += [torch.randn(6, 16, 1, 1), torch.randn(6), torch.randn(16, 6, 1, 1), torch.randn(16)]
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = leaves_of(dtype, values)
        image, *rest = leaves
        if dtype == torch.float32:
            se = ops.SqueezeExcite(*rest[9:], "silu", "sigmoid")  # type: ignore[call-arg]
            output = conv_norm_block(
                image, layers, rest[:3], rest[3:6], rest[6:9], squeeze_excite=se, squeezed=1, residual=image
            ).output
        else:
            output = reference(layers, image, rest[:3], rest[3:6], rest[6:9], rest[9:], 1) + image
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(torch.stack([g.square().mean() for g in first]).sum(), leaves)
        results.append([*first, *second])
    largest = max(value.abs().max().item() for value in results[1])
    for actual, expected in zip(*results, strict=True):
        error = (actual.double() - expected).abs().max().item()
        assert error <= 2e-3 * expected.abs().max().item() + 1e-5 * largest
