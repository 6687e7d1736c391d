from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from block_contract import Weights, assert_agrees, assert_patched_and_optimized_agree, convolve_and_normalize
from block_contract import blur as reflected_blur
from contract import DTYPES, OpContract
from gradient_contract import GradientContract

import convfirst_ext as cf
from convfirst_ext import nn, ops
from convfirst_ext.testing import CASES, OpCase

SQUEEZED = [case for case in CASES["mbconv"] if "squeeze_excite" in case.options]


class TestMbconv(OpContract, GradientContract):
    op = "mbconv"


@pytest.mark.parametrize("case", SQUEEZED[::4], ids=str)
def test_squeeze_excite_weighs_its_images_apart(case: OpCase) -> None:
    tensors = case.make(values="normal")
    image = tensors["input"]
    together = case.run(tensors | {"input": torch.cat([image, -3 * image, image])} | _no_residual(tensors, 3))
    for index, alone in enumerate((image, -3 * image, image)):
        count = image.shape[0]
        actual = together[index * count : (index + 1) * count]
        torch.testing.assert_close(actual, case.run(tensors | {"input": alone} | _no_residual(tensors, 1)))


def _no_residual(tensors: dict[str, torch.Tensor], repeats: int) -> dict[str, torch.Tensor]:
    residual = tensors.get("residual")
    return {} if residual is None else {"residual": torch.zeros_like(residual).repeat(repeats, 1, 1, 1)}


def test_a_closed_gate_leaves_the_bias_and_an_open_one_everything() -> None:
    case = next(case for case in SQUEEZED if case.name == "squeeze-relu-hardsigmoid")
    tensors = case.make()
    for name in ("reduce_weight", "reduce_bias", "expand_weight"):
        tensors[f"squeeze_excite.{name}"].zero_()
    open_case = OpCase("mbconv", "open", case.shapes, {k: v for k, v in case.options.items() if k != "squeeze_excite"})
    for dtype in DTYPES:
        given = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        given["squeeze_excite.expand_bias"].fill_(-3.0)
        bias = given["project_bias"][:, None, None].expand(case.run(given).shape)
        assert torch.equal(case.run(given), bias)
        given["squeeze_excite.expand_bias"].fill_(3.0)
        assert torch.equal(case.run(given), open_case.run(given))


def test_weights_of_squeeze_excite_have_names_and_defaults() -> None:
    tensors = [torch.randn(4, 16, 1, 1), None, torch.randn(16, 4, 1, 1), None]
    gate = ops.SqueezeExcite(*tensors)
    assert gate.activation == "relu" and gate.gate == "sigmoid"
    assert gate.reduce_weight is tensors[0] and gate.expand_weight is tensors[2]


# The module

SHAPES = [
    {"in_channels": 16, "out_channels": 16},
    {"in_channels": 12, "out_channels": 24, "stride": 2},
    {"in_channels": 12, "out_channels": 24, "stride": 2, "blur": False, "bias": True},
    {"in_channels": 16, "out_channels": 16, "kernel_size": 5, "group_width": 1, "expansion": 6, "se_ratio": 0.0},
    {"in_channels": 8, "out_channels": 8, "expansion": 1, "se_activation": "silu", "se_gate": "hardsigmoid"},
    {"in_channels": 3, "out_channels": 3, "group_width": 1, "activation": "relu6", "drop_path": 0.0},
]
TORCH = {"silu": F.silu, "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}


def reference(
    weights: Weights,
    image: torch.Tensor,
    training: bool,
    *,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    expansion: int = 4,
    group_width: int = 8,
    se_ratio: float = 0.25,
    activation: str = "silu",
    se_activation: str = "relu",
    se_gate: str = "sigmoid",
    blur: bool = True,
    bias: bool = False,
    drop_path: float = 0.0,
) -> torch.Tensor:
    hidden = image
    if expansion != 1:
        hidden = TORCH[activation](convolve_and_normalize(weights, "expand", image, training))
    groups = expansion * in_channels // group_width
    own_stride = 1 if blur else stride
    hidden = convolve_and_normalize(weights, "convolution", hidden, training, groups, own_stride)
    hidden = TORCH[activation](hidden)
    if stride == 2 and blur:
        hidden = reflected_blur(hidden)
    if se_ratio:
        names = [f"squeeze_excite.conv_{layer}.{part}" for layer in ("reduce", "expand") for part in ("weight", "bias")]
        reduce, reduce_bias, expand, expand_bias = (weights[name] for name in names)
        assert reduce.shape[0] == max(1, int(in_channels * se_ratio))
        squeezed = TORCH[se_activation](F.conv2d(F.adaptive_avg_pool2d(hidden, 1), reduce, reduce_bias))
        hidden = hidden * TORCH[se_gate](F.conv2d(squeezed, expand, expand_bias))
    output = convolve_and_normalize(weights, "project", hidden, training)
    return image + output if stride == 1 and in_channels == out_channels else output


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_module_is_the_same_as_torch(shape: dict[str, Any]) -> None:
    image = torch.randn(3, shape["in_channels"], 9, 12)
    assert_agrees(nn.MBConv(**shape), partial(reference, **shape), image)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_module_patched_and_optimized(shape: dict[str, Any]) -> None:
    assert_patched_and_optimized_agree(nn.MBConv(**shape), torch.randn(2, shape["in_channels"], 13, 10))


def test_one_fused_block_without_blur() -> None:
    for options in ({}, {"stride": 2, "blur": False}, {"group_width": 1, "se_ratio": 0.0}):
        fast = cf.optimize(nn.MBConv(16, 16, **options).eval())
        assert sum(isinstance(module, nn.PackedMBConv) for module in fast.modules()) == 1, options


def test_the_modules_state_is_plain_tensors_of_the_layers() -> None:
    block = nn.MBConv(8, 8, drop_path=0.2)
    keys = {key.rsplit(".", 1)[0] for key in block.state_dict()}
    convolutions = {"expand", "convolution", "project"}
    squeeze_excite = {"squeeze_excite.conv_reduce", "squeeze_excite.conv_expand"}
    assert keys == convolutions | {f"{name}_norm" for name in convolutions} | squeeze_excite
    other = nn.MBConv(8, 8)
    other.load_state_dict(block.state_dict())
    image = torch.randn(1, 8, 6, 6)
    assert torch.equal(other.eval()(image), block.eval()(image))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((9, 16), {}, "expansion \\* in_channels must be a multiple of group_width 8, but is 36"),
        ((0, 16), {}, "in_channels must be positive, but is 0"),
        ((16, 16, 2), {}, "kernel_size must be odd, but is 2"),
        ((16, 16, 3, 4), {"blur": False}, "stride must be 1 or 2, but is 4"),
        ((16, 16), {"se_ratio": -0.5}, "se_ratio must be 0 or positive, but is -0.5"),
        ((16, 16), {"se_gate": "softmax"}, "se_gate must be one of identity, relu, .*but is 'softmax'"),
    ],
)
def test_wrong_arguments_of_the_module(arguments: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.MBConv(*arguments, **options)
