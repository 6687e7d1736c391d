"""torch.compile(backend="convfirst") of models that are trained: gradients, statistics and changed weights."""

import copy
from collections.abc import Callable

import pytest
import torch
from compiled import IMAGE, Recorder, small
from networks import relative_error
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.fixture
def backend() -> Recorder:
    return Recorder()


def test_gradients_are_those_of_torch(backend: Recorder) -> None:
    model = small()
    image = IMAGE.clone().requires_grad_()
    wanted = [image, *model.parameters()]
    compiled = torch.compile(model, backend=backend)
    expected = torch.autograd.grad(model(image).square().sum(), wanted)
    actual = torch.autograd.grad(compiled(image).square().sum(), wanted)
    torch.testing.assert_close(actual, expected)
    assert backend.counts == [None]


def test_training_mode_updates_statistics(backend: Recorder) -> None:
    model = small().train()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=backend)(IMAGE), twin(IMAGE))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    assert not torch.equal(model[0][1].running_mean, small()[0][1].running_mean)
    assert backend.counts == [None]


def test_no_grad_inside_the_compiled_function_is_inference(backend: Recorder) -> None:
    model = small()

    @torch.no_grad()
    def predict(image: Tensor) -> Tensor:
        return model(image)

    assert relative_error(torch.compile(predict, backend=backend, fullgraph=True)(IMAGE), predict(IMAGE)) < 1e-5
    assert backend.counts == [(2, 0, 0)]


def test_enable_grad_inside_no_grad_keeps_gradients(backend: Recorder) -> None:
    model = small()

    def loss(image: Tensor) -> Tensor:
        with torch.enable_grad():
            return model(image).square().sum()

    with torch.no_grad():
        result = torch.compile(loss, backend=backend, fullgraph=True)(IMAGE)
    assert result.requires_grad and backend.counts == [None]


# Changed weights


def _scale(model: nn.Module) -> None:
    with torch.no_grad():
        model[0][3].weight.mul_(1.5)


def _load(model: nn.Module) -> None:
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()})


def _replace_data(model: nn.Module) -> None:
    model[2][0].weight.data = model[2][0].weight.data * 1.5


def _replace_parameter(model: nn.Module) -> None:
    model[2][0].weight = nn.Parameter(model[2][0].weight.detach() * 1.5)


def _move_statistics(model: nn.Module) -> None:
    model[2][4].running_mean.add_(0.5)


@pytest.mark.parametrize("change", [_scale, _load, _replace_data, _replace_parameter, _move_statistics])
def test_changed_weights_are_seen(change: Callable[[nn.Module], None], backend: Recorder) -> None:
    model = small()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        before = compiled(IMAGE)
        change(model)
        expected = model(IMAGE)
        assert relative_error(before, expected) > 1e-3
        for _ in range(3):  # as torch would, packed again, packed
            assert relative_error(compiled(IMAGE), expected) < 1e-5
    assert backend.counts[-1] == (2, 0, 0)


def test_weights_that_change_with_every_call_are_not_packed_each_time(backend: Recorder) -> None:
    model = small()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(IMAGE)
        first = backend.graphs[0].fused
        for _ in range(3):
            _scale(model)
            torch.testing.assert_close(compiled(IMAGE), model(IMAGE), rtol=0, atol=0)
        assert backend.graphs[0].fused is first
        assert relative_error(compiled(IMAGE), model(IMAGE)) < 1e-5
        assert backend.graphs[0].fused is not first


def test_writes_through_data_need_a_reset(backend: Recorder) -> None:
    model = small()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        before = compiled(IMAGE)
        model[2][0].weight.data.mul_(1.5)
        assert torch.equal(compiled(IMAGE), before)
        torch.compiler.reset()
        assert relative_error(compiled(IMAGE), model(IMAGE)) < 1e-5
