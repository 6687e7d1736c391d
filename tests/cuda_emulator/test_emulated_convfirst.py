"""The fused ConvFirst block on the emulator, against torch's layers in float64."""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from emulated_calls import channels_last
from torch import Tensor

from convfirst_ext.nn import BlurPool
from convfirst_ext.ops.activation import apply_activation

DTYPES = (torch.float16, torch.bfloat16)


def make(
    channels: int, hidden: int, size: tuple[int, int, int], dtype: torch.dtype, outputs: int = 0, stride: int = 1
) -> list[Tensor]:
    """Input, then weight and bias of convolution, expansion and projection; activations keep their size."""
    batch, height, width = size
    image = torch.randn(batch, channels, height, width).to(dtype)
    shapes = ((channels, 8, 3, 3), (hidden, stride * channels, 1, 1), (outputs or channels, hidden, 1, 1))
    tensors = [image]
    for shape in shapes:
        weight = torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5)
        tensors += [weight.to(dtype), torch.randn(shape[0])]
    return tensors


def reference(
    tensors: list[Tensor], conv_activation: str, activation: str, residual: bool, dtype: torch.dtype
) -> Tensor:
    """In float64, but rounded where the kernel rounds operands: behind the convolution and behind the activation."""
    image, conv, conv_bias, expand, expand_bias, project, project_bias = (tensor.double() for tensor in tensors)
    x = F.conv2d(image, conv, conv_bias, padding=1, groups=len(conv) // 8)
    x = apply_activation(conv_activation, x).to(dtype).double()
    if expand.shape[1] == 2 * conv.shape[0]:
        blur = BlurPool(len(conv)).double()
        x = torch.cat((blur(image), blur(x)), 1).to(dtype).double()
    x = apply_activation(activation, F.conv2d(x, expand, expand_bias)).to(dtype).double()
    x = F.conv2d(x, project, project_bias)
    return x + image if residual else x


def check(
    channels: int,
    hidden: int,
    size: tuple[int, int, int],
    dtype: torch.dtype,
    activation: str = "relu",
    conv_activation: str = "identity",
    residual: bool = True,
    outputs: int = 0,
    stride: int = 1,
) -> None:
    tensors = make(channels, hidden, size, dtype, outputs, stride)
    dense = [channels_last(tensors[0]), *tensors[1:]]
    actual = torch.ops.convfirst_emulated.convfirst(*dense, conv_activation, activation, stride, residual).double()
    expected = reference(tensors, conv_activation, activation, residual, dtype)
    # Rounding of the result, and of operands that fp32 and fp64 sums round to different neighbours.
    unit = torch.finfo(dtype).eps
    error = (actual - expected).abs()
    assert (error <= unit * (expected.abs() + 2)).all(), f"off by {error.max():.3g}"
    assert error.norm() <= 0.5 * unit * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("channels", "hidden", "size"),
    [
        (8, 24, (1, 5, 7)),
        (16, 64, (2, 17, 18)),
        (24, 72, (1, 9, 33)),
        (32, 192, (1, 16, 16)),
        (48, 144, (1, 18, 5)),
        (64, 192, (1, 7, 17)),
        (72, 216, (1, 3, 16)),
        (96, 288, (1, 9, 6)),
        (128, 384, (1, 8, 17)),
    ],
)
def test_sizes_around_tiles(
    library: ctypes.CDLL, channels: int, hidden: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    library.emulator_set_seed(ctypes.c_uint64(channels))
    check(channels, hidden, size, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("channels", "hidden", "outputs", "size"),
    [
        (8, 24, 16, (1, 2, 2)),
        (16, 48, 32, (2, 9, 31)),
        (24, 72, 48, (1, 17, 5)),
        (32, 96, 24, (1, 16, 32)),
        (48, 160, 72, (1, 3, 36)),
        (64, 192, 96, (1, 18, 7)),
        (24, 40, 128, (1, 5, 33)),
    ],
)
def test_stride_two(
    library: ctypes.CDLL, channels: int, hidden: int, outputs: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    library.emulator_set_seed(ctypes.c_uint64(channels))
    relu = "relu" if channels % 16 else "identity"
    check(channels, hidden, size, dtype, "relu", relu, residual=False, outputs=outputs, stride=2)


@pytest.mark.parametrize(("channels", "outputs"), [(16, 40), (72, 24)])
def test_other_output_channels(library: ctypes.CDLL, channels: int, outputs: int) -> None:
    check(channels, 48, (1, 5, 18), torch.float16, residual=False, outputs=outputs)


@pytest.mark.parametrize("activation", ["silu", "gelu", "hardswish", "identity"])
def test_activations_and_no_residual(emulator: ctypes.CDLL, activation: str) -> None:
    check(24, 40, (1, 6, 9), torch.float16, activation, "relu", residual=False)


def test_without_biases(library: ctypes.CDLL) -> None:
    image, conv, _, expand, _, project, _ = make(16, 48, (1, 8, 8), torch.float16)
    actual = torch.ops.convfirst_emulated.convfirst(
        channels_last(image), conv, None, expand, None, project, None, "identity", "relu", 1, True
    )
    zeros = [torch.zeros(count) for count in (16, 48, 16)]
    tensors = [image, conv, zeros[0], expand, zeros[1], project, zeros[2]]
    expected = reference(tensors, "identity", "relu", True, torch.float16)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("channels", "hidden", "dtype", "message"),
    [
        (16, 48, torch.float32, "input must have dtype float16 or bfloat16"),
        (136, 272, torch.float16, "input must have a multiple of 8 channels up to 128"),
        (16, 44, torch.float16, "expand_weight must have a multiple of 8 hidden channels"),
    ],
)
def test_what_no_kernel_takes_is_named(
    library: ctypes.CDLL, channels: int, hidden: int, dtype: torch.dtype, message: str
) -> None:
    tensors = make(channels, hidden, (1, 4, 4), dtype)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convfirst_emulated.convfirst(channels_last(tensors[0]), *tensors[1:], "identity", "relu", 1, True)
    with pytest.raises(RuntimeError, match="project_weight does not fit"):
        tensors = make(16, 48, (1, 4, 4), torch.float16)
        tensors[5] = tensors[5][:, :40]
        torch.ops.convfirst_emulated.convfirst(channels_last(tensors[0]), *tensors[1:], "identity", "relu", 1, True)


@pytest.mark.parametrize(
    ("channels", "size", "stride", "residual", "message"),
    [
        (72, (1, 4, 4), 2, False, "multiple of 8 channels up to 64 where stride is 2"),
        (16, (1, 1, 4), 2, False, "2 x 2 pixels where stride is 2"),
        (16, (1, 4, 4), 2, True, "residual must be False"),
        (16, (1, 4, 4), 3, False, "stride must be 1 or 2"),
    ],
)
def test_what_stride_two_does_not_take_is_named(
    library: ctypes.CDLL, channels: int, size: tuple[int, int, int], stride: int, residual: bool, message: str
) -> None:
    tensors = make(channels, 48, size, torch.float16, stride=stride)
    arguments = channels_last(tensors[0]), *tensors[1:], "identity", "relu", stride, residual
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convfirst_emulated.convfirst(*arguments)
