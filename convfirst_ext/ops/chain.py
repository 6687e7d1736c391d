"""A chain of packed blocks in one call: what the blocks are, written as integers, and the call itself."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convfirst_ext.ops.activation import ACTIVATIONS
from convfirst_ext.ops.packed import KERNELS

_raw = torch.ops.convfirst
_chain = _raw.chain_packed.default
_profile_chain = _raw.profile_chain_packed.default

# What a step is; csrc/cpu/chain_program.cpp reads the same numbers.
CONVOLUTION, FUSED_BLOCK, GLOBAL_POOL, LAYER_NORM, CONVNEXT_BLOCK = range(5)
WINDOW_INTEGERS = 9


class Step(NamedTuple):
    """One block of a chain.

    Attributes:
        kind: CONVOLUTION, FUSED_BLOCK, GLOBAL_POOL, LAYER_NORM or CONVNEXT_BLOCK.
        integers: what the kernel needs beside its tensors, from the functions below.
        tensors: packed weights and biases.
    """

    kind: int
    integers: tuple[int, ...]
    tensors: tuple[Tensor, ...]


def window_integers(stride: Sequence[int], dilation: Sequence[int], padding: Sequence[int] | None) -> tuple[int, ...]:
    """Stride, dilation and padding (left, right, top, bottom) of a window; None computes TensorFlow's 'same'."""
    return (*stride, *dilation, int(padding is None), *(padding or (0, 0, 0, 0)))


def activation_integer(name: str) -> int:
    """The number of an activation."""
    return ACTIVATIONS.index(name)


def real_integer(value: float) -> int:
    """A float32 as the integer with the same bits."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def convolution(
    kernel: str, weight: Tensor, bias: Tensor, window: tuple[int, ...], groups: int, out_channels: int, activation: str
) -> Step:
    """``ops.packed.conv2d`` as a step."""
    integers = (KERNELS.index(kernel), out_channels, groups, *window, activation_integer(activation))
    return Step(CONVOLUTION, integers, (weight, bias))


def run(input: Tensor, tensors: list[Tensor], program: list[int], flat: bool) -> Tensor:
    """Runs the steps of a program one after the other.

    Args:
        input: (N, C, H, W) in float32, bfloat16 or float16: dense channels_last, or contiguous where the first step is
            a dense convolution.
        tensors: of all steps, in order.
        program: of every step its kind, the value it reads, the value it adds or -1, and its integers. Value 0 is the
            input, value i + 1 the result of step i.
        flat: whether the result, then of one pixel, is (N, C') instead of (N, C', 1, 1).

    Returns:
        The last step's result in input's dtype, channels_last where it has four dimensions.

    Raises:
        RuntimeError: the program, the tensors and the input do not fit each other.
    """
    return _chain(input, tensors, program, flat)


def run_step(input: Tensor, step: Step, residual: bool = False) -> Tensor:
    """A chain of one step on a (N, C, H, W) tensor of any layout, which adds its own input where ``residual``."""
    dense = input.contiguous(memory_format=torch.channels_last)
    return run(dense, list(step.tensors), [step.kind, 0, 0 if residual else -1, *step.integers], False)


def profile(input: Tensor, tensors: list[Tensor], program: list[int], flat: bool) -> tuple[Tensor, Tensor]:
    """``run``, and the seconds that every step took (float64)."""
    return _profile_chain(input, tensors, program, flat)


def output_shape(shape: Sequence[int], tensors: Sequence[Tensor], program: Sequence[int]) -> tuple[int, int, int, int]:
    """(N, C, H, W) of a chain's result; sizes may be symbolic."""
    values: list[tuple[int, int, int, int]] = [tuple(shape)]  # type: ignore[list-item]
    position = next_tensor = 0
    while position < len(program):
        kind, source = program[position], values[program[position + 1]]
        integers, used, weight = _STEP_SIZES[kind](program[position + 3 :], tensors[next_tensor:])
        values.append(_step_shape(kind, source, integers, weight))
        position += 3 + len(integers)
        next_tensor += used
    return values[-1]


def _sizes_of_convolution(rest: Sequence[int], tensors: Sequence[Tensor]) -> tuple[Sequence[int], int, Tensor | None]:
    return rest[: 3 + WINDOW_INTEGERS + 1], 2, tensors[0]


def _sizes_of_fused_block(rest: Sequence[int], tensors: Sequence[Tensor]) -> tuple[Sequence[int], int, Tensor | None]:
    expands, squeezes = rest[0], rest[1]
    return rest[: 5 + WINDOW_INTEGERS + 5], 4 + 2 * expands + 4 * squeezes, tensors[2 * expands]


def _sizes_of_global_pool(rest: Sequence[int], tensors: Sequence[Tensor]) -> tuple[Sequence[int], int, Tensor | None]:
    return rest[:0], 0, None


def _sizes_of_layer_norm(rest: Sequence[int], tensors: Sequence[Tensor]) -> tuple[Sequence[int], int, Tensor | None]:
    return rest[:1], 2, None


def _sizes_of_convnext(rest: Sequence[int], tensors: Sequence[Tensor]) -> tuple[Sequence[int], int, Tensor | None]:
    return rest[: 2 + WINDOW_INTEGERS + 2], 6, tensors[0]


_STEP_SIZES = {
    CONVOLUTION: _sizes_of_convolution,
    FUSED_BLOCK: _sizes_of_fused_block,
    GLOBAL_POOL: _sizes_of_global_pool,
    LAYER_NORM: _sizes_of_layer_norm,
    CONVNEXT_BLOCK: _sizes_of_convnext,
}
# Where a step's integers tell its output channels, and where its window begins.
_CHANNELS_AT = {CONVOLUTION: 1, FUSED_BLOCK: 3, CONVNEXT_BLOCK: 1}
_WINDOW_AT = {CONVOLUTION: 3, FUSED_BLOCK: 5, CONVNEXT_BLOCK: 2}


def _step_shape(
    kind: int, source: tuple[int, int, int, int], integers: Sequence[int], weight: Tensor | None
) -> tuple[int, int, int, int]:
    batch, channels, height, width = source
    if kind == GLOBAL_POOL:
        return batch, channels, 1, 1
    if kind == LAYER_NORM:
        return source
    assert weight is not None
    window = integers[_WINDOW_AT[kind] : _WINDOW_AT[kind] + WINDOW_INTEGERS]
    rows = _outputs(height, weight.shape[1], window[0], window[2], window[4], window[7] + window[8])
    columns = _outputs(width, weight.shape[2], window[1], window[3], window[4], window[5] + window[6])
    return batch, integers[_CHANNELS_AT[kind]], rows, columns


def _outputs(size: int, kernel: int, stride: int, dilation: int, same: int, padding: int) -> int:
    if same:
        return (size + stride - 1) // stride
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def _fake_chain(input: Tensor, tensors: list[Tensor], program: list[int], flat: bool) -> Tensor:
    batch, channels, height, width = output_shape(input.shape, tensors, program)
    if flat:
        return input.new_empty((batch, channels))
    return input.new_empty_strided(
        (batch, channels, height, width), (height * width * channels, 1, width * channels, channels)
    )


def _fake_profile(input: Tensor, tensors: list[Tensor], program: list[int], flat: bool) -> tuple[Tensor, Tensor]:
    steps = position = next_tensor = 0
    while position < len(program):
        integers, used, _ = _STEP_SIZES[program[position]](program[position + 3 :], tensors[next_tensor:])
        position, next_tensor, steps = position + 3 + len(integers), next_tensor + used, steps + 1
    return _fake_chain(input, tensors, program, flat), input.new_empty(steps, dtype=torch.float64)


torch.library.register_fake("convfirst::chain_packed", _fake_chain)
torch.library.register_fake("convfirst::profile_chain_packed", _fake_profile)
