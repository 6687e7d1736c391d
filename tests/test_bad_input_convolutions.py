"""Wrong calls of the functions that tests/test_bad_input.py has no list for; where torch has a twin, it refuses too."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wrong_calls import Wrong, assert_refused, assert_unchanged, copies, name_of

from convfirst_ext import ops

ROW, ROW_WEIGHT, ROW_BACK = torch.randn(2, 16, 9), torch.randn(20, 16, 3), torch.randn(16, 20, 3)
IMAGE, BACK = torch.randn(2, 16, 6, 7), torch.randn(16, 20, 3, 3)
BIAS = torch.randn(20)
RIGHT: dict[str, dict[str, Any]] = {
    "conv1d": {"input": ROW, "weight": ROW_WEIGHT, "bias": BIAS},
    "conv_transpose1d": {"input": ROW, "weight": ROW_BACK, "bias": BIAS},
    "conv_transpose2d": {"input": IMAGE, "weight": BACK, "bias": BIAS},
    "split_conv_transpose2d": {"input": IMAGE, "weight": BACK, "bias": BIAS},
    "strided_weight_grad": {
        "input": IMAGE,
        "weight_size": (20, 16, 3, 3),
        "grad_output": torch.randn(2, 20, 4, 5),
    },
    "convfirst": {
        "input": IMAGE,
        "conv_weight": torch.randn(16, 8, 3, 3),
        "conv_bias": torch.randn(16),
        "expand_weight": torch.randn(64, 16, 1, 1),
        "expand_bias": torch.randn(64),
        "project_weight": torch.randn(16, 64, 1, 1),
        "project_bias": torch.randn(16),
    },
}
TWINS = ("conv1d", "conv_transpose1d", "conv_transpose2d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "split_conv_transpose2d")


def _wrong_tensors(op: str) -> list[Wrong]:
    right = RIGHT[op]
    weights = [name for name in right if "weight" in name and isinstance(right[name], Tensor)]
    biases = [name for name in right if "bias" in name]
    wrong: list[Wrong] = []
    for name in [*weights, *biases, "input"]:
        value, needed = right[name], name not in biases
        wrong += [(op, {name: other}, TypeError, name) for other in (2.0, [1.0], *([None] if needed else []))]
        wrong.append((op, {name: value.int()}, TypeError, f"{name}|weight" if name == "input" else name))
        wrong.append((op, {name: value.unsqueeze(0)}, ValueError, name))
        wrong.append((op, {name: value.to("meta")}, ValueError, f"{name}|weight|grad_output"))
        if name != "input":
            wrong.append((op, {name: value.double()}, TypeError, name))
    for name in weights:
        wrong += [(op, {name: right[name][0]}, ValueError, name), (op, {name: right[name][:0]}, ValueError, name)]
        wrong.append((op, {name: right[name][..., :0]}, ValueError, name))
    for name in biases:
        wrong += [(op, {name: right[name][:-1]}, ValueError, name), (op, {name: right[name][:0]}, ValueError, name)]
    wrong.append((op, {"input": right["input"][:, :7]}, ValueError, "input|weight|groups"))
    wrong.append((op, {"input": right["input"][:, :0]}, ValueError, "input|weight|groups"))
    return wrong


def _wrong_windows(op: str) -> list[Wrong]:
    values: list[tuple[str, Any, type[Exception]]] = [
        ("stride", 0, ValueError),
        ("stride", -1, ValueError),
        ("stride", (), ValueError),
        ("stride", (1, 1, 1), ValueError),
        ("stride", 1.5, TypeError),
        ("stride", (1.5,), TypeError),
        ("stride", "2", TypeError),
        ("stride", None, TypeError),
        ("padding", -1, ValueError),
        ("padding", (1, 1, 1), ValueError),
        ("padding", 0.5, TypeError),
        ("padding", None, TypeError),
        ("dilation", 0, ValueError),
        ("dilation", "1", TypeError),
        ("dilation", None, TypeError),
        ("groups", 0, ValueError),
        ("groups", -2, ValueError),
        ("groups", 3, ValueError),
        ("groups", 2.0, TypeError),
        ("groups", "1", TypeError),
        ("groups", None, TypeError),
    ]
    if op in TRANSPOSED:
        values += [
            ("padding", "same", TypeError),
            ("padding", 100, ValueError),
            ("output_padding", 1, ValueError),
            ("output_padding", -1, ValueError),
            ("output_padding", 0.0, TypeError),
            ("output_padding", None, TypeError),
            ("output_padding", (0, 0, 0), ValueError),
        ]
    return [(op, {name: value}, error, name) for name, value, error in values]


SINGLE: list[Wrong] = [
    ("conv1d", {"padding": "full"}, ValueError, "padding must be one int, 'valid' or 'same', but is 'full'"),
    ("conv1d", {"padding": "same", "stride": 2}, ValueError, "padding 'same' needs stride 1"),
    ("conv1d", {"stride": (1, 1)}, ValueError, r"stride must be one int, but is \(1, 1\)"),
    ("conv1d", {"dilation": 50}, ValueError, "padded width is 9 and the kernel spans 101"),
    ("conv1d", {"input": ROW[..., :0]}, ValueError, "input"),
    ("conv1d", {"weight": ROW_WEIGHT[:, :7]}, ValueError, r"has shape \(20, 7, 3\)"),
    ("conv1d", {"weight": torch.randn(20, 16, 3, 1)}, ValueError, "weight must have 3 dimensions"),
    ("conv_transpose1d", {"output_padding": (0, 0)}, ValueError, "output_padding must be one int"),
    ("conv_transpose1d", {"weight": ROW_BACK[:7]}, ValueError, r"has shape \(7, 20, 3\)"),
    ("conv_transpose2d", {"padding": (1, 1, 1, 1)}, ValueError, "padding"),
    ("split_conv_transpose2d", {"groups": 2}, ValueError, "bias"),
    ("split_conv_transpose2d", {"groups": 2, "bias": None}, ValueError, "multiple of 16 output channels"),
    ("split_conv_transpose2d", {"input": IMAGE.double()}, TypeError, "input must have dtype float32"),
    ("strided_weight_grad", {"weight_size": 5}, TypeError, "weight_size"),
    ("strided_weight_grad", {"weight_size": None}, TypeError, "weight_size"),
    ("strided_weight_grad", {"weight_size": "abcd"}, TypeError, "weight_size"),
    ("strided_weight_grad", {"weight_size": (20.0, 16, 3, 3)}, TypeError, "weight_size"),
    ("strided_weight_grad", {"weight_size": (20, 16, 3)}, ValueError, "weight_size"),
    ("strided_weight_grad", {"weight_size": (20, 16, 3, 0)}, ValueError, "weight_size"),
    ("strided_weight_grad", {"weight_size": (20, 8, 3, 3)}, ValueError, "groups must divide 20 output channels"),
    ("strided_weight_grad", {"weight_size": (20, 16, 9, 9)}, ValueError, "input must be at least as large"),
    ("strided_weight_grad", {"groups": True}, TypeError, "groups"),
    ("strided_weight_grad", {"stride": 2}, ValueError, r"grad_output must have the output's shape \(2, 20, 2, 3\)"),
    ("strided_weight_grad", {"grad_output": None}, TypeError, "grad_output"),
    ("strided_weight_grad", {"grad_output": torch.randn(2, 20, 4, 4)}, ValueError, "grad_output"),
    ("strided_weight_grad", {"grad_output": torch.randn(2, 20, 4, 5).double()}, TypeError, "grad_output"),
    ("strided_weight_grad", {"grad_output": torch.randn(20, 4, 5)}, ValueError, "grad_output"),
    ("convfirst", {"input": IMAGE[:, :8]}, ValueError, r"conv_weight must have shape \(8, 8, 3, 3\)"),
    ("convfirst", {"input": IMAGE[:, :, :0]}, ValueError, "input must be at least as large"),
    ("convfirst", {"input": IMAGE[0]}, ValueError, "input"),
    ("convfirst", {"input": IMAGE.double()}, TypeError, "input"),
    ("convfirst", {"conv_weight": torch.randn(16, 16, 3, 3)}, ValueError, "conv_weight"),
    ("convfirst", {"conv_weight": torch.randn(16, 8, 5, 5)}, ValueError, "conv_weight"),
    ("convfirst", {"expand_weight": torch.randn(64, 8, 1, 1)}, ValueError, "expand_weight"),
    ("convfirst", {"expand_weight": torch.randn(0, 16, 1, 1)}, ValueError, "expand_weight must have no empty"),
    ("convfirst", {"project_weight": torch.randn(24, 64, 1, 1)}, ValueError, "project_bias"),
    ("convfirst", {"project_weight": torch.randn(16, 48, 1, 1)}, ValueError, "project_weight"),
    ("convfirst", {"activation": None}, ValueError, "activation"),
    ("convfirst", {"conv_activation": "tanh"}, ValueError, "conv_activation"),
    ("convfirst", {"residual": IMAGE}, TypeError, "residual must be True or False"),
    ("convfirst", {"residual": None}, TypeError, "residual must be True or False"),
]
WINDOWED = [op for op in RIGHT if op != "convfirst"]
WRONG = [
    *(case for op in RIGHT for case in _wrong_tensors(op)),
    *(case for op in WINDOWED for case in _wrong_windows(op)),
    *SINGLE,
]


@pytest.mark.parametrize("op", list(RIGHT))
def test_the_right_call_is_right(op: str) -> None:
    assert getattr(ops, op)(**RIGHT[op]).isfinite().all()


@pytest.mark.parametrize(("op", "change", "error", "pattern"), WRONG, ids=name_of)
def test_wrong_call(op: str, change: dict[str, Any], error: type[Exception], pattern: str) -> None:
    arguments = RIGHT[op] | change
    before = copies(arguments)
    assert_refused(lambda: getattr(ops, op)(**arguments), error, pattern)
    assert_unchanged(arguments, before)


# Tensors without data: torch lets them meet tensors with data, and gives one without data.
OF_TWINS = [case for case in WRONG if case[0] in TWINS and not any(getattr(v, "is_meta", 0) for v in case[1].values())]


@pytest.mark.parametrize(("op", "change", "error", "pattern"), OF_TWINS, ids=name_of)
def test_torch_refuses_it_too(op: str, change: dict[str, Any], error: type[Exception], pattern: str) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        getattr(F, op)(**RIGHT[op] | change)


@pytest.mark.parametrize("op", list(RIGHT))
def test_missing_and_unknown_arguments_are_type_errors(op: str) -> None:
    with pytest.raises(TypeError):
        getattr(ops, op)(IMAGE)
    with pytest.raises(TypeError):
        getattr(ops, op)(**RIGHT[op], transposed=True)
