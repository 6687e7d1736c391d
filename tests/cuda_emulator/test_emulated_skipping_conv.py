"""Dense and transposed CUDA convolutions without padded and inserted zeros, on the emulator."""

import ctypes

import pytest
import torch
from emulated_calls import channels_last, window_of

from convfirst_ext.testing import CASES, OpCase, assert_exact, assert_within

DTYPES = (torch.float16, torch.bfloat16)


def windows(op: str) -> list[OpCase]:
    """The windows of an operator's list, on channels that vectors of 8 divide."""
    found: dict[str, OpCase] = {}
    for case in CASES[op]:
        options = {name: value for name, value in case.options.items() if name not in ("groups", "activation")}
        _, _, height, width = case.shapes["input"]
        rows, columns = case.shapes["weight"][2:]
        if min(case.shapes["input"]) == 0 or height * width > 160 or rows * columns > 25:
            continue
        channels = (24, 16) if op == "trimmed_conv2d" else (16, 24)
        shapes = {"input": (2, 16, height, width), "weight": (*channels, rows, columns), "bias": (24,)}
        window = OpCase(op, f"{height}x{width}-k{rows}x{columns}-{options}", shapes, options)
        found.setdefault(window.name, window)
    return list(found.values())


def resized(op: str, batch: int, channels: int, outputs: int, size: tuple[int, int], kernel: int, **options) -> OpCase:
    weight = (outputs, channels) if op == "trimmed_conv2d" else (channels, outputs)
    shapes = {"input": (batch, channels, *size), "weight": (*weight, kernel, kernel), "bias": (outputs,)}
    return OpCase(op, f"{batch}-{channels}-{outputs}-{size}-{kernel}-{options}", shapes, options)


# Below, at and above a tile of 64 images, 64 outputs and 32 input channels.
TRIMMED = [
    resized("trimmed_conv2d", 65, 40, 24, (2, 2), 3, padding=1),
    resized("trimmed_conv2d", 3, 72, 72, (3, 2), 3, padding=2, dilation=2),
    resized("trimmed_conv2d", 2, 32, 64, (5, 4), 5, padding=2, stride=2),
    resized("trimmed_conv2d", 1, 8, 8, (2, 2), 2, padding=4, dilation=5),
]
TRANSPOSED = [
    resized("split_conv_transpose2d", 65, 40, 24, (2, 2), 4, padding=1, stride=2),
    resized("split_conv_transpose2d", 3, 72, 72, (2, 3), 3, padding=1, stride=2, output_padding=1),
    resized("split_conv_transpose2d", 2, 32, 64, (2, 2), 2, stride=3),
    resized("split_conv_transpose2d", 1, 8, 16, (3, 3), 3, padding=2, stride=1, dilation=2),
]


def run(case: OpCase, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    raw = torch.ops.convfirst_emulated
    stride, sides, dilation, groups = window_of(case, 1)
    weight = channels_last(tensors["weight"])
    if case.op == "trimmed_conv2d":
        extra = ()
    else:
        value = case.options.get("output_padding", 0)
        extra = ([value, value] if isinstance(value, int) else list(value),)
    arguments = channels_last(tensors["input"]), weight, tensors.get("bias"), stride, sides, *extra, dilation, groups
    return getattr(raw, case.op)(*arguments)


@pytest.mark.parametrize("case", windows("trimmed_conv2d")[::3] + windows("split_conv_transpose2d")[::3], ids=str)
def test_windows_of_the_list(library: ctypes.CDLL, case: OpCase) -> None:
    dtype = DTYPES[len(case.name) % 2]
    tensors = {name: tensor.to(dtype) for name, tensor in case.make().items()}
    assert_exact(run(case, tensors), case.reference(tensors))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TRIMMED + TRANSPOSED, ids=str)
def test_sizes_around_tiles(emulator: ctypes.CDLL, case: OpCase, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in case.make().items()}
    assert_exact(run(case, tensors), case.reference(tensors))


def test_random_values_stay_within_the_bound_of_fp32_sums(library: ctypes.CDLL) -> None:
    for case in (TRIMMED[1], TRANSPOSED[1]):
        for dtype in DTYPES:
            tensors = case.make(dtype, values="normal")
            assert_within(run(case, tensors), case.reference(tensors))


def test_padding_never_meets_a_weight(library: ctypes.CDLL) -> None:
    case = resized("trimmed_conv2d", 1, 8, 8, (1, 1), 3, padding=1)
    tensors = case.make(torch.float16)
    tensors["weight"][:, :, 0] = float("inf")
    assert run(case, tensors).isfinite().all()


def test_what_no_kernel_takes_is_named(library: ctypes.CDLL) -> None:
    for channels, dtype, message in ((16, torch.float32, "float16 or bfloat16"), (12, torch.float16, "multiples of 8")):
        case = resized("trimmed_conv2d", 1, channels, 16, (4, 4), 3)
        with pytest.raises(RuntimeError, match=message):
            run(case, {name: tensor.to(dtype) for name, tensor in case.make().items()})
