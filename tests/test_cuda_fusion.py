"""What optimize does for models on a GPU, on the CPU: there its blocks run torch's layers, so folding is tested."""

import copy

import pytest
import torch
from torch import nn

import convfirst_ext as cf
import convfirst_ext.models  # (registers ConvFirstNet)
from convfirst_ext.fusion.cuda_fusion import fuse_block, optimize_for_cuda
from convfirst_ext.nn import ConvFirst, MBConv
from convfirst_ext.nn.fused_blocks import FusedConvFirst, FusedMBConv


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
    return module.eval()


BLOCKS = [
    (ConvFirst(16, 16), FusedConvFirst),
    (ConvFirst(24, 24, expansion=3, activation="silu", bias=True), FusedConvFirst),
    (ConvFirst(16, 24, stride=2), FusedConvFirst),
    (ConvFirst(16, 24), FusedConvFirst),
    (ConvFirst(16, 16, 5), type(None)),
    (ConvFirst(16, 16, group_width=16), type(None)),
    (MBConv(16, 16, expansion=4), FusedMBConv),
    (MBConv(16, 24, expansion=4, se_ratio=0.0), FusedMBConv),
    (MBConv(16, 16, stride=2, expansion=4), type(None)),
    (MBConv(16, 16, expansion=1), type(None)),
    (nn.Conv2d(8, 8, 3), type(None)),
]


@pytest.mark.parametrize(("block", "kind"), BLOCKS, ids=lambda value: getattr(value, "__name__", None))
def test_blocks_become_one_operator(block: nn.Module, kind: type) -> None:
    block = with_statistics(copy.deepcopy(block))
    fused = fuse_block(block)
    assert type(fused) is kind
    image = torch.randn(2, 16 if not isinstance(block, ConvFirst) else block.convolution.in_channels, 7, 9)
    if fused is not None:
        torch.testing.assert_close(fused(image), block(image), rtol=1e-4, atol=1e-4)


def test_a_block_with_hooks_stays() -> None:
    block = ConvFirst(16, 16).eval()
    block.expand.register_forward_hook(lambda *_: None)
    assert fuse_block(block) is None


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_network_keeps_its_results_and_dtypes(dtype: torch.dtype | None) -> None:
    """Random networks amplify rounding, so the fused one is held to the error that the stock one has."""
    import timm

    model = with_statistics(timm.create_model("convfirstnet_pico", num_classes=10))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(image.double())
        stock = copy.deepcopy(model).to(dtype)(image.to(dtype))
        fused = optimize_for_cuda(copy.deepcopy(model), dtype)
        actual = fused(image)
    kinds = [type(module) for module in fused.modules()]
    assert FusedConvFirst in kinds and FusedMBConv in kinds
    assert actual.dtype == torch.float32
    assert (actual - exact).norm() <= 3 * (stock - exact).norm()


def test_fused_blocks_are_explained() -> None:
    blocks = nn.Sequential(with_statistics(ConvFirst(16, 16)), with_statistics(MBConv(16, 16, expansion=4)))
    records = list(cf.explain(optimize_for_cuda(blocks, None), torch.randn(2, 16, 5, 6), time=False))
    assert [record.kernel for record in records] == [None, None]
    assert all("no kernel for cpu tensors" in record.detail for record in records)
    assert records[0].macs == 2 * 5 * 6 * (16 * 8 * 9 + 2 * 16 * 96)
    assert records[1].macs > 2 * 5 * 6 * (64 * 8 * 9 + 2 * 16 * 64)


def test_blocks_of_dtypes_that_no_operator_takes_stay() -> None:
    assert fuse_block(ConvFirst(16, 16).eval().double()) is None
