"""Gradients and second gradients against finite differences.

A convolution is linear in its image and in its weight. So central differences with a step of one have no error but
rounding, and on small integers not even that: float32 is enough for torch.autograd.gradcheck.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from convfirst_ext import ops

EXACT = {"eps": 1.0, "atol": 1e-3, "rtol": 0.0}


def integers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-2, 3, shape, generator=generator).float().requires_grad_()


CASES: list[tuple[str, Callable[..., Tensor], list[Tensor]]] = [
    (
        "conv2d dense",
        lambda x, w, b: ops.conv2d(x, w, b, 2, 1),
        [integers(1, 3, 5, 4), integers(4, 3, 3, 3), integers(4)],
    ),
    ("conv2d pointwise", ops.conv2d, [integers(2, 3, 2, 3), integers(5, 3, 1, 1), integers(5)]),
    (
        "conv2d depthwise",
        lambda x, w, b: ops.conv2d(x, w, b, 1, 2, 1, 3),
        [integers(1, 3, 4, 5), integers(3, 1, 5, 5), integers(3)],
    ),
    (
        "conv2d depthwise dilated",
        lambda x, w, b: ops.conv2d(x, w, b, 1, 2, 2, 3),
        [integers(1, 3, 5, 4), integers(3, 1, 3, 3), integers(3)],
    ),
    (
        "conv2d group width 8",
        lambda x, w, b: ops.conv2d(x, w, b, 1, 1, 1, 2),
        [integers(1, 16, 2, 2), integers(16, 8, 3, 3), integers(16)],
    ),
    (
        "trimmed, padding above the kernel",
        lambda x, w, b: ops.trimmed_conv2d(x, w, b, (1, 2), (1, 3, 2, 2), 2),
        [integers(1, 2, 3, 3), integers(3, 2, 2, 2), integers(3)],
    ),
    (
        "split",
        lambda x, w, b: ops.split_conv_transpose2d(x, w, b, 2, 1, 1),
        [integers(1, 3, 3, 2), integers(3, 4, 3, 3), integers(4)],
    ),
    (
        "split depthwise",
        lambda x, w, b: ops.split_conv_transpose2d(x, w, b, 2, 1, 0, 3),
        [integers(1, 3, 3, 2), integers(3, 1, 4, 4), integers(3)],
    ),
    (
        "strided weight gradient",
        lambda x, g: ops.strided_weight_grad(x, (4, 3, 3, 3), g, 2, 1),
        [integers(1, 3, 5, 4), integers(1, 4, 3, 2)],
    ),
    ("conv1d", lambda x, w, b: ops.conv1d(x, w, b, 2, 1), [integers(1, 3, 7), integers(4, 3, 3), integers(4)]),
    (
        "conv_transpose1d",
        lambda x, w, b: ops.conv_transpose1d(x, w, b, 2, 1),
        [integers(1, 3, 4), integers(3, 4, 3), integers(4)],
    ),
]


@pytest.mark.parametrize(("function", "arguments"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.filterwarnings("ignore:Input #:UserWarning")  # they are not float64, and need not be
def test_first_and_second_gradients(function: Callable[..., Tensor], arguments: list[Tensor]) -> None:
    assert gradcheck(function, arguments, **EXACT)
    grad = torch.ones_like(function(*arguments)).cumsum(-1).remainder(3) - 1
    assert gradgradcheck(function, arguments, grad.requires_grad_(), **EXACT)
