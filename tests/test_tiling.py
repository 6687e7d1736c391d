"""The tile planner's plans, and a block of the right size for each of the orders they can name."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext import _native, ops

SHAPES = [
    pytest.param(*shape, id="-".join(map(str, shape)))
    for shape in itertools.product((1, 7, 14, 56, 112, 300), (16, 24, 320), (1, 6), (3, 5), (1, 2), (False, True))
]


@pytest.mark.parametrize(("size", "channels", "expansion", "kernel", "stride", "squeezes"), SHAPES)
def test_plans_fit_the_block(
    size: int, channels: int, expansion: int, kernel: int, stride: int, squeezes: bool
) -> None:
    hidden = channels * expansion
    out_rows = (size + 2 * (kernel // 2) - kernel) // stride + 1
    for images, threads in ((1, 1), (1, 2), (5, 2), (16, 64)):
        shape = (size, size, channels, hidden, channels, kernel, stride, expansion > 1, squeezes)
        plan = _native.plan_tiles(*shape, images, threads)
        assert plan["order"] in (("kept", "strips, twice") if squeezes else ("kept", "strips"))
        assert 1 <= plan["row_group"] <= out_rows
        assert 1 <= plan["strip_rows"] <= out_rows
        assert plan["hidden_channels"] % 16 == 0 and 16 <= plan["hidden_channels"] <= -(-hidden // 16) * 16


def test_large_hidden_tensors_are_not_kept() -> None:
    assert _native.plan_tiles(500, 500, 16, 960, 16)["order"] == "strips"


def _hidden_channels_for(order: str, size: int, channels: int, squeezes: bool) -> int:
    """The fewest hidden channels, in steps of 100, for which two threads take an order on this machine."""
    for hidden in range(101, 6000, 100):
        if _native.plan_tiles(size, size, channels, hidden, 20, 3, 1, True, squeezes, 1, 2)["order"] == order:
            return hidden
    pytest.skip(f"on this CPU nothing that is tried takes the order '{order}'")


@pytest.mark.parametrize(
    ("order", "squeezes", "size", "channels"),
    [("kept", False, 14, 40), ("strips", False, 112, 4), ("strips, twice", True, 112, 4)],
)
def test_every_order_gives_the_same_answer(order: str, squeezes: bool, size: int, channels: int) -> None:
    hidden = _hidden_channels_for(order, size, channels, squeezes)
    image, residual = torch.randn(1, channels, size, size), torch.randn(1, 20, size, size)
    expand, conv = torch.randn(hidden, channels, 1, 1) / channels**0.5, torch.randn(hidden, 1, 3, 3) / 3
    project, bias = torch.randn(20, hidden, 1, 1) / hidden**0.5, torch.randn(hidden)
    gate = ops.SqueezeExcite(torch.randn(6, hidden, 1, 1) / hidden**0.5, None, torch.randn(hidden, 6, 1, 1), None)

    def run() -> Tensor:
        return ops.mbconv(
            image, expand, bias, conv, bias, project, None, 1, 1,
            activation="relu", squeeze_excite=gate if squeezes else None, residual=residual,
        )  # fmt: skip

    h = F.relu_(F.conv2d(image, expand, bias))
    h = F.relu_(F.conv2d(h, conv, bias, padding=1, groups=hidden))
    if squeezes:
        squeezed = F.relu(F.conv2d(h.mean((2, 3), keepdim=True), gate.reduce_weight))
        h *= F.conv2d(squeezed, gate.expand_weight).sigmoid()
    expected = F.conv2d(h, project) + residual
    actual = run()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.set_num_threads(1)
    assert torch.equal(run(), actual)
