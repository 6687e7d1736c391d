"""The fused MBConv block with squeeze-excite on the emulator, against torch's layers in float64."""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from emulated_calls import channels_last
from torch import Tensor

from convfirst_ext.ops.activation import apply_activation

DTYPES = (torch.float16, torch.bfloat16)


def make(
    channels: int, hidden: int, squeezed: int, size: tuple[int, int, int], dtype: torch.dtype
) -> list[Tensor | None]:
    """Input, then weight and bias of expansion, convolution, projection and the two layers of squeeze-excite."""
    batch, height, width = size
    tensors: list[Tensor | None] = [torch.randn(batch, channels, height, width).to(dtype)]
    for shape in ((hidden, channels, 1, 1), (hidden, 8, 3, 3), (channels, hidden, 1, 1)):
        weight = torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5)
        tensors += [weight.to(dtype), torch.randn(shape[0])]
    for shape in ((squeezed, hidden, 1, 1), (hidden, squeezed, 1, 1)):
        tensors += [torch.randn(shape) * (2 / shape[1] ** 0.5), torch.randn(shape[0])] if squeezed else [None, None]
    return tensors


def reference(tensors: list[Tensor | None], activation: str, residual: bool, dtype: torch.dtype) -> Tensor:
    """In float64, but rounded where the kernel stores operands."""
    wide = [tensor if tensor is None else tensor.double() for tensor in tensors]
    image, expand, expand_bias, conv, conv_bias, project, project_bias, *squeeze_excite = wide
    x = apply_activation(activation, F.conv2d(image, expand, expand_bias)).to(dtype).double()
    x = apply_activation(activation, F.conv2d(x, conv, conv_bias, padding=1, groups=len(conv) // 8))
    means = x.mean((2, 3), keepdim=True)
    x = x.to(dtype).double()
    if squeeze_excite[0] is not None:
        reduce, reduce_bias, excite, excite_bias = squeeze_excite
        gate = F.conv2d(F.relu(F.conv2d(means, reduce, reduce_bias)), excite, excite_bias).sigmoid()
        x = (x * gate).to(dtype).double()
    x = F.conv2d(x, project, project_bias)
    return x + image if residual else x


def check(
    channels: int, hidden: int, squeezed: int, size: tuple[int, int, int], dtype: torch.dtype,
    activation: str = "relu", residual: bool = True,
) -> None:  # fmt: skip
    tensors = make(channels, hidden, squeezed, size, dtype)
    dense = [channels_last(tensors[0]), *tensors[1:]]
    actual = torch.ops.convfirst_emulated.mbconv(*dense, activation, "relu", residual).double()
    expected = reference(tensors, activation, residual, dtype)
    unit = torch.finfo(dtype).eps
    error = (actual - expected).abs()
    assert (error <= unit * (expected.abs() + 3)).all(), f"off by {error.max():.3g}"
    assert error.norm() <= 0.6 * unit * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("channels", "hidden", "squeezed", "size"),
    [
        (16, 64, 4, (2, 7, 7)),
        (24, 128, 6, (1, 5, 9)),
        (48, 192, 12, (1, 8, 8)),
        (128, 128, 32, (1, 3, 16)),
        (32, 64, 8, (1, 16, 16)),
        (8, 256, 40, (1, 1, 5)),
    ],
)
def test_sizes_around_tiles(
    library: ctypes.CDLL, channels: int, hidden: int, squeezed: int, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    library.emulator_set_seed(ctypes.c_uint64(channels))
    check(channels, hidden, squeezed, size, dtype)


def test_without_squeeze_excite_and_residual(emulator: ctypes.CDLL) -> None:
    check(16, 128, 0, (1, 6, 7), torch.float16, "silu", residual=False)


@pytest.mark.parametrize(
    ("channels", "hidden", "size", "dtype", "message"),
    [
        (16, 64, (1, 4, 4), torch.float32, "input must have dtype float16 or bfloat16"),
        (136, 192, (1, 4, 4), torch.float16, "multiple of 8 channels up to 128"),
        (16, 96, (1, 4, 4), torch.float16, "multiple of 64 hidden channels up to 1024"),
        (16, 64, (1, 17, 16), torch.float16, "at most 256 pixels"),
    ],
)
def test_what_no_kernel_takes_is_named(
    library: ctypes.CDLL, channels: int, hidden: int, size: tuple[int, int, int], dtype: torch.dtype, message: str
) -> None:
    tensors = make(channels, hidden, 0, size, dtype)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.convfirst_emulated.mbconv(channels_last(tensors[0]), *tensors[1:], "relu", "relu", True)
