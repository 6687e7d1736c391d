"""patch: the same model, trained by the same gradients."""

import copy

import pytest
import torch
from networks import network
from torch import nn

import convfirst_ext as cf


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0", "tv:mobilenet_v3_large", "resnet18"])
def test_outputs_and_gradients_equal_stock(name: str) -> None:
    stock = network(name)
    patched = cf.patch(copy.deepcopy(stock))
    image = torch.randn(2, 3, 64, 64)
    outputs = [model(image) for model in (stock, patched)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)
    for output in outputs:
        output.square().sum().backward()
    for (key, expected), (_, actual) in zip(stock.named_parameters(), patched.named_parameters(), strict=True):
        scale = expected.grad.abs().max().item()
        assert (actual.grad - expected.grad).abs().max().item() <= 2e-4 * scale + 1e-6, key


def test_training_mode_batch_norm_sees_the_same_values() -> None:
    stock = network("mnasnet_100").train()
    patched = cf.patch(copy.deepcopy(stock))
    image = torch.randn(4, 3, 64, 64)
    for model in (stock, patched):
        torch.manual_seed(0)
        model(image)
    for (key, expected), (_, actual) in zip(stock.named_buffers(), patched.named_buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4, msg=key)


def test_in_place_with_the_same_objects() -> None:
    model = network("mobilenetv2_100")
    parameters = {key: id(value) for key, value in model.named_parameters()}
    keys = list(model.state_dict())
    assert cf.patch(model) is model
    assert {key: id(value) for key, value in model.named_parameters()} == parameters
    assert list(model.state_dict()) == keys
    classes = [type(m) for m in model.modules()]
    assert cf.nn.Conv2d in classes
    cf.patch(model)
    assert [type(m) for m in model.modules()] == classes


def test_hooks_and_flags_stay() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8))
    model[0].weight.requires_grad_(False)
    calls = []
    model[0].register_forward_hook(lambda *args: calls.append(1))
    cf.patch(model)(torch.ones(1, 8, 4, 4))
    assert calls == [1] and not model[0].weight.requires_grad and isinstance(model[0], cf.nn.Conv2d)


def test_what_has_no_kernel_or_another_meaning_stays() -> None:
    class Standardized(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(64, 64, 3, 2), Standardized(8, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=2))
    cf.patch(model)
    assert [type(m) for m in model] == [nn.Conv2d, Standardized, nn.ConvTranspose2d]


def test_padding_modes() -> None:
    for mode in ("reflect", "replicate", "circular"):
        conv = nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode=mode)
        image = torch.randn(1, 8, 6, 6)
        expected = conv(image)
        torch.testing.assert_close(cf.patch(conv)(image), expected)


def test_a_model_is_asked_for() -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        cf.patch("resnet18")
