"""A chain of packed blocks in one call: what the blocks are, written as a program, and the call itself."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convfirst_ext.ops.activation import ACTIVATIONS
from convfirst_ext.ops.interrupts import raise_interrupt
from convfirst_ext.ops.packed import KERNELS, LANES, winograd_tile

_raw = torch.ops.convfirst
_chain = _raw.chain_packed.default
_profile_chain = _raw.profile_chain_packed.default

# What a step is; csrc/cpu/chain_program.cpp reads the same numbers.
CONVOLUTION, FUSED_BLOCK, GLOBAL_POOL, LAYER_NORM, CONVNEXT_BLOCK, BLUR_POOL = range(6)
# Larger layers do not become part of a chain.
MOST_CHANNELS, MOST_EXTENT = 1 << 20, 1 << 10
# fp16: products that are added before their sum is added in fp32 (csrc/cpu/microkernels/api.h), and the largest number.
MOST_HALF_PRODUCTS, MOST_HALF = 96, 65504.0


class Step(NamedTuple):
    """One block of a chain.

    Attributes:
        kind: CONVOLUTION, FUSED_BLOCK, GLOBAL_POOL, LAYER_NORM, CONVNEXT_BLOCK or BLUR_POOL.
        integers: what the kernel needs beside its weights.
        tensors: packed weights and biases, in the order in which the kernel reads them.
    """

    kind: int
    integers: tuple[int, ...]
    tensors: tuple[Tensor, ...]


def window_integers(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], padding: Sequence[int] | None
) -> tuple[int, ...]:
    """Kernel, stride, dilation and padding (left, right, top, bottom); None computes TensorFlow's 'same'."""
    return (*kernel, *stride, *dilation, int(padding is None), *(padding or (0, 0, 0, 0)))


def activation_integer(name: str) -> int:
    """The number of an activation."""
    return ACTIVATIONS.index(name)


def real_integer(value: float) -> int:
    """A float32 as the integer with the same bits."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def convolution(
    kernel: str,
    weight: Tensor,
    bias: Tensor,
    window: tuple[int, ...],
    groups: int,
    out_channels: int,
    activation: str,
    sum_activation: str = "identity",
) -> Step:
    """``ops.packed.conv2d`` as a step; its sum with a residual has an activation too: identity, relu or relu6."""
    activations = activation_integer(activation), activation_integer(sum_activation)
    integers = (KERNELS.index(kernel), out_channels, groups, *window, *activations)
    return Step(CONVOLUTION, integers, (weight, bias))


def program_of(steps: Sequence[Step], wiring: Sequence[tuple[int, int]]) -> str:
    """The text of a program.

    Args:
        steps: in the order in which they run.
        wiring: of every step the value it reads and the value it adds to its result (BLUR_POOL: takes beside it),
            or -1. Value 0 is the chain's input, value i + 1 the result of step i.

    Returns:
        Whole numbers with spaces between them.
    """
    numbers = [n for step, wires in zip(steps, wiring, strict=True) for n in (step.kind, *wires, *step.integers)]
    return " ".join(map(str, numbers))


def run(input: Tensor, weights: Tensor, program: str, flat: bool, own_threads: bool = True) -> Tensor:
    """Runs the steps of a program one after the other.

    Args:
        input: (N, C, H, W) in float32, bfloat16 or float16: dense channels_last, or contiguous where the first step is
            a dense convolution.
        weights: from ``join_weights``; float16 asks for fp16 arithmetic, which takes a float16 input only.
        program: from ``program_of``.
        flat: whether the result, then of one pixel, is (N, C') instead of (N, C', 1, 1).
        own_threads: whether by threads that stay together for the whole chain, or by torch's, as suits a chain between
            torch's own operators.

    Returns:
        The last step's result in input's dtype, channels_last where it has four dimensions.

    A signal's handler that raises, as Ctrl-C does, ends the call between two steps, within about 0.1 s.

    Raises:
        RuntimeError: the program, the weights and the input do not fit each other.
    """
    return _interruptible(_chain, input, weights, program, flat, own_threads)


def profile(
    input: Tensor, weights: Tensor, program: str, flat: bool, own_threads: bool = True
) -> tuple[Tensor, Tensor]:
    """``run``, with the time of every step.

    Args:
        input: as ``run`` takes it.
        weights: from ``join_weights``.
        program: from ``program_of``.
        flat: as ``run`` takes it.
        own_threads: as ``run`` takes it.

    Returns:
        The last step's result, and the seconds that every step took: (steps,) in float64.

    Raises:
        RuntimeError: the program, the weights and the input do not fit each other.
    """
    return _interruptible(_profile_chain, input, weights, program, flat, own_threads)


def _interruptible(op: Callable[..., Any], *arguments: object) -> Any:
    try:
        return op(*arguments)
    except RuntimeError as error:
        raise_interrupt(error)
        raise


def join_weights(steps: Sequence[Step], half: bool = False) -> Tensor:
    """The tensors of all steps one behind the other, on huge pages where the system has them.

    Args:
        steps: of a program.
        half: whether for fp16 arithmetic, which wants float16 in blocks of 32 channels.

    Returns:
        One dimension, float32, or float16 for fp16 arithmetic.
    """
    packed = [tensor for step in steps for tensor in step.tensors]
    tensors = [(_half_blocks(tensor) if half else tensor).reshape(-1) for tensor in packed]
    weights = _raw.empty_weights.default(sum(tensor.numel() for tensor in tensors), half)
    return torch.cat(tensors, out=weights) if tensors else weights


def _half_blocks(packed: Tensor) -> Tensor:
    """A weight in blocks of 16 channels, or a bias of whole blocks, as float16 in blocks of 32."""
    blocks = packed.reshape(-1, LANES) if packed.dim() == 1 else packed
    if len(blocks) % 2:
        blocks = torch.cat([blocks, torch.zeros_like(blocks[:1])])
    pairs = blocks.reshape(-1, 2, *blocks.shape[1:]).movedim(1, -2)
    return pairs.flatten(-2).half()


def half_arithmetic() -> str:
    """Where fp16 products can come from, as ``CONVFIRST_FP16`` allows: "native", "emulated" or "".

    "native" is AVX512-FP16. The variable may be "off", or "emulate" for slow kernels that give the same values on any
    CPU.

    Raises:
        ValueError: the variable is something else.
    """
    wanted = os.environ.get("CONVFIRST_FP16") or "native"
    if wanted not in ("native", "emulate", "off"):
        raise ValueError(f"CONVFIRST_FP16 must be native, emulate or off, but is {wanted!r}.")
    if wanted == "off":
        return ""
    if _raw.multiplies_half.default():
        return "native"
    return "emulated" if wanted == "emulate" else ""


def fits_half(step: Step) -> bool:
    """Whether fp16 arithmetic has a kernel for a step and a range for its weights.

    A spatial convolution of one channel block sums all its products in fp16: at most MOST_HALF_PRODUCTS.
    """
    if any(tensor.numel() and not bool(tensor.abs().amax() <= MOST_HALF) for tensor in step.tensors):
        return False
    if step.kind == CONVOLUTION:
        kernel = KERNELS[step.integers[0]]
        if kernel in ("pointwise", "dense"):
            return True
        if winograd_tile(kernel):
            return False
        return _is_short(step.tensors[0]) or (kernel == "grouped" and step.tensors[0].shape[3] % (2 * LANES) == 0)
    if step.kind == FUSED_BLOCK:
        return _is_short(step.tensors[2 if step.integers[0] else 0])
    return step.kind != CONVNEXT_BLOCK or _is_short(step.tensors[0])


def _is_short(weight: Tensor) -> bool:
    """Whether an output of a packed (blocks, R, S, K, 16) weight of one channel block has few products."""
    products = weight.shape[1:4].numel()
    return weight.shape[3] in (1, 8) and products <= MOST_HALF_PRODUCTS


def run_step(input: Tensor, step: Step, residual: bool = False) -> Tensor:
    """A chain of one step on a (N, C, H, W) tensor of any layout, which adds its own input where ``residual``."""
    dense = input.contiguous(memory_format=torch.channels_last)
    return run(dense, join_weights([step]), program_of([step], [(0, 0 if residual else -1)]), False)


Shape = tuple[int, int, int, int]


class _Numbers:
    """Takes a program's numbers one after the other, as the kernel does."""

    def __init__(self, program: str) -> None:
        self.numbers = list(map(int, program.split()))
        self.position = 0

    def take(self, count: int) -> list[int]:
        self.position += count
        return self.numbers[self.position - count : self.position]

    @property
    def at_end(self) -> bool:
        return self.position >= len(self.numbers)

    def window_of(self, source: Shape) -> tuple[int, int]:
        """Reads a window; height and width of what it makes of the source."""
        kernel, stride, dilation = self.take(2), self.take(2), self.take(2)
        same, left, right, top, bottom = self.take(5)
        sizes = []
        for axis, padding in ((0, top + bottom), (1, left + right)):
            size, span = source[2 + axis], dilation[axis] * (kernel[axis] - 1) + 1
            outputs = (size + stride[axis] - 1) if same else (size + padding - span + stride[axis])
            sizes.append(outputs // stride[axis])
        return sizes[0], sizes[1]


def _convolved(numbers: _Numbers, source: Shape) -> Shape:
    _, channels, _ = numbers.take(3)
    size = numbers.window_of(source)
    numbers.take(2)
    return (source[0], channels, *size)


def _fused(numbers: _Numbers, source: Shape) -> Shape:
    _, squeezes, _, channels = numbers.take(4)
    size = numbers.window_of(source)
    numbers.take(6 if squeezes else 3)
    return (source[0], channels, *size)


def _pooled(numbers: _Numbers, source: Shape) -> Shape:
    return (source[0], source[1], 1, 1)


def _normalized(numbers: _Numbers, source: Shape) -> Shape:
    numbers.take(1)
    return source


def _convnext(numbers: _Numbers, source: Shape) -> Shape:
    _, channels = numbers.take(2)
    size = numbers.window_of(source)
    numbers.take(2)
    return (source[0], channels, *size)


def _blurred(numbers: _Numbers, source: Shape) -> Shape:
    stride, images = numbers.take(2)
    height, width = ((size + stride - 1) // stride for size in source[2:])
    return (source[0], images * source[1], height, width)


_SHAPES: dict[int, Callable[[_Numbers, Shape], Shape]] = {
    CONVOLUTION: _convolved,
    FUSED_BLOCK: _fused,
    GLOBAL_POOL: _pooled,
    LAYER_NORM: _normalized,
    CONVNEXT_BLOCK: _convnext,
    BLUR_POOL: _blurred,
}


def value_shapes(shape: Sequence[int], program: str) -> list[Shape]:
    """(N, C, H, W) of the input and of every step's result; sizes may be symbolic."""
    values: list[Shape] = [tuple(shape)]  # type: ignore[list-item]
    numbers = _Numbers(program)
    while not numbers.at_end:
        kind, source, _ = numbers.take(3)
        values.append(_SHAPES[kind](numbers, values[source]))
    return values


def kinds_of(program: str) -> list[int]:
    """The kind of every step of a program."""
    shapes: list[Shape] = [(1, 1, 1, 1)]
    kinds = []
    numbers = _Numbers(program)
    while not numbers.at_end:
        kind, source, _ = numbers.take(3)
        kinds.append(kind)
        shapes.append(_SHAPES[kind](numbers, shapes[source]))
    return kinds


def _fake_chain(input: Tensor, weights: Tensor, program: str, flat: bool, own_threads: bool = True) -> Tensor:
    batch, channels, height, width = value_shapes(input.shape, program)[-1]
    if flat:
        return input.new_empty((batch, channels))
    strides = (height * width * channels, 1, width * channels, channels)
    return input.new_empty_strided((batch, channels, height, width), strides)


def _fake_profile(
    input: Tensor, weights: Tensor, program: str, flat: bool, own_threads: bool = True
) -> tuple[Tensor, Tensor]:
    steps = len(value_shapes(input.shape, program)) - 1
    return _fake_chain(input, weights, program, flat), input.new_empty(steps, dtype=torch.float64)


torch.library.register_fake("convfirst::chain_packed", _fake_chain)
torch.library.register_fake("convfirst::profile_chain_packed", _fake_profile)
