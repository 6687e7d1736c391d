"""Cases of operators on the emulated CUDA kernels: forward and both gradients, against torch in float64."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.ops.packed import pack_bias, pack_weight
from convfirst_ext.testing import Bounded, OpCase, assert_exact, assert_within, padding_sides

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Buffer(ctypes.Structure):
    """A tensor's memory, as launchers take it."""

    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_int64)]


def buffer_of(tensor: Tensor) -> Buffer:
    return Buffer(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def window_of(case: OpCase, groups: int) -> tuple[Any, ...]:
    """Stride, padding, dilation and groups as the raw operators take them."""
    options = case.options
    dilation = options.get("dilation", 1)
    sides = padding_sides(options.get("padding", 0), case.shapes["weight"][2:], dilation)
    return pair(options.get("stride", 1)), list(sides), pair(dilation), groups


def groups_of(case: OpCase) -> int:
    return case.shapes["input"][1] // case.shapes["weight"][1]


def channels_last(tensor: Tensor) -> Tensor:
    """A dense copy in channels_last order that shares its memory with nobody."""
    return tensor.permute(0, 2, 3, 1).contiguous().clone().permute(0, 3, 1, 2)


def forward(case: OpCase, tensors: dict[str, Tensor], packed: bool = False) -> Tensor:
    """The plain operator, or the packed one where there is something that only it can do."""
    raw = torch.ops.convfirst_emulated
    input, weight, bias = channels_last(tensors["input"]), tensors["weight"].contiguous(), tensors.get("bias")
    window = window_of(case, groups_of(case))
    activation = case.options.get("activation", "identity")
    if not packed and activation == "identity":
        return getattr(raw, case.op)(input, weight, bias, *window)
    values = pack_weight(weight), pack_bias(bias, len(weight)), None
    return getattr(raw, f"{case.op}_packed")(input, *values, *window, len(weight), activation)


def check_forward(case: OpCase, dtype: torch.dtype, packed: bool = False) -> None:
    """Small integers, whose sums have nothing to round; after an activation that rounds, within its bound."""
    tensors = {name: tensor.to(dtype) for name, tensor in case.make().items()}
    check = assert_exact if case.is_exact else assert_within
    check(forward(case, tensors, packed), case.reference(tensors))


def check_gradients(case: OpCase, dtype: torch.dtype) -> None:
    """Gradients of input and weight; all their sums are small integers."""
    raw = torch.ops.convfirst_emulated
    tensors = case.make()
    groups = groups_of(case)
    stride, sides, dilation, _ = window_of(case, groups)
    input, weight = (tensors[name].double().requires_grad_() for name in ("input", "weight"))
    output = F.conv2d(F.pad(input, tuple(sides)), weight, None, stride, 0, dilation, groups)
    grad = torch.randint(-2, 3, output.shape).double()
    of_input, of_weight = torch.autograd.grad(output, (input, weight), grad)

    narrow = {"input": input, "weight": weight, "grad": grad}
    narrow = {name: tensor.detach().to(dtype) for name, tensor in narrow.items()}
    dense = channels_last(narrow["grad"])
    rest = [
        input.shape[2 + axis] + (sides[2] + sides[3], sides[0] + sides[1])[axis]
        - (grad.shape[2 + axis] - 1) * stride[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1
        for axis in (0, 1)
    ]  # fmt: skip
    kernel = list(weight.shape[2:])
    actual = raw.split_conv_transpose2d(dense, narrow["weight"], None, stride, sides, rest, dilation, groups)
    assert_exact(actual, Bounded(of_input, torch.zeros_like(of_input)))
    actual = raw.strided_weight_grad(channels_last(narrow["input"]), dense, kernel, stride, sides, dilation, groups)
    assert_exact(actual, Bounded(of_weight, torch.zeros_like(of_weight)))


def tile_case(op: str, size: tuple[int, int, int, int], width: int, kernel: int, **options: Any) -> OpCase:
    """A square, odd kernel with half of it as padding, unless options say otherwise, on groups of ``width``."""
    channels = size[1]
    shapes = {"input": size, "weight": (channels, width, kernel, kernel), "bias": (channels,)}
    if width > 1:
        options["groups"] = channels // width
    named = "-".join(f"{name}{value}" for name, value in options.items())
    options.setdefault("padding", kernel // 2)
    return OpCase(op, f"{'x'.join(map(str, size))}-k{kernel}-{named}", shapes, options)
