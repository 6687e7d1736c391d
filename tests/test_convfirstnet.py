"""ConvFirstNet: the paper's figures, and what timm promises of its models."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from networks import relative_error, with_statistics
from sessions import run_python
from torch import nn

import convfirst_ext as cf
from convfirst_ext.bench.macs import count_work
from convfirst_ext.models import ConvFirstNet

# Lavin, arXiv 2404.03617, table 9: millions of parameters, 1e9 multiply-adds at 256x256.
TABLE_9 = {"pico": (5.91, 0.860), "nano": (10.17, 1.812), "tiny": (17.24, 3.227), "small": (28.55, 5.493)}


def small(**options: object) -> ConvFirstNet:
    """The architecture with few and narrow blocks."""
    shape = {"channels": (8, 16, 16, 24, 24), "depths": (1, 2, 1, 2, 2), "head_width": 32, "num_classes": 10}
    return ConvFirstNet(**(shape | options))


def calibrated(model: nn.Module) -> nn.Module:
    """In eval mode on the statistics of random images; with others, 28 blocks multiply them and rounding errors."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(16, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize("size", TABLE_9)
def test_parameters_and_multiply_adds_are_the_papers(size: str) -> None:
    parameters, macs = TABLE_9[size]
    with torch.device("meta"):
        model = timm.create_model(f"convfirstnet_{size}")
        biased = timm.create_model(f"convfirstnet_{size}", conv_bias=True)
    assert count_work(model, (1, 3, 256, 256)).macs == pytest.approx(macs * 1e9, rel=1e-3)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters * 1e6, rel=5e-3)
    assert sum(p.numel() for p in biased.parameters()) == pytest.approx(parameters * 1e6, rel=1.25e-3)


@pytest.mark.parametrize("size", TABLE_9)
def test_registered_with_timm(size: str) -> None:
    assert timm.is_model(f"convfirstnet_{size}")
    assert timm.list_models(f"convfirstnet_{size}") and not timm.list_models(f"convfirstnet_{size}", pretrained=True)
    with torch.device("meta"):
        features = timm.create_model(f"convfirstnet_{size}", features_only=True)
    assert features.feature_info.reduction() == [2, 4, 8, 16, 32]


def test_the_package_itself_needs_no_timm() -> None:
    session = run_python("-c", "import sys, convfirst_ext; sys.exit('timm' in sys.modules)")
    assert session.returncode == 0, session.stderr
    session = run_python("-c", "import sys; sys.modules['timm'] = None; import convfirst_ext.models")
    assert "convfirst_ext.models needs timm: pip install 'convfirst_ext[models]'." in session.stderr


def test_features_are_those_of_the_stages() -> None:
    options = {"channels": (8, 16, 16, 24, 24), "depths": (1, 2, 1, 2, 2)}
    features = timm.create_model("convfirstnet_pico", features_only=True, out_indices=(0, 2, 4), **options).eval()
    assert features.feature_info.channels() == [8, 16, 24] and features.feature_info.reduction() == [2, 8, 32]
    whole = small()
    weights = whole.state_dict()
    features.load_state_dict(
        {key: weights[key.replace("stages_", "stages.").replace("stem_", "stem.")] for key in features.state_dict()}
    )
    image = torch.randn(2, 3, 64, 64)
    x, expected = whole.eval().stem(image), []
    for stage in whole.stages:
        x = stage(x)
        expected.append(x)
    for actual, wanted in zip(features(image), expected[::2], strict=True):
        assert torch.equal(actual, wanted)
    assert [tuple(f.shape[2:]) for f in features(image)] == [(32, 32), (8, 8), (2, 2)]


def test_classifier_can_be_left_out_or_replaced() -> None:
    image = torch.randn(2, 3, 32, 32)
    model = small().eval()
    assert model(image).shape == (2, 10) and model.get_classifier() is model.classifier
    features = model.forward_features(image)
    assert features.shape == (2, 32, 1, 1)
    pooled = model.forward_head(features, pre_logits=True)
    assert torch.equal(pooled, features.flatten(1))
    assert torch.equal(model.classifier(pooled), model(image))
    model.reset_classifier(0)
    assert torch.equal(model(image), pooled) and model.num_classes == 0
    model.reset_classifier(7, "catavgmax")
    assert model(image).shape == (2, 7) and model.head_hidden_size == 64
    model.reset_classifier(0, "")
    assert torch.equal(model(image), features)
    assert small(num_classes=0).eval()(image).shape == (2, 32)
    assert small(in_chans=1)(torch.randn(2, 1, 32, 48)).shape == (2, 10)


def test_a_new_classifier_has_the_models_dtype() -> None:
    model = small().double()
    model.reset_classifier(3)
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64


def test_stochastic_depth_grows_and_acts_in_training_only() -> None:
    model = small(drop_path_rate=0.2, drop_rate=0.3)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.2 * index / 7 for index in range(8)])
    image = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(image), model(image))
    certain = small()
    certain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(image), certain.eval()(image))


def test_checkpointing_changes_no_gradient() -> None:
    model = small().double()
    kept = copy.deepcopy(model)
    kept.set_grad_checkpointing()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for each in (model, kept):
        each(image).square().sum().backward()
    for (key, expected), (_, actual) in zip(model.named_parameters(), kept.named_parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, msg=key)


def test_parameters_group_by_block() -> None:
    from timm.models import group_parameters

    model = small()
    for coarse, layers in ((False, 1 + 8 + 1), (True, 1 + 5 + 1)):
        groups = group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert len(set(groups.values())) == layers
        assert set(groups) == {name for name, _ in model.named_parameters()}
        assert groups["head_conv.weight"] == groups["stages.4.1.project.weight"]


def test_state_dict_round_trips(tmp_path: Path) -> None:
    model = with_statistics(small()).eval()
    state = model.state_dict()
    assert all(type(value) is torch.Tensor for value in state.values())
    torch.save(state, tmp_path / "weights.pt")
    other = small().eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(other(image), model(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 16)}, r"channels must be 5 positive numbers, but is \(8, 16\)"),
        ({"depths": (1, 2, 0, 1, 1)}, r"depths must be 5 positive numbers, but is \(1, 2, 0, 1, 1\)"),
        ({"channels": (12, 16, 16, 24, 24)}, "in_channels must be a multiple of group_width 8, but is 12"),
    ],
)
def test_wrong_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_pico_patched_and_optimized() -> None:
    model = calibrated(timm.create_model("convfirstnet_pico"))
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        patched = cf.patch(copy.deepcopy(model))
        assert list(patched.state_dict()) == list(model.state_dict())
        assert relative_error(patched(image), expected) < 1e-4
        fast = cf.optimize(model)
        assert relative_error(fast(image), expected) < 1e-4
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())


def test_patched_training_gives_the_same_gradients() -> None:
    stock = small().train()
    patched = cf.patch(copy.deepcopy(stock))
    image = torch.randn(4, 3, 64, 64)
    for model in (stock, patched):
        model(image).square().sum().backward()
    largest = max(parameter.grad.abs().max().item() for parameter in stock.parameters())
    for (key, expected), (_, actual) in zip(stock.named_parameters(), patched.named_parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-3, atol=1e-5 * largest, msg=key)
