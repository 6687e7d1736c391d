"""Wrong arguments and inputs of the modules in convfirst_ext.nn, and of the packed operators below them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from wrong_calls import Wrong, assert_refused, assert_state, assert_unchanged, copies, name_of, state_of

import convfirst_ext as cf
from convfirst_ext import ops
from convfirst_ext.nn.packed_linear import PackedLinear
from convfirst_ext.nn.packed_module import PackedModule

IMAGE = torch.randn(2, 16, 8, 8)
RIGHT: dict[str, dict[str, Any]] = {
    "ConvFirst": {"in_channels": 16, "out_channels": 16},
    "MBConv": {"in_channels": 16, "out_channels": 16},
    "DepthwiseSeparableConv2d": {"in_channels": 16, "out_channels": 20, "kernel_size": 3},
    "BlurPool": {"channels": 16},
    "DropPath": {"drop_prob": 0.5},
    "SqueezeExcite": {
        "conv_reduce": nn.Conv2d(16, 4, 1),
        "act1": nn.ReLU(),
        "conv_expand": nn.Conv2d(4, 16, 1),
        "gate": nn.Sigmoid(),
    },
}


def _wrong_blocks(block: str) -> list[Wrong]:
    values: list[tuple[str, Any, type[Exception]]] = [
        ("kernel_size", 2, ValueError),
        ("kernel_size", (3, 3), TypeError),
        ("stride", 3, ValueError),
        ("stride", (1, 1), TypeError),
        ("expansion", 0, ValueError),
        ("expansion", 2.5, TypeError),
        ("group_width", 0, ValueError),
        ("group_width", -8, ValueError),
        ("group_width", 3, ValueError),
        ("group_width", 8.0, TypeError),
        ("activation", "tanh", ValueError),
        ("activation", None, ValueError),
        ("activation", nn.ReLU(), ValueError),
        ("drop_path", 1.0, ValueError),
        ("drop_path", -0.1, ValueError),
        ("drop_path", float("nan"), ValueError),
        ("drop_path", "0.1", TypeError),
        ("drop_path", None, TypeError),
    ]
    if block == "MBConv":
        values += [
            ("se_ratio", -0.5, ValueError),
            ("se_ratio", float("nan"), ValueError),
            ("se_ratio", float("inf"), ValueError),
            ("se_ratio", "0.25", TypeError),
            ("se_activation", "tanh", ValueError),
            ("se_gate", "softmax", ValueError),
        ]
    return [(block, {name: value}, error, name) for name, value, error in values]


def _wrong_sizes(module: str, *names: str) -> list[Wrong]:
    values: list[tuple[Any, type[Exception]]] = [
        (0, ValueError),
        (-1, ValueError),
        ("16", TypeError),
        (16.0, TypeError),
        (None, TypeError),
    ]
    return [(module, {name: value}, error, name) for name in names for value, error in values]


ARGUMENTS: list[Wrong] = [
    *_wrong_sizes("ConvFirst", "in_channels", "out_channels", "kernel_size", "stride"),
    *_wrong_sizes("MBConv", "in_channels", "out_channels", "kernel_size", "stride"),
    *_wrong_sizes("DepthwiseSeparableConv2d", "in_channels", "out_channels", "kernel_size", "stride", "dilation"),
    *_wrong_sizes("BlurPool", "channels", "stride"),
    *_wrong_blocks("ConvFirst"),
    *_wrong_blocks("MBConv"),
    ("DepthwiseSeparableConv2d", {"kernel_size": (3, 3, 3)}, ValueError, "kernel_size"),
    ("DepthwiseSeparableConv2d", {"padding": -1}, ValueError, "padding"),
    ("DepthwiseSeparableConv2d", {"padding": "same"}, TypeError, "padding"),
    ("DepthwiseSeparableConv2d", {"depthwise_activation": "tanh"}, ValueError, "depthwise_activation"),
    ("DepthwiseSeparableConv2d", {"pointwise_activation": None}, ValueError, "pointwise_activation"),
    ("DropPath", {"drop_prob": 1.0}, ValueError, "drop_prob"),
    ("DropPath", {"drop_prob": -0.1}, ValueError, "drop_prob"),
    ("DropPath", {"drop_prob": "0.1"}, TypeError, "drop_prob"),
    ("DropPath", {"drop_prob": None}, TypeError, "drop_prob"),
    *[("SqueezeExcite", {name: None}, TypeError, name) for name in RIGHT["SqueezeExcite"]],
    ("SqueezeExcite", {"gate": torch.sigmoid}, TypeError, "gate"),
]


@pytest.mark.parametrize(("module", "change", "error", "pattern"), ARGUMENTS, ids=name_of)
def test_wrong_argument(module: str, change: dict[str, Any], error: type[Exception], pattern: str) -> None:
    assert_refused(lambda: getattr(cf.nn, module)(**RIGHT[module] | change), error, pattern)


@pytest.mark.parametrize("arguments", [{"groups": 3}, {"groups": 0}, {"padding": "full"}, {"padding_mode": "wrap"}])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_the_drop_ins_refuse_what_torchs_layers_refuse_in_their_words(name: str, arguments: dict[str, Any]) -> None:
    errors = []
    for package in (cf.nn, nn):
        try:
            getattr(package, name)(16, 16, 3, **arguments)
            errors.append(None)
        except Exception as error:
            errors.append((type(error), str(error)))
    assert errors[0] == errors[1]


def test_from_torch_takes_torchs_layer_only() -> None:
    for name in ("Conv2d", "ConvTranspose2d"):
        ours, stock = getattr(cf.nn, name), getattr(nn, name)
        for wrong in (None, nn.Linear(2, 2), ours(2, 2, 1), stock, "conv"):
            assert not ours.matches(wrong)
            assert_refused(lambda ours=ours, wrong=wrong: ours.from_torch(wrong), TypeError, f"torch.nn.{name}")


# Inputs


def _packed() -> dict[str, PackedModule | nn.Module]:
    """Every kind of packed module, as ``optimize`` makes them of small networks of one layer or several."""
    made: dict[str, nn.Module] = {}
    stocks = [
        nn.Conv2d(16, 20, 1),
        nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 20, 1)),
        cf.nn.ConvFirst(16, 16),
        cf.nn.ConvFirst(16, 32, stride=2),
        cf.nn.MBConv(16, 16, group_width=1, blur=False),
        nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    ]
    for stock in stocks:
        for part in cf.optimize(stock.eval()).modules():
            if isinstance(part, (PackedModule, cf.nn.PackedChain)):
                made.setdefault(type(part).__name__, part)
    made["PackedLayerNorm"] = cf.nn.PackedLayerNorm(torch.ones(16), torch.zeros(16), 1e-5)
    return made


MODULES = {name: getattr(cf.nn, name)(**arguments).train() for name, arguments in RIGHT.items()}
MODULES |= {name: getattr(cf.nn, name)(16, 16, 3) for name in ("Conv2d", "ConvTranspose2d")}
MODULES |= _packed()
INPUTS: list[tuple[object, type[Exception], str]] = [
    (None, TypeError, "None"),
    ([1.0], TypeError, "list"),
    ("image", TypeError, "str"),
    (torch.randn(16, 8), ValueError, "two dimensions"),
    (torch.randn(2, 16, 1, 8, 8), ValueError, "five dimensions"),
    (torch.randn(2, 7, 8, 8), ValueError, "seven channels"),
    (torch.randn(2, 32, 8, 8), ValueError, "thirty-two channels"),
    (IMAGE.int(), TypeError, "int32"),
    (IMAGE.double(), TypeError, "float64"),
]


def _takes(name: str, words: str) -> bool:
    """What is right for a module: DropPath and poolings know no channels and no weights."""
    if words.endswith("channels"):
        return name in ("DropPath", "PackedPool")
    return words == "float64" and name == "DropPath"


CALLS = [
    (name, input, error)
    for name in MODULES
    for input, error, words in INPUTS
    if not _takes(name, words) and name not in ("PackedLinear", "BlurPool")
]


def test_every_packed_module_is_among_them() -> None:
    assert {name for name in cf.nn.__all__ if name.startswith("Packed")} <= MODULES.keys()


@pytest.mark.parametrize(("name", "input", "error"), CALLS, ids=name_of)
def test_wrong_input(name: str, input: object, error: type[Exception]) -> None:
    module = MODULES[name]
    before = state_of(module)
    given = copies({"input": input})
    assert_refused(lambda: module(input), error, "input|weight|x must")
    assert_state(module, before)
    assert_unchanged({"input": input}, given)


def test_wrong_inputs_of_linear_layers_and_of_blur_pool() -> None:
    linear = MODULES["PackedLinear"]
    assert isinstance(linear, PackedLinear)
    assert_refused(lambda: linear(None), TypeError, "input must be a Tensor")
    assert_refused(lambda: linear(torch.randn(2, 8)), ValueError, "input must have 16 features")
    assert_refused(lambda: linear(torch.tensor(1.0)), ValueError, "input must have 16 features")
    blur = MODULES["BlurPool"]
    assert_refused(lambda: blur(None), TypeError, "input must be a Tensor")
    assert_refused(lambda: blur(torch.randn(16, 8)), ValueError, "input must have 3 or 4 dimensions")
    assert_refused(lambda: blur(torch.randn(2, 8, 8, 8)), ValueError, "input must have 16 channels")
    with pytest.raises(RuntimeError, match="Padding size"):
        blur(torch.randn(2, 16, 1, 8))


@pytest.mark.parametrize("name", ["ConvFirst", "MBConv"])
def test_autocast_takes_what_it_casts(name: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert MODULES[name](IMAGE).shape == IMAGE.shape
        assert MODULES[name](IMAGE.bfloat16()).shape == IMAGE.shape


# Packed operators


POINTWISE = {
    "kernel": "pointwise",
    "input": IMAGE.contiguous(memory_format=torch.channels_last),
    "weight": ops.packed.pack_weight(torch.randn(20, 16, 1, 1)),
    "bias": ops.packed.pack_bias(torch.randn(20), 20),
    "residual": None,
    "stride": (1, 1),
    "padding": (0, 0, 0, 0),
    "dilation": (1, 1),
    "groups": 1,
    "out_channels": 20,
    "activation": "identity",
}
PACKED: list[tuple[str, object, type[Exception], str]] = [
    ("kernel", "winograd", ValueError, "kernel must be one of depthwise, grouped"),
    ("input", None, TypeError, "input, weight and bias must be Tensors"),
    ("weight", None, TypeError, "input, weight and bias must be Tensors"),
    ("bias", None, TypeError, "input, weight and bias must be Tensors"),
    ("input", IMAGE, RuntimeError, "input must be dense in channels_last order"),
    ("input", IMAGE[:, :8].contiguous(memory_format=torch.channels_last), RuntimeError, "weight must have 8 input"),
    ("weight", torch.randn(20, 16, 1, 1), RuntimeError, "weight must be packed by pack_weight"),
    ("bias", torch.randn(20), RuntimeError, "bias must"),
    ("residual", torch.randn(2, 20, 7, 8), RuntimeError, "residual must"),
    ("stride", (0, 1), RuntimeError, "stride must be two positive numbers"),
    ("padding", (-1, 0, 0, 0), RuntimeError, "padding must be four numbers >= 0"),
    ("dilation", (1, 0), RuntimeError, "dilation must be two positive numbers"),
    ("groups", 0, RuntimeError, "groups must divide"),
    ("out_channels", 40, RuntimeError, "weight must be packed by pack_weight for 40 output channels"),
    ("activation", "tanh", RuntimeError, "activation must be identity, relu"),
]


@pytest.mark.parametrize(("argument", "value", "error", "pattern"), PACKED)
def test_wrong_call_of_a_packed_operator(argument: str, value: object, error: type[Exception], pattern: str) -> None:
    assert ops.packed.conv2d(**POINTWISE).shape == (2, 20, 8, 8)  # type: ignore[arg-type]
    with pytest.raises(error, match=pattern) as caught:
        ops.packed.conv2d(**POINTWISE | {argument: value})  # type: ignore[arg-type]
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pack", "error", "pattern"),
    [
        (lambda: ops.packed.pack_weight(None), TypeError, "weight must be a Tensor"),
        (lambda: ops.packed.pack_transposed_weight([1], 1), TypeError, "weight must be a Tensor"),
        (lambda: ops.packed.pack_bias(1.0, 4), TypeError, "bias must be a Tensor or None"),
        (lambda: ops.packed.pack_bias(torch.randn(20), 4), ValueError, "bias must have 4 elements"),
        (lambda: ops.packed.pack_bias(torch.randn(4, 1), 4), ValueError, "bias must have 4 elements"),
    ],
)
def test_wrong_call_that_packs(pack: Callable[[], Tensor], error: type[Exception], pattern: str) -> None:
    assert_refused(pack, error, pattern)


@pytest.mark.parametrize(
    "program", ["", "a", "0", "0 0 -1", "9 0 -1", "2 1 -1", "2 0 5", "2 0 -1 7", f"{'9' * 30} 0 0"]
)
def test_a_damaged_program_is_refused(program: str) -> None:
    with pytest.raises(RuntimeError, match="program must|weights must"):
        ops.chain.run(POINTWISE["input"], torch.zeros(16), program, False)  # type: ignore[arg-type]


def test_weights_of_another_chain_are_refused() -> None:
    chain = copy.deepcopy(MODULES["PackedChain"])
    assert isinstance(chain, cf.nn.PackedChain)
    for weights in (chain.weights[:-16], torch.cat([chain.weights, chain.weights]), chain.weights.bfloat16()):
        with pytest.raises(RuntimeError, match="weights must"):
            ops.chain.run(POINTWISE["input"], weights, chain.program, chain.flat)  # type: ignore[arg-type]
