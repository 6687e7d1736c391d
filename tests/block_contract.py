"""What a block of layers promises: the values, gradients and statistics of the same layers as torch's functions."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import relative_error, with_statistics
from torch import Tensor, nn

import convfirst_ext as cf

Weights = dict[str, Tensor]
Reference = Callable[[Weights, Tensor, bool], Tensor]


def convolve_and_normalize(
    weights: Weights, name: str, input: Tensor, training: bool, groups: int = 1, stride: int = 1
) -> Tensor:
    """The convolution of that name and its batch norm, which moves the running statistics in training."""
    weight = weights[f"{name}.weight"]
    output = F.conv2d(input, weight, weights.get(f"{name}.bias"), stride, weight.shape[2] // 2, 1, groups)
    norm = [weights[f"{name}_norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(output, *norm, training=training)


def blur(input: Tensor) -> Tensor:
    """Every second pixel of the reflected image under [1, 2, 1] / 4 in both directions, one tap at a time."""
    padded = F.pad(input, (1, 1, 1, 1), mode="reflect")
    rows = (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / 4
    both = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return both[:, :, ::2, ::2]


def assert_agrees(block: nn.Module, reference: Reference, image: Tensor) -> None:
    """Forward, gradients and running statistics, in eval and in training mode, in float64."""
    block = with_statistics(block).double()
    for training in (False, True):
        block.train(training)
        weights = dict(block.named_parameters()) | {key: value.clone() for key, value in block.named_buffers()}
        leaves = [image.double().requires_grad_(), *block.parameters()]
        expected = reference(weights, leaves[0], training)
        actual = block(leaves[0])
        torch.testing.assert_close(actual, expected)
        cotangent = torch.randn_like(expected)
        gradients = [torch.autograd.grad(output, leaves, cotangent) for output in (actual, expected)]
        scale = max(gradient.abs().max().item() for gradient in gradients[1])
        for ours, torchs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-9 * scale)
        for key, value in block.named_buffers():
            if "running" in key:
                torch.testing.assert_close(value, weights[key], msg=key)


def assert_patched_and_optimized_agree(block: nn.Module, image: Tensor) -> None:
    """``patch`` keeps keys and output, ``optimize`` the output."""
    block = with_statistics(block).eval()
    with torch.no_grad():
        expected = block(image)
        patched = cf.patch(copy.deepcopy(block))
        assert any(isinstance(module, cf.nn.Conv2d) for module in patched.modules())
        assert list(patched.state_dict()) == list(block.state_dict())
        assert relative_error(patched(image), expected) < 1e-4
        fast = cf.optimize(block)
        assert relative_error(fast(image), expected) < 1e-4
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
