"""How autograd calls the CUDA kernels: the Python around them, on the emulator."""

import ctypes
import sys

import pytest
import torch
import torch.nn.functional as F

from convfirst_ext.ops import gradients


@pytest.mark.parametrize(
    ("width", "dtype", "stride", "padding", "dilation"),
    [
        (1, torch.float32, (1, 1), (1, 1, 1, 1), (1, 1)),
        (1, torch.float32, (2, 1), (0, 2, 1, 0), (1, 2)),
        (1, torch.float16, (2, 2), (1, 1, 1, 1), (1, 1)),
        (8, torch.float16, (2, 2), (1, 0, 0, 2), (1, 1)),
    ],
)
@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, False), (False, True, True)])
def test_gradients_by_cuda_kernels(
    library: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    dtype: torch.dtype,
    stride,
    padding,
    dilation,
    wanted,
) -> None:
    for name in ("gradients", "strided_weight_grad"):
        monkeypatch.setattr(sys.modules[f"convfirst_ext.ops.{name}"], "_raw", torch.ops.convfirst_emulated)
    input = torch.randint(-3, 4, (2, 16, 9, 10)).double().requires_grad_()
    weight = torch.randint(-2, 3, (16, width, 3, 3)).double().requires_grad_()
    bias = torch.zeros(16).double().requires_grad_()
    groups = 16 // width
    output = F.conv2d(F.pad(input, padding), weight, bias, stride, 0, dilation, groups)
    grad = torch.randint(-2, 3, output.shape).double()
    expected = torch.autograd.grad(output, (input, weight, bias), grad)
    narrow = [tensor.detach().to(dtype) for tensor in (grad, input, weight)]
    actual = gradients.cuda_gradients(*narrow, (stride, padding, dilation, groups), wanted)
    for found, right, is_wanted in zip(actual, expected, wanted, strict=True):
        assert (found is not None) == is_wanted
        assert found is None or torch.equal(found.double(), right.to(dtype).double())
