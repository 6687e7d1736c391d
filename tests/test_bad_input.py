"""Every wrong call raises ValueError or TypeError in one sentence that names the argument, and changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from convfirst_ext import ops

IMAGE = torch.randn(2, 16, 6, 7)
DEPTHWISE = torch.randn(16, 1, 3, 3)
GROUPED = torch.randn(16, 8, 3, 3)
DENSE = torch.randn(20, 16, 3, 3)
TALL = torch.randn(16, 1, 129, 1)  # the kernels take at most 128 rows
POINTWISE = torch.randn(20, 16, 1, 1)
BIAS = torch.randn(20)
SE = ops.SqueezeExcite(torch.randn(4, 24, 1, 1), torch.randn(4), torch.randn(24, 4, 1, 1), torch.randn(24))

RIGHT: dict[str, dict[str, Any]] = {
    "conv2d": {"input": IMAGE, "weight": DENSE, "bias": BIAS},
    "depthwise_conv2d": {"input": IMAGE, "weight": DEPTHWISE, "bias": torch.randn(16)},
    "grouped_conv2d": {"input": IMAGE, "weight": GROUPED, "bias": torch.randn(16), "groups": 2},
    "dense_conv2d": {"input": IMAGE, "weight": DENSE, "bias": BIAS},
    "trimmed_conv2d": {"input": IMAGE, "weight": DENSE, "bias": BIAS},
    "pointwise_conv2d": {"input": IMAGE, "weight": POINTWISE, "bias": BIAS, "residual": torch.randn(2, 20, 6, 7)},
    "depthwise_separable": {
        "input": IMAGE,
        "depthwise_weight": DEPTHWISE,
        "depthwise_bias": torch.randn(16),
        "pointwise_weight": POINTWISE,
        "pointwise_bias": BIAS,
        "padding": 1,
        "residual": torch.randn(2, 20, 6, 7),
    },
    "mbconv": {
        "input": IMAGE,
        "expand_weight": torch.randn(24, 16, 1, 1),
        "expand_bias": torch.randn(24),
        "conv_weight": torch.randn(24, 1, 3, 3),
        "conv_bias": torch.randn(24),
        "project_weight": torch.randn(20, 24, 1, 1),
        "project_bias": BIAS,
        "padding": 1,
        "squeeze_excite": SE,
        "residual": torch.randn(2, 20, 6, 7),
    },
}
WINDOWED = [op for op in RIGHT if op != "pointwise_conv2d"]
Wrong = tuple[str, dict[str, Any], type[Exception], str]


def _wrong_tensors(op: str) -> list[Wrong]:
    """Every tensor argument of an operator, wrong in every way a tensor can be."""
    wrong: list[Wrong] = []
    for name, right in RIGHT[op].items():
        if not isinstance(right, Tensor):
            continue
        others = [
            (TypeError, 3.0),
            (TypeError, right.tolist()),
            (ValueError, right[0]),
            (ValueError, right.unsqueeze(0)),
            (TypeError, right.to(torch.int32)),
            (ValueError, right.to("meta")),
        ]
        if name == "input":
            others = [entry for entry in others if entry[0] is TypeError] + [(ValueError, right[0, 0])]
            if op != "conv2d":  # which takes an image without a batch
                others.append((ValueError, right[0]))
        else:
            others += [(TypeError, right.double()), (TypeError, right.bfloat16())]
        if name not in ("input", "residual") and "bias" not in name:
            others += [(ValueError, right[:, :0]), (ValueError, right[..., :0]), (ValueError, right[..., :0, :])]
        if "bias" in name:
            others += [(ValueError, right[:-1]), (ValueError, torch.cat([right, right])), (ValueError, right[:0])]
        if name == "residual":
            others += [(ValueError, right[..., :-1]), (ValueError, right[:1]), (ValueError, right[:, :-1])]
        # Of an input and a weight, or of groups and a weight, that do not agree, either may be named.
        pattern = {"input": "input|weight", "weight": "weight|groups"}.get(name, name)
        wrong += [(op, {name: other}, error, pattern) for error, other in others]
    return wrong


def _wrong_windows(op: str) -> list[Wrong]:
    values: list[tuple[str, Any, type[Exception]]] = [
        ("stride", 0, ValueError),
        ("stride", -1, ValueError),
        ("stride", (1, 0), ValueError),
        ("stride", (1, 1, 1), ValueError),
        ("stride", (), ValueError),
        ("stride", 1.0, TypeError),
        ("stride", (1, 2.0), TypeError),
        ("stride", "2", TypeError),
        ("stride", None, TypeError),
        ("stride", True, TypeError),
        ("padding", -1, ValueError),
        ("padding", (0, -1), ValueError),
        ("padding", (1, 1, 1), ValueError),
        ("padding", (1, 1, 1, -1), ValueError),
        ("padding", 0.5, TypeError),
        ("padding", None, TypeError),
        ("dilation", 0, ValueError),
        ("dilation", (1, -2), ValueError),
        ("dilation", "1", TypeError),
    ]
    wrong: list[Wrong] = [(op, {name: value}, error, name) for name, value, error in values]
    wrong.append((op, {"padding": 0, "dilation": 3}, ValueError, "input must be at least as large"))
    wrong.append((op, {"padding": (0, 3), "dilation": (4, 4)}, ValueError, "input must be at least as large"))
    if op != "conv2d":
        wrong.append((op, {"padding": "same"}, TypeError, "padding"))
        wrong.append((op, {"padding": (1, 1, 1, 1, 1)}, ValueError, "padding"))
    return wrong


SINGLE: list[Wrong] = [
    ("conv2d", {"groups": 0}, ValueError, "groups"),
    ("conv2d", {"groups": -1}, ValueError, "groups"),
    ("conv2d", {"groups": 3}, ValueError, "groups"),
    ("conv2d", {"groups": 8}, ValueError, "groups"),
    ("conv2d", {"groups": 2}, ValueError, "weight"),
    ("conv2d", {"groups": 1.0}, TypeError, "groups"),
    ("conv2d", {"groups": None}, TypeError, "groups"),
    ("conv2d", {"groups": True}, TypeError, "groups"),
    ("conv2d", {"padding": "full"}, ValueError, "padding"),
    ("conv2d", {"padding": "same", "stride": 2}, ValueError, "padding|stride"),
    ("conv2d", {"padding": (1, 1, 1, 1)}, ValueError, "padding"),
    ("conv2d", {"weight": DENSE[:0], "bias": None}, ValueError, "weight"),
    ("conv2d", {"weight": DENSE[:, :8]}, ValueError, "weight"),
    ("conv2d", {"input": IMAGE[:, :0]}, ValueError, "input|weight"),
    ("conv2d", {"input": IMAGE[..., :0]}, ValueError, "input"),
    ("conv2d", {"input": IMAGE[..., :2, :]}, ValueError, "input"),
    ("depthwise_conv2d", {"weight": torch.randn(17, 1, 3, 3), "bias": None}, ValueError, "groups|weight"),
    ("depthwise_conv2d", {"weight": torch.randn(16, 2, 3, 3)}, ValueError, "weight"),
    ("depthwise_conv2d", {"input": IMAGE[:, :0]}, ValueError, "input"),
    ("depthwise_conv2d", {"input": IMAGE.double()}, TypeError, "input"),
    ("grouped_conv2d", {"groups": 0}, ValueError, "groups"),
    ("grouped_conv2d", {"groups": -2}, ValueError, "groups"),
    ("grouped_conv2d", {"groups": 3}, ValueError, "groups"),
    ("grouped_conv2d", {"groups": 4}, ValueError, "groups|weight"),
    ("grouped_conv2d", {"groups": "2"}, TypeError, "groups"),
    ("grouped_conv2d", {"weight": torch.randn(32, 8, 3, 3), "bias": None}, ValueError, "groups|weight"),
    ("grouped_conv2d", {"weight": torch.randn(16, 4, 3, 3), "groups": 4}, ValueError, "groups|weight"),
    ("depthwise_conv2d", {"weight": TALL, "padding": 70}, ValueError, "weight"),
    ("dense_conv2d", {"weight": GROUPED, "bias": None}, ValueError, "weight"),
    ("pointwise_conv2d", {"weight": DENSE}, ValueError, "weight"),
    ("pointwise_conv2d", {"weight": POINTWISE[:, :8]}, ValueError, "weight"),
]
ACTIVATIONS: list[Wrong] = [
    (op, {name: value}, ValueError, name)
    for op, name in (
        ("depthwise_conv2d", "activation"),
        ("grouped_conv2d", "activation"),
        ("dense_conv2d", "activation"),
        ("pointwise_conv2d", "activation"),
        ("depthwise_separable", "depthwise_activation"),
        ("depthwise_separable", "pointwise_activation"),
        ("mbconv", "activation"),
        ("mbconv", "output_activation"),
    )
    for value in ("tanh", "ReLU", "", None, torch.relu)
]
BLOCKS: list[Wrong] = [
    ("depthwise_separable", {"depthwise_weight": torch.randn(32, 1, 3, 3)}, ValueError, "depthwise_weight"),
    ("depthwise_separable", {"depthwise_weight": TALL, "padding": 70, "residual": None}, ValueError, "weight"),
    ("depthwise_separable", {"depthwise_weight": GROUPED}, ValueError, "depthwise_weight"),
    ("depthwise_separable", {"pointwise_weight": DENSE}, ValueError, "pointwise_weight"),
    ("depthwise_separable", {"pointwise_weight": POINTWISE[:, :8]}, ValueError, "pointwise_weight"),
    ("depthwise_separable", {"stride": 2}, ValueError, "residual"),
    ("mbconv", {"expand_weight": torch.randn(24, 15, 1, 1)}, ValueError, "expand_weight"),
    ("mbconv", {"expand_weight": torch.randn(24, 16, 3, 3)}, ValueError, "expand_weight"),
    ("mbconv", {"expand_weight": None}, ValueError, "expand_bias"),
    ("mbconv", {"expand_weight": None, "expand_bias": None}, ValueError, "conv_weight"),
    ("mbconv", {"conv_weight": torch.randn(32, 1, 3, 3)}, ValueError, "conv_weight"),
    ("mbconv", {"conv_weight": torch.randn(24, 8, 3, 3)}, ValueError, "weight"),
    ("mbconv", {"groups": 3}, ValueError, "weight"),
    ("mbconv", {"groups": 2, "conv_weight": torch.randn(24, 12, 3, 3)}, ValueError, "groups"),
    ("mbconv", {"groups": 0}, ValueError, "groups"),
    ("mbconv", {"groups": 24.0}, TypeError, "groups"),
    ("mbconv", {"project_weight": torch.randn(20, 16, 1, 1)}, ValueError, "project_weight"),
    ("mbconv", {"project_weight": torch.randn(20, 24, 1, 3)}, ValueError, "project_weight"),
    ("mbconv", {"stride": 2}, ValueError, "residual"),
    ("mbconv", {"squeeze_excite": tuple(SE)}, TypeError, "squeeze_excite"),
    ("mbconv", {"squeeze_excite": True}, TypeError, "squeeze_excite"),
    ("mbconv", {"squeeze_excite": SE._replace(reduce_weight=torch.randn(4, 16, 1, 1))}, ValueError, "reduce_weight"),
    ("mbconv", {"squeeze_excite": SE._replace(reduce_weight=None)}, TypeError, "reduce_weight"),
    ("mbconv", {"squeeze_excite": SE._replace(reduce_bias=torch.randn(5))}, ValueError, "reduce_bias"),
    ("mbconv", {"squeeze_excite": SE._replace(expand_weight=torch.randn(24, 5, 1, 1))}, ValueError, "expand_weight"),
    ("mbconv", {"squeeze_excite": SE._replace(expand_weight=torch.randn(16, 4, 1, 1))}, ValueError, "expand_weight"),
    ("mbconv", {"squeeze_excite": SE._replace(expand_bias=torch.randn(4))}, ValueError, "expand_bias"),
    ("mbconv", {"squeeze_excite": SE._replace(expand_bias=torch.randn(24).half())}, TypeError, "expand_bias"),
    ("mbconv", {"squeeze_excite": SE._replace(activation="tanh")}, ValueError, "activation"),
    ("mbconv", {"squeeze_excite": SE._replace(gate="step")}, ValueError, "gate"),
]
WRONG = [
    *(case for op in RIGHT for case in _wrong_tensors(op)),
    *(case for op in WINDOWED for case in _wrong_windows(op)),
    *SINGLE,
    *ACTIVATIONS,
    *BLOCKS,
]


def _name(value: Any) -> str | None:
    if isinstance(value, dict):
        return ",".join(f"{key}={_short(item)}" for key, item in value.items())
    return value.__name__ if isinstance(value, type) else None


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{'x'.join(map(str, value.shape))}{value.dtype}{value.device}".replace("torch.", ".").replace("cpu", "")
    return repr(value)[:30].replace("\n", "")


@pytest.mark.parametrize("op", list(RIGHT))
def test_the_right_call_is_right(op: str) -> None:
    assert _function(op)(**RIGHT[op]).isfinite().all()


@pytest.mark.parametrize(("op", "change", "error", "pattern"), WRONG, ids=_name)
def test_wrong_call(op: str, change: dict[str, Any], error: type[Exception], pattern: str) -> None:
    arguments = RIGHT[op] | change
    before = {name: value.clone() for name, value in arguments.items() if isinstance(value, Tensor)}
    with pytest.raises(error, match=pattern) as caught:
        _function(op)(**arguments)
    assert caught.type is error
    message = str(caught.value)
    assert message.endswith(".") and message.count(". ") == 0 and "\n" not in message
    assert all(arguments[name].is_meta or torch.equal(arguments[name], before[name]) for name in before)


@pytest.mark.parametrize(("op", "change", "error", "pattern"), WRONG[::9], ids=_name)
def test_wrong_call_that_wants_a_gradient(
    op: str, change: dict[str, Any], error: type[Exception], pattern: str
) -> None:
    arguments = RIGHT[op] | change
    if isinstance(arguments["input"], Tensor) and arguments["input"].is_floating_point():
        arguments["input"] = arguments["input"].detach().clone().requires_grad_()
    with pytest.raises(error, match=pattern):
        _function(op)(**arguments)


@pytest.mark.parametrize("op", list(RIGHT))
def test_missing_and_unknown_arguments_are_type_errors(op: str) -> None:
    with pytest.raises(TypeError):
        _function(op)(IMAGE)
    with pytest.raises(TypeError):
        _function(op)(**RIGHT[op], transposed=True)


def _function(op: str) -> Callable[..., Tensor]:
    return getattr(ops, op)
