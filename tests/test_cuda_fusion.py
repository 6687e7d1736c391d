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
from convfirst_ext.ops import cuda_blocks


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
    (MBConv(16, 16, stride=2, expansion=4), FusedMBConv),
    (MBConv(16, 16, expansion=1), FusedMBConv),
    (MBConv(16, 24, 5, 2, group_width=1, blur=False, se_gate="hardsigmoid"), FusedMBConv),
    (MBConv(16, 16, group_width=16), type(None)),
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_blocks_of_half_precision_are_fused_as_they_are(dtype: torch.dtype) -> None:
    block = with_statistics(MBConv(16, 16, expansion=4)).to(dtype)
    fused = fuse_block(block)
    assert {parameter.dtype for parameter in fused.parameters()} == {dtype}
    image = torch.randn(2, 16, 7, 9).to(dtype)
    exact = copy.deepcopy(block).double()(image.double())
    assert (fused(image) - exact).norm() <= 2 * (block(image) - exact).norm()


def test_a_block_with_hooks_stays() -> None:
    block = ConvFirst(16, 16).eval()
    block.expand.register_forward_hook(lambda *_: None)
    assert fuse_block(block) is None


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_network_keeps_its_results_and_dtypes(dtype: torch.dtype | None) -> None:
    """Random networks amplify rounding, so the fused one is held to the error that the stock one has.

    The CPU's fused blocks are off by about four times what torch's are in float32, both near 1e-7 of their norm.
    """
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
    assert (actual - exact).norm() <= (8 if dtype is None else 3) * (stock - exact).norm()


# Networks and the side of their images.
NETWORKS = [
    *((f"convfirstnet_{size}", side) for size in ("pico", "nano", "tiny", "small") for side in (224, 256)),
    *((name, 224) for name in ("efficientnet_b0", "mobilenetv2_100", "mobilenetv1_100", "tf_efficientnet_b0")),
    ("torchvision mobilenet_v2", 224),
]


def network(name: str) -> nn.Module:
    if name.startswith("torchvision "):
        return pytest.importorskip("torchvision").models.get_model(name.split()[1], weights=None)
    return pytest.importorskip("timm").create_model(name)


def blocks_of(model: nn.Module) -> int:
    """Blocks of a stock network: whatever has a depthwise or grouped convolution."""
    return sum(isinstance(module, nn.Conv2d) and module.groups > 1 for module in model.modules())


@pytest.mark.parametrize(("name", "side"), NETWORKS)
def test_every_block_of_a_network_has_a_kernel(name: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes only: on the meta device, but asked as if its tensors were on a GPU."""
    reasons: dict[str, str] = {}

    def ask(path: str, block: FusedConvFirst | FusedMBConv, input: torch.Tensor) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(cuda_blocks, "device_reason", lambda input: "")
            reasons[path] = block.reason_against(input)

    with torch.device("meta"):
        model = network(name).half().eval()
        count = blocks_of(model)
        fused = optimize_for_cuda(model, None)
        for path, module in fused.named_modules():
            if isinstance(module, (FusedConvFirst, FusedMBConv)):
                module.register_forward_pre_hook(lambda module, args, path=path: ask(path, module, args[0]))
        fused(torch.empty(2, 3, side, side, dtype=torch.float16))
    assert len(reasons) == count > 0
    assert not any(reasons.values()), {path: reason for path, reason in reasons.items() if reason}
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


def test_networks_of_other_libraries_keep_their_results() -> None:
    for name in ("mobilenetv2_050", "efficientnet_lite0"):
        model = with_statistics(network(name))
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(image.double())
            fused = optimize_for_cuda(copy.deepcopy(model), None)
            error = (fused(image) - exact).norm()
            assert error <= 1e-4 * exact.norm(), name
        assert sum(isinstance(module, FusedMBConv) for module in fused.modules()) == blocks_of(model)


def test_fused_blocks_are_explained() -> None:
    blocks = nn.Sequential(with_statistics(ConvFirst(16, 16)), with_statistics(MBConv(16, 16, expansion=4)))
    records = list(cf.explain(optimize_for_cuda(blocks, None), torch.randn(2, 16, 5, 6), time=False))
    assert [record.kernel for record in records] == [None, None]
    assert all("no kernel for cpu tensors" in record.detail for record in records)
    assert records[0].macs == 2 * 5 * 6 * (16 * 8 * 9 + 2 * 16 * 96)
    assert records[1].macs > 2 * 5 * 6 * (64 * 8 * 9 + 2 * 16 * 64)


def test_blocks_of_dtypes_that_no_operator_takes_stay() -> None:
    assert fuse_block(ConvFirst(16, 16).eval().double()) is None
