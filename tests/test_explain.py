"""explain: one record a block, for optimized, patched and stock models."""

import pytest
import torch
from networks import network
from torch import nn

import convfirst_ext as cf


def test_an_optimized_model_lists_its_blocks() -> None:
    fast = cf.optimize(network("efficientnet_b0"))
    explanation = cf.explain(fast, torch.randn(1, 3, 64, 64))
    assert len(explanation) == 20
    assert all(record.kernel is not None for record in explanation)
    squeezed = [record for record in explanation if "squeeze-excite" in record.kernel]
    assert len(squeezed) == 16 and all("rows" in record.detail for record in squeezed)
    assert "20 of 20 blocks" in str(explanation)
    assert "blocks.1.0.conv_pw+dw+pwl" in str(explanation)


def test_fallbacks_have_a_reason() -> None:
    records = list(cf.explain(cf.optimize(network("resnext50_32x4d")), torch.randn(1, 3, 64, 64)))
    fallbacks = [record for record in records if record.kernel is None]
    assert len(fallbacks) == 3
    assert all("group width 4" in record.detail for record in fallbacks)


def test_a_patched_model_names_the_kernels() -> None:
    model = cf.patch(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)))
    records = list(cf.explain(model, torch.randn(1, 3, 9, 9)))
    assert [record.kernel for record in records] == ["dense", "depthwise", "pointwise"]
    assert records[0].shapes == "1x3x9x9 -> 1x8x7x7"


def test_a_stock_model_is_told_what_it_would_get() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, padding_mode="reflect", padding=1), nn.ConvTranspose2d(8, 8, 2)
    )
    records = list(cf.explain(model, torch.randn(1, 8, 9, 9)))
    assert [record.kernel for record in records] == [None, None, None]
    assert "depthwise kernel" in records[0].detail
    assert "reflect" in records[1].detail
    assert "split kernel (stride phases without inserted zeros)" in records[2].detail


def test_a_transposed_layer_tells_what_it_saves() -> None:
    model = cf.patch(nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ConvTranspose2d(6, 4, 3, groups=2)))
    split, kept = cf.explain(model, torch.randn(1, 8, 16, 16), time=False)
    assert split.kernel == "split" and split.detail.endswith("without inserted zeros, 77% of the dense products")
    assert kept.kernel is None and "groups of 2 output channels" in kept.detail


def test_nothing_is_left_behind() -> None:
    model = network("mobilenetv2_100").train()
    cf.explain(model, torch.randn(1, 3, 64, 64))
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_a_model_is_asked_for() -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        cf.explain("resnet18", torch.randn(1))
