import pytest
import torch
from contract import DTYPES, OpContract
from gradient_contract import GradientContract

from convfirst_ext import ops
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
