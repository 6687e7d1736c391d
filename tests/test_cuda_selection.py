"""What CUDA tensors get, decided without a GPU: kernels by shape and dtype, or torch's own with a reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convfirst_ext as cf
from convfirst_ext.ops import cuda
from convfirst_ext.ops.selection import choose_kernel, choose_transposed_kernel

CHOICES = [
    ((32, 1, 3, 3), {"groups": 32}, "depthwise", "one input channel"),
    ((64, 1, 5, 3), {"groups": 32, "stride": (3, 1), "dilation": (2, 1)}, "depthwise", "one input channel"),
    ((32, 8, 3, 3), {"groups": 4, "dtype": torch.float16}, "grouped", "tensor cores"),
    ((32, 8, 5, 5), {"groups": 4, "dtype": torch.bfloat16, "stride": (2, 2)}, "grouped", "tensor cores"),
    ((32, 8, 3, 3), {"groups": 4}, None, "float32: tensor cores need"),
    ((32, 8, 7, 7), {"groups": 4, "dtype": torch.float16}, None, "only 3x3 and 5x5"),
    ((32, 8, 3, 3), {"groups": 4, "dtype": torch.float16, "stride": (1, 2)}, None, "only 3x3 and 5x5"),
    ((32, 16, 3, 3), {"groups": 2, "dtype": torch.float16}, "grouped", "group width 16 on tensor cores"),
    ((32, 16, 5, 5), {"groups": 2, "dtype": torch.float16}, None, "only 3x3 with stride"),
    ((64, 32, 3, 3), {"groups": 2, "dtype": torch.float16}, None, "group width 32"),
    ((32, 3, 3, 3), {"groups": 1}, None, "group width 3"),
    ((32, 3, 3, 3), {"groups": 1, "stride": (2, 2)}, "dense", "stem"),
    ((30, 3, 3, 3), {"groups": 1, "stride": (2, 2)}, None, "stem of 30 channels"),
    ((32, 1, 3, 3), {"groups": 32, "dtype": torch.float64}, None, "no kernel for torch.float64"),
    ((32, 1, 3, 3), {"groups": 32, "packed": True}, None, "packed weights are for the CPU"),
]


@pytest.mark.parametrize(("shape", "options", "kernel", "reason"), CHOICES)
def test_cuda_tensors_get_what_has_a_kernel(monkeypatch, shape, options, kernel, reason) -> None:
    monkeypatch.setattr(cuda, "REASON_AGAINST", "")
    choice = choose_kernel(shape, device_type="cuda", **options)
    assert choice.kernel == kernel and reason in choice.reason


def test_without_cuda_kernels_the_reason_is_kept(monkeypatch) -> None:
    monkeypatch.setattr(cuda, "REASON_AGAINST", "no kernel for cuda tensors: left out")
    for shape, options, *_ in CHOICES:
        assert choose_kernel(shape, device_type="cuda", **options) == (None, "no kernel for cuda tensors: left out")
    assert choose_transposed_kernel((8, 8, 2, 2), groups=1, device_type="cuda").kernel is None


def test_the_reason_says_what_is_missing(monkeypatch) -> None:
    if torch.version.cuda is None:
        assert "torch was built without CUDA" in cuda.REASON_AGAINST
    elif cuda.REASON_AGAINST:
        assert "installed without its CUDA kernels" in cuda.REASON_AGAINST
    else:
        for op in ("depthwise_conv2d", "grouped_conv2d", "split_conv_transpose2d", "strided_weight_grad", "convfirst"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"convfirst::{op}", "CUDA"), op


def block(channels: int = 16, hidden: int = 48) -> list[torch.Tensor]:
    weights = ((channels, 8, 3, 3), (hidden, channels, 1, 1), (channels, hidden, 1, 1))
    layers = [part for shape in weights for part in (torch.randn(shape) * 0.2, torch.randn(shape[0]) * 0.2)]
    return [torch.randn(2, channels, 7, 9), *layers]


@pytest.mark.parametrize("residual", [True, False])
def test_convfirst_is_its_layers_where_no_kernel_takes_it(residual: bool) -> None:
    tensors = block()
    image, conv, conv_bias, expand, expand_bias, project, project_bias = tensors
    x = F.silu(F.conv2d(F.relu(F.conv2d(image, conv, conv_bias, padding=1, groups=2)), expand, expand_bias))
    expected = F.conv2d(x, project, project_bias) + (image if residual else 0)
    actual = cf.ops.convfirst(*tensors, conv_activation="relu", activation="silu", residual=residual)
    torch.testing.assert_close(actual, expected)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    torch.autograd.grad(cf.ops.convfirst(*leaves).sum(), leaves)  # raises if one does not take part


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, torch.randn(2, 12, 7, 9), "input must have a multiple of 8 channels"),
        (1, torch.randn(16, 16, 3, 3), r"conv_weight must have shape \(16, 8, 3, 3\)"),
        (3, torch.randn(48, 8, 1, 1), r"expand_weight must have shape \(48, 16, 1, 1\)"),
        (5, torch.randn(16, 40, 1, 1), r"project_weight must have shape \(16, 48, 1, 1\)"),
        (5, torch.randn(24, 48, 1, 1), "project_bias must have 24 elements"),
        (4, torch.randn(16), "expand_bias must have 48 elements"),
    ],
)
def test_convfirst_names_what_does_not_fit(index: int, value: torch.Tensor, message: str) -> None:
    tensors = block()
    tensors[index] = value
    with pytest.raises(ValueError, match=message):
        cf.ops.convfirst(*tensors)


def test_convfirst_adds_its_input_to_as_many_channels_only() -> None:
    *tensors, _, _ = block()
    with pytest.raises(ValueError, match="residual must be False at stride 1 from 16 to 24 channels"):
        cf.ops.convfirst(*tensors, torch.randn(24, 48, 1, 1), torch.randn(24))


def test_patched_layers_on_other_devices_keep_their_reason() -> None:
    model = cf.patch(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)).to("meta"))
    assert type(model[0]) is nn.Conv2d
