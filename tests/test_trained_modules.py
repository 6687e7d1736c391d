"""patch in training: blocks and batch norms that run fused, and when they must not."""

import copy
import pickle

import pytest
import torch
from networks import network
from torch import nn

import convfirst_ext as cf
from convfirst_ext.nn.trained_block import TrainedBlock
from convfirst_ext.nn.trained_convnext import TrainedConvNeXt
from convfirst_ext.nn.trained_module import TrainedModule
from convfirst_ext.nn.trained_norm import TrainedNorm


def kinds(model: nn.Module) -> tuple[int, int, int]:
    return tuple(
        sum(isinstance(m, kind) for m in model.modules()) for kind in (TrainedBlock, TrainedConvNeXt, TrainedNorm)
    )


def step(model: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = model(image).square().mean()
    loss.backward()
    return loss.detach(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "blocks", "convnext", "norms"),
    [
        ("mobilenetv2_100", 17, 0, 2),
        ("efficientnet_b0", 16, 0, 2),
        ("tv:mobilenet_v3_large", 15 + 2, 0, 0),
        ("resnet18", 3, 0, 17),
        ("convnext_atto", 0, 12, 0),
    ],
)
def test_a_training_step_is_that_of_stock(name: str, blocks: int, convnext: int, norms: int) -> None:
    """As near to float64 as stock float32 is: training networks amplify roundings."""
    stock = network(name).train()
    for module in stock.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    patched, exact = cf.patch(copy.deepcopy(stock)), copy.deepcopy(stock).double()
    assert kinds(patched) == (blocks, convnext, norms)
    assert list(patched.state_dict()) == list(stock.state_dict())
    image = torch.randn(4, 3, 64, 64)
    loss, wanted = step(exact, image.double())
    distances = []
    for model in (stock, patched):
        actual, gradients = step(model, image)
        torch.testing.assert_close(actual.double(), loss, rtol=1e-4, atol=0)
        squares = [(gradients[key].double() - wanted[key]).square().sum() for key in wanted]
        distances.append(torch.stack(squares).sum().sqrt().item())
    size = torch.stack([value.square().sum() for value in wanted.values()]).sum().sqrt().item()
    assert distances[1] <= 10 * distances[0] + 2e-5 * size
    for (key, expected), (_, actual) in zip(exact.named_buffers(), patched.named_buffers(), strict=True):
        scale = expected.abs().max().item()
        assert (actual - expected).abs().max().item() <= 1e-4 * scale + 1e-6, key


def block() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 16, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
    )


def patched_block() -> nn.Sequential:
    model = cf.patch(block())
    assert isinstance(model, TrainedBlock)
    return model


def runs_fused(model: nn.Module, image: torch.Tensor) -> bool:
    output = model(image)
    names, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            names.add(node.name())
            waiting += [following for following, _ in node.next_functions]
    return any(name.startswith(("_Block", "_BatchNorm")) for name in names)


IMAGE = torch.randn(2, 8, 6, 7)


def test_eval_mode_and_wider_types_run_layer_by_layer() -> None:
    model = patched_block()
    assert runs_fused(model, IMAGE)
    assert not runs_fused(model.eval(), IMAGE)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not runs_fused(model, IMAGE)
    assert not runs_fused(model.double(), IMAGE.double())


def test_frozen_norms_run_layer_by_layer() -> None:
    model = patched_block()
    model[1].eval()
    before = model[1].running_mean.clone()
    assert not runs_fused(model, IMAGE) and torch.equal(model[1].running_mean, before)


def test_hooks_inside_are_called() -> None:
    model, seen = patched_block(), []
    handle = model[2].register_forward_hook(lambda *_: seen.append(1))
    assert not runs_fused(model, IMAGE) and seen == [1]
    handle.remove()
    assert runs_fused(model, IMAGE)


def test_a_single_pixel_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        patched_block()(torch.randn(1, 8, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        cf.patch(nn.BatchNorm2d(8))(torch.randn(1, 8, 1, 1))


@pytest.mark.parametrize("momentum", [0.1, 0.4, None])
def test_running_statistics(momentum: float | None) -> None:
    stock, patched = block(), patched_block()
    for model in (stock, patched):
        model[1].momentum = model[4].momentum = momentum
        torch.manual_seed(1)
        for _ in range(3):
            model(torch.randn(2, 8, 6, 7) + 1)
    for (key, expected), (_, actual) in zip(stock.named_buffers(), patched.named_buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, msg=key)
    untracked = cf.patch(nn.BatchNorm2d(8, track_running_stats=False))
    torch.testing.assert_close(untracked(IMAGE), nn.BatchNorm2d(8, track_running_stats=False)(IMAGE))


def test_copies_and_pickles_stay_what_they_are() -> None:
    model = patched_block()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin, TrainedModule) and type(twin) is type(model) and isinstance(twin, nn.Sequential)
        assert runs_fused(twin, IMAGE)
        assert all(a is not b for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    pico = cf.patch(network("convnext_atto"))
    assert kinds(copy.deepcopy(pico)) == kinds(pico)


def test_what_is_no_block_stays() -> None:
    with_bias = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    assert kinds(cf.patch(with_bias)) == (0, 0, 1)
    tanh = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Tanh())
    assert kinds(cf.patch(tanh)) == (0, 0, 1)
    plain = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, affine=False))
    assert kinds(cf.patch(plain)) == (0, 0, 0)


def test_patching_twice_and_optimizing_after() -> None:
    model = patched_block()
    kind = type(model)
    assert type(cf.patch(model)) is kind
    model(IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(cf.optimize(model)(IMAGE), model.eval()(IMAGE), rtol=1e-4, atol=1e-4)


def test_compiled_models_see_the_original_layers() -> None:
    model = patched_block()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGE), block()(IMAGE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv2_100", "convnext_atto", "resnet18"])
def test_memory_format_is_that_of_torch(name: str) -> None:
    """Stock users may call view on what a block gives."""
    stock = network(name).train()
    patched = cf.patch(copy.deepcopy(stock))
    for weights, image in ((torch.contiguous_format,) * 2, (torch.channels_last,) * 2):
        formats = []
        for model in (stock, patched):
            model.to(memory_format=weights)
            seen: list[bool] = []
            handles = [
                block.register_forward_hook(lambda *call, seen=seen: seen.append(call[2].is_contiguous()))
                for block in (model.blocks.children() if hasattr(model, "blocks") else list(model.children())[:-1])
            ]
            model(torch.randn(2, 3, 64, 64).contiguous(memory_format=image))
            for handle in handles:
                handle.remove()
            formats.append(seen)
        assert formats[0] == formats[1] and formats[0]
