"""Inverted residuals in passes on the emulator, against torch's layers in float64."""

import ctypes
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from emulated_calls import channels_last
from torch import Tensor

from convfirst_ext.nn import BlurPool
from convfirst_ext.ops.activation import apply_activation

DTYPES = (torch.float16, torch.bfloat16)


class Block(NamedTuple):
    """A block's sizes; expansion 0 leaves that layer out, squeezed 0 squeeze-excite."""

    channels: int
    hidden: int
    outputs: int
    squeezed: int
    size: tuple[int, int, int]
    width: int = 1
    kernel: int = 3
    stride: int = 1
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    blur: bool = False
    expands: bool = True
    activation: str = "relu"
    se_gate: str = "sigmoid"
    residual: bool = False


def make(block: Block, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Named as the operator's arguments; activations keep their size."""
    batch, height, width = block.size
    c, e = block.channels, block.hidden
    shapes = {"conv": (e, block.width, block.kernel, block.kernel), "project": (block.outputs, e, 1, 1)}
    if block.expands:
        shapes["expand"] = (e, c, 1, 1)
    if block.squeezed:
        shapes |= {"se_reduce": (block.squeezed, e, 1, 1), "se_expand": (e, block.squeezed, 1, 1)}
    tensors: dict[str, Tensor | None] = {"input": torch.randn(batch, c, height, width).to(dtype)}
    for name in ("expand", "conv", "project", "se_reduce", "se_expand"):
        tensors[f"{name}_weight"] = tensors[f"{name}_bias"] = None
        if name in shapes:
            shape = shapes[name]
            weight = torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5)
            tensors[f"{name}_weight"] = weight if name.startswith("se_") else weight.to(dtype)
            tensors[f"{name}_bias"] = torch.randn(shape[0])
    return tensors


def reference(block: Block, tensors: dict[str, Tensor | None], dtype: torch.dtype) -> Tensor:
    """In float64, but rounded where the kernels store operands; without residual."""
    wide = {name: None if tensor is None else tensor.double() for name, tensor in tensors.items()}

    def layer(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, wide[f"{name}_weight"], wide[f"{name}_bias"], **options)

    x = wide["input"]
    if block.expands:
        x = apply_activation(block.activation, layer(x, "expand")).to(dtype).double()
    groups = block.hidden // block.width
    x = apply_activation(block.activation, layer(F.pad(x, block.padding), "conv", stride=block.stride, groups=groups))
    if block.blur:
        x = BlurPool(block.hidden).double()(x.to(dtype).double())
    means, x = x.mean((2, 3), keepdim=True), x.to(dtype).double()
    if block.squeezed:
        gate = apply_activation(block.se_gate, layer(F.silu(layer(means, "se_reduce")), "se_expand"))
        x = (x * gate).to(dtype).double()
    return apply_activation("identity" if block.expands else "relu6", layer(x, "project"))


def run(block: Block, tensors: dict[str, Tensor | None], residual: Tensor | None) -> Tensor:
    names = [f"{name}_{kind}" for name in ("expand", "conv", "project") for kind in ("weight", "bias")]
    squeeze = [f"{name}_{kind}" for name in ("se_reduce", "se_expand") for kind in ("weight", "bias")]
    layers = [tensors[name] for name in names]
    return torch.ops.convfirst_emulated.mbconv_passes(
        channels_last(tensors["input"]), *layers, residual, *(tensors[name] for name in squeeze), block.stride,
        list(block.padding), block.blur, block.activation, "identity" if block.expands else "relu6", "silu",
        block.se_gate,
    )  # fmt: skip


def check(block: Block, dtype: torch.dtype) -> None:
    tensors = make(block, dtype)
    expected = reference(block, tensors, dtype)
    residual = channels_last(torch.randn(expected.shape).to(dtype)) if block.residual else None
    actual = run(block, tensors, residual).double()
    expected = expected if residual is None else expected + residual.double()
    unit = torch.finfo(dtype).eps
    error = (actual - expected).abs()
    assert (error <= unit * (expected.abs() + 4)).all(), f"off by {error.max():.3g}"
    assert error.norm() <= 0.7 * unit * expected.norm()


SAME5 = (1, 2, 1, 2)  # what "same" padding of a 5x5 kernel with stride 2 adds to an even size
BLOCKS = {
    "whole images, several a block": Block(16, 64, 24, 4, (5, 5, 7), width=8, residual=True),
    "tiles with halos": Block(8, 24, 16, 0, (1, 21, 19), width=8),
    "tiles with squeeze-excite": Block(24, 72, 24, 6, (2, 18, 17), width=8, activation="silu", residual=True),
    "blurred": Block(16, 64, 32, 4, (1, 9, 12), width=8, blur=True),
    "blurred tiles": Block(8, 72, 8, 4, (2, 19, 33), width=8, blur=True),
    "two by two, blurred": Block(8, 16, 8, 2, (3, 2, 2), width=8, blur=True),
    "depthwise": Block(40, 136, 40, 8, (2, 7, 9), residual=True),
    "depthwise in tiles": Block(16, 48, 72, 0, (1, 25, 14), activation="relu6"),
    "depthwise, stride 2": Block(24, 64, 8, 0, (2, 13, 22), stride=2, activation="relu6"),
    "depthwise 5x5": Block(16, 72, 136, 12, (1, 14, 11), kernel=5, padding=(2, 2, 2, 2), se_gate="hardsigmoid"),
    "depthwise 5x5, stride 2": Block(32, 40, 16, 4, (2, 18, 14), kernel=5, stride=2, padding=SAME5),
    "uneven padding": Block(16, 16, 16, 0, (1, 9, 8), padding=(0, 2, 2, 1), stride=2),
    "no expansion": Block(72, 72, 48, 0, (2, 11, 12), expands=False),
    "no expansion, squeeze-excite": Block(32, 32, 16, 8, (3, 8, 8), expands=False, stride=2, activation="silu"),
    "one pixel": Block(8, 16, 8, 2, (3, 1, 1), width=8),
    "wide": Block(200, 320, 200, 10, (1, 4, 4), width=8, residual=True),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(library: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    library.emulator_set_seed(ctypes.c_uint64(len(name)))
    check(BLOCKS[name], dtype)


def test_the_order_of_threads_changes_nothing(library: ctypes.CDLL) -> None:
    block = Block(16, 48, 24, 4, (3, 10, 18), width=8, blur=True)
    tensors = make(block, torch.float16)
    results = []
    for seed in (1, 2):
        library.emulator_set_seed(ctypes.c_uint64(seed))
        results.append(run(block, tensors, None))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("block", "dtype", "message"),
    [
        (Block(16, 64, 16, 0, (1, 4, 4)), torch.float32, "input must have dtype float16 or bfloat16"),
        (Block(12, 64, 16, 0, (1, 4, 4)), torch.float16, "input and hidden channels must be multiples of 8"),
        (Block(16, 64, 12, 0, (1, 4, 4)), torch.float16, "multiple of 8 output channels"),
        (Block(16, 64, 16, 0, (1, 9, 9), stride=3), torch.float16, "stride must be 1 or 2"),
        (Block(16, 64, 16, 0, (1, 9, 9), padding=(3, 1, 1, 1)), torch.float16, "padding must be less than the kernel"),
        (Block(16, 64, 16, 0, (1, 9, 9), blur=True), torch.float16, "groups must have 8 channels"),
        (Block(16, 64, 16, 0, (1, 9, 9), width=8, stride=2), torch.float16, "stride and padding must be 1"),
        (Block(16, 64, 16, 0, (1, 9, 9), kernel=7), torch.float16, "depthwise, 3x3 or 5x5"),
        (Block(16, 64, 16, 0, (1, 1, 9), width=8, blur=True), torch.float16, "2 x 2 pixels"),
        (Block(16, 64, 16, 0, (1, 4, 4), expands=False), torch.float16, "expand_weight must be given"),
    ],
)
def test_what_no_kernel_takes_is_named(library: ctypes.CDLL, block: Block, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(block, make(block, dtype), None)
