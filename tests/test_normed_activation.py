"""Batch norm with an activation behind it, whole tensors at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops import normed_activation
from convfirst_ext.ops.activation import apply_activation

SHAPES = [(2, 3, 1, 1), (1, 17, 3, 5), (5, 40, 9, 7), (3, 33, 30, 31)]


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("activation", normed_activation.ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_and_its_gradients(shape: tuple[int, ...], activation: str) -> None:
    image, grad = torch.randn(shape), torch.randn(shape)
    scale, shift = torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    exact = [t.double().requires_grad_() for t in (image, scale, shift)]
    expected = apply_activation(activation, F.batch_norm(exact[0], None, None, *exact[1:], training=True, eps=1e-3))
    for layout in (torch.contiguous_format, torch.channels_last):
        leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (image, scale, shift)]
        given = leaves[0].contiguous(memory_format=layout)
        output, mean, variance = normed_activation.batch_norm(given, *leaves[1:], 1e-3, activation)
        torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
        assert not mean.requires_grad and not variance.requires_grad
        for actual, wanted in zip(
            torch.autograd.grad(output, leaves, grad),
            torch.autograd.grad(expected, exact, grad.double(), True),
            strict=True,
        ):
            torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item() + 1e-5)


def test_second_gradients() -> None:
    image, scale, shift = torch.randn(3, 4, 5, 4), torch.rand(4) + 0.5, torch.randn(4)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (image, scale, shift)]
        if dtype == torch.float32:
            output, _, _ = normed_activation.batch_norm(*leaves, 1e-5, "silu")
        else:
            output = F.silu(F.batch_norm(leaves[0], None, None, *leaves[1:], training=True))
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), leaves)
        results.append([*first, *second])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("activation", ["identity", "silu", "gelu"])
def test_residual_mean_and_gate(activation: str) -> None:
    image, residual, grad = (channels_last(3, 20, 5, 6) for _ in range(3))
    scale, shift = torch.rand(20) + 0.5, torch.randn(20)
    gate, offset = torch.rand(3, 20), torch.randn(3, 20)
    value = image.double() * scale[:, None, None] + shift[:, None, None]
    value = apply_activation(activation, value)
    actual = normed_activation.apply(image, scale, shift, activation, residual)
    torch.testing.assert_close(actual.double(), value + residual, rtol=1e-5, atol=1e-5)
    actual = normed_activation.mean_of_pixels(image, scale, shift, activation)
    torch.testing.assert_close(actual.double(), value.mean((2, 3)), rtol=1e-5, atol=1e-5)

    z = (image.double() * scale[:, None, None] + shift[:, None, None]).requires_grad_()
    through = grad.double() * gate[:, :, None, None] + offset[:, :, None, None]
    (expected,) = torch.autograd.grad(apply_activation(activation, z), z, through)
    mean = image.mean((0, 2, 3))
    kept, sums = normed_activation.backward(grad, image, scale, shift, mean, activation, gate, offset, True)
    torch.testing.assert_close(kept.double(), expected, rtol=1e-4, atol=1e-4)
    centred = image.double() - mean[:, None, None]
    wanted = torch.stack((expected.sum((0, 2, 3)), (expected * centred).sum((0, 2, 3))))
    torch.testing.assert_close(sums.double(), wanted, rtol=1e-4, atol=2e-3)
    nothing, again = normed_activation.backward(grad, image, scale, shift, mean, activation, gate, offset, False)
    assert nothing.numel() == 0 and torch.equal(again, sums)


IMAGE = torch.randn(2, 6, 4, 5).contiguous(memory_format=torch.channels_last)
SIX = torch.ones(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGE.bfloat16(), SIX, SIX, "relu", None), "input must have dtype float32"),
        ((IMAGE, torch.ones(5), SIX, "relu", None), "scale must have 6 elements"),
        ((IMAGE, SIX, SIX.double(), "relu", None), "shift must be a contiguous float32"),
        ((IMAGE, SIX, SIX, "tanh", None), "activation must be"),
        ((IMAGE, SIX, SIX, "relu", IMAGE[:1]), "residual must have the shape"),
        ((IMAGE[:, :, 0], SIX, SIX, "relu", None), "input must have 4 dimensions"),
    ],
)
def test_wrong_calls(arguments: tuple, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        normed_activation.apply(*arguments)
