"""Optimized models in files and copies: the same outputs on the other side, or a clear refusal."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from networks import network, with_statistics
from sessions import run_python
from test_fusion import block
from torch import Tensor, nn

import convfirst_ext as cf
from convfirst_ext.nn import PackedMBConv

NAMES = ("mobilenetv3_small_100", "tf_efficientnet_lite0")
IMAGE = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def other_weights(model: nn.Module) -> nn.Module:
    """The same architecture with other weights and statistics."""
    generator = torch.Generator().manual_seed(3)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.mul_(0.9 + 0.2 * torch.rand(tensor.shape, generator=generator))
    return model


def through_a_file(value: object, *, weights_only: bool) -> object:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)


def outputs(model: nn.Module, image: Tensor = IMAGE) -> Tensor:
    with torch.no_grad():
        return model(image)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_state_dict_moves_to_another_optimized_model(name: str, assign: bool) -> None:
    fast, other = cf.optimize(network(name)), cf.optimize(other_weights(network(name)))
    expected = outputs(fast)
    assert not torch.allclose(outputs(other), expected)
    state = through_a_file(fast.state_dict(), weights_only=True)
    assert other.load_state_dict(state, assign=assign) == ([], [])
    assert torch.equal(outputs(other), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_dict_of_storage_types(dtype: torch.dtype) -> None:
    fast = cf.optimize(network(NAMES[0]), dtype=dtype)
    other = cf.optimize(other_weights(network(NAMES[0])), dtype=dtype)
    other.load_state_dict(through_a_file(fast.state_dict(), weights_only=True))
    assert torch.equal(outputs(other), outputs(fast))


def test_a_model_without_memory_takes_the_weights() -> None:
    fast = cf.optimize(network(NAMES[0]))
    other = copy.deepcopy(fast).to_empty(device="cpu")
    other.load_state_dict(fast.state_dict())
    assert torch.equal(outputs(other), outputs(fast))


def plan(fast: nn.Module) -> str:
    return str(cf.explain(fast, IMAGE, time=False))


@pytest.mark.parametrize("name", NAMES)
def test_whole_models_are_copied_pickled_and_saved(name: str) -> None:
    fast = cf.optimize(network(name))
    expected = outputs(fast)
    for twin in (
        copy.deepcopy(fast),
        copy.copy(fast),
        pickle.loads(pickle.dumps(fast)),
        through_a_file(fast, weights_only=False),
    ):
        assert torch.equal(outputs(twin), expected)
        assert not twin.training and plan(twin) == plan(fast)


def test_copies_share_no_memory() -> None:
    fast = cf.optimize(network(NAMES[0]))
    expected, twin = outputs(fast), copy.deepcopy(fast)
    for buffer in twin.buffers():
        buffer.zero_()
    assert torch.equal(outputs(fast), expected) and not torch.equal(outputs(twin), expected)


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(), block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if x.sum() > 0 else x


def test_a_model_optimized_part_by_part_is_saved_whole() -> None:
    fast = cf.optimize(with_statistics(_Branches()).eval())
    assert sum(isinstance(m, PackedMBConv) for m in fast.modules()) == 2
    image = torch.randn(2, 16, 9, 9)
    for twin in (copy.deepcopy(fast), through_a_file(fast, weights_only=False)):
        assert torch.equal(outputs(twin, image), outputs(fast, image))


def test_another_process_loads_a_saved_model(tmp_path: Path) -> None:
    fast = cf.optimize(with_statistics(nn.Sequential(block(), block())).eval())
    image = torch.randn(2, 16, 9, 9)
    torch.save({"model": fast, "image": image, "expected": outputs(fast, image)}, tmp_path / "saved.pt")
    program = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "saved = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad(): print(torch.equal(saved['model'](saved['image']), saved['expected']))\n"
    )
    session = run_python("-c", program, str(tmp_path / "saved.pt"))
    assert session.stdout.strip() == "True", session.stderr


def test_weights_of_another_shape_are_refused() -> None:
    narrow, wide = (cf.optimize(with_statistics(block(channels)).eval()) for channels in (16, 32))
    with pytest.raises(RuntimeError, match="size mismatch"):
        wide.load_state_dict(narrow.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        narrow.load_state_dict(block().state_dict())
