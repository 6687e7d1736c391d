"""How the public functions call the kernels of fused blocks: the Python around them, on the emulator."""

import copy
import ctypes

import pytest
import torch

from convfirst_ext import ops
from convfirst_ext.fusion.cuda_fusion import fuse_block
from convfirst_ext.nn import ConvFirst, MBConv
from convfirst_ext.ops import cuda_blocks, mbconv_passes


@pytest.fixture(autouse=True)
def _emulated(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_blocks, "_raw", torch.ops.convfirst_emulated)
    monkeypatch.setattr(mbconv_passes, "_raw", torch.ops.convfirst_emulated)


def weights_of(*shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    return tuple((torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5)).half() for shape in shapes)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convfirst(layout: torch.memory_format) -> None:
    image = torch.randn(2, 16, 6, 7).half().contiguous(memory_format=layout)
    weights = weights_of((16, 8, 3, 3), (48, 16, 1, 1), (16, 48, 1, 1))
    biases = torch.randn(16).half(), None, torch.randn(16).half()
    actual = cuda_blocks.run_convfirst(image, weights, biases, ("relu", "silu"), 1, True)
    layers = [part for pair in zip(weights, biases, strict=True) for part in pair]
    expected = ops.convfirst(image, *layers, conv_activation="relu", activation="silu")
    torch.testing.assert_close(actual, expected, rtol=4e-3, atol=8e-3)


def test_convfirst_of_stride_two() -> None:
    image = torch.randn(2, 16, 6, 7).half()
    weights = weights_of((16, 8, 3, 3), (48, 32, 1, 1), (24, 48, 1, 1))
    biases = None, torch.randn(48).half(), torch.randn(24).half()
    actual = cuda_blocks.run_convfirst(image, weights, biases, ("identity", "relu"), 2, False)
    layers = [part for pair in zip(weights, biases, strict=True) for part in pair]
    torch.testing.assert_close(actual, ops.convfirst(image, *layers, 2, residual=False), rtol=4e-3, atol=8e-3)


@pytest.mark.parametrize("squeezes", [True, False])
def test_mbconv(squeezes: bool) -> None:
    image = torch.randn(2, 16, 6, 7).half()
    weights = weights_of((64, 16, 1, 1), (64, 8, 3, 3), (16, 64, 1, 1))
    biases = torch.randn(64).half(), torch.randn(64).half(), None
    squeeze = None
    if squeezes:
        reduce, expand = weights_of((4, 64, 1, 1), (64, 4, 1, 1))
        squeeze = ops.SqueezeExcite(reduce, torch.randn(4).half(), expand, None, "silu")
    actual = cuda_blocks.run_mbconv(image, weights, biases, squeeze, "relu", True)
    expected = ops.mbconv(
        image, weights[0], biases[0], weights[1], biases[1], weights[2], biases[2], squeeze_excite=squeeze,
        residual=image, groups=8, padding=1, activation="relu",
    )  # fmt: skip
    torch.testing.assert_close(actual, expected, rtol=4e-3, atol=8e-3)


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize(
    "block",
    [
        ConvFirst(16, 24, stride=2, expansion=3),
        ConvFirst(16, 16, expansion=3),
        MBConv(16, 16, expansion=4),
        MBConv(16, 24, stride=2, expansion=2),
        MBConv(16, 24, 5, 2, group_width=1, blur=False, se_ratio=0.0),
        MBConv(24, 16, expansion=1, group_width=1, se_gate="hardsigmoid"),
    ],
    ids=lambda block: type(block).__name__,
)
def test_fused_modules(block: torch.nn.Module, clusters: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What optimize puts into a model on a GPU runs a kernel, whatever the dtype that its parameters had before."""
    fused = fuse_block(block.eval()).half()
    inputs = block.convolution.in_channels
    if isinstance(block, MBConv) and isinstance(block.expand, torch.nn.Conv2d):
        inputs = block.expand.in_channels
    image = torch.randn(2, inputs, 6, 9).half()
    expected = copy.deepcopy(fused).float()(image.float())
    with monkeypatch.context() as emulated:
        emulated.setattr(cuda_blocks, "device_reason", lambda input: "")
        emulated.setattr(cuda_blocks, "has_clusters", lambda input: clusters)
        actual = fused(image)
    assert fused._wide and all(tensor.dtype == torch.float32 for tensor in fused._wide.values())
    torch.testing.assert_close(actual.float(), expected, rtol=4e-3, atol=8e-3)
    assert not fused.float()._wide
