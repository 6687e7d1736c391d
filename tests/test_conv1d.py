"""One dimension: torch's own samples, its gradients and its errors."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db

from convfirst_ext import ops


@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
def test_torchs_own_samples(name: str) -> None:
    (info,) = [op for op in op_db if op.name == f"nn.functional.{name}"]
    count = 0
    for sample in info.sample_inputs("cpu", torch.float32):
        expected = getattr(F, name)(sample.input, *sample.args, **sample.kwargs)
        actual = getattr(ops, name)(sample.input, *sample.args, **sample.kwargs)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
        count += 1
    assert count > 3


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("window", [{}, {"stride": 2, "padding": 1}, {"stride": [3], "padding": [2], "dilation": [2]}])
@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
def test_outputs_and_gradients(name: str, window: dict, groups: int) -> None:
    tensors = torch.randn(2, 8, 14), torch.randn(8, 8 // groups, 3), torch.randn(8)
    results = []
    for function in (getattr(ops, name), getattr(F, name)):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*leaves, groups=groups, **window)
        results.append([output, *torch.autograd.grad(output.pow(2).sum(), leaves)])
    for actual, expected in zip(*results, strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_rows_without_a_batch_and_same_padding() -> None:
    row, weight = torch.randn(3, 9), torch.randn(6, 3, 4)
    torch.testing.assert_close(ops.conv1d(row, weight, padding="same"), F.conv1d(row, weight, padding="same"))
    transposed = torch.randn(3, 6, 4)
    torch.testing.assert_close(
        ops.conv_transpose1d(row, transposed, stride=2), F.conv_transpose1d(row, transposed, stride=2)
    )


@pytest.mark.parametrize("name", ["conv1d", "conv_transpose1d"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.randn(1, 4, 5, 5)}, ValueError, "input must have 3 dimensions"),
        ({"input": 1}, TypeError, "input must be a Tensor"),
        ({"weight": torch.randn(4, 4)}, ValueError, "weight must have 3 dimensions"),
        ({"stride": (1, 2)}, ValueError, "stride must be one int"),
        ({"padding": (1, 2)}, ValueError, "padding must be one int"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1"),
        ({"bias": torch.randn(3)}, ValueError, "bias must have 4 elements"),
    ],
)
def test_wrong_calls(name: str, change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        getattr(ops, name)(**({"input": torch.randn(1, 4, 9), "weight": torch.randn(4, 4, 3)} | change))
