"""analyze: kernels and blocks of networks, held against the paper's hand-written ones, and what it refuses."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from networks import network
from paper_networks import convfirstnet, convnext_small, resnet101
from torch import nn

import convfirst_ext as cf
from convfirst_ext import analysis
from convfirst_ext.analysis import BlockShape, KernelCost, Machine, NetworkAnalysis
from convfirst_ext.analysis.dataflow import Dataflow, Operation, Use

A5000 = analysis.load_machines()["a5000"]


def images(batch: int, size: int) -> torch.Tensor:
    return torch.empty(batch, 3, size, size, device="meta")


def paper(name: str) -> nn.Module:
    import convfirst_ext.models  # noqa: F401

    with torch.device("meta"):
        return timm.create_model(name)


# Against the paper


def test_convfirstnet_is_the_papers() -> None:
    """Figure 15: 36 % layer by layer, 97 % with fused blocks; table 4: 5.493 G multiply-adds."""
    found = cf.analyze(paper("convfirstnet_small"), images(128, 256), "a5000")
    assert found.macs == pytest.approx(128 * 5.493e9, rel=1e-4)
    assert round(100 * found.layer_efficiency) == 36 and round(100 * found.block_efficiency) == 97
    assert [block.layers for block in found.blocks if block.layers > 1] == [3] * 2 + [6] + [3] * 4 + [6] + [3] * 5 + [
        *([8] + [7] * 17),
        *([8] + [7] * 17),
    ]
    by_hand = analysis.minimum_latency(convfirstnet("small", fused=True), A5000)
    assert found.block_seconds == pytest.approx(by_hand, rel=0.005)


@pytest.mark.parametrize(
    ("name", "size", "by_hand"), [("resnet101", 224, resnet101()), ("convnext_small", 288, convnext_small())]
)
def test_layers_are_those_counted_by_hand(name: str, size: int, by_hand: list[KernelCost]) -> None:
    found = cf.analyze(paper(name), images(128, size), A5000)
    assert found.layer_seconds == pytest.approx(analysis.minimum_latency(by_hand, A5000), rel=0.01)
    assert found.layer_efficiency == pytest.approx(analysis.maximum_efficiency(by_hand, A5000), abs=0.005)


def test_blocks_cost_what_the_papers_formulas_say() -> None:
    """Equations of section 5 by BlockShape: the same bytes but for biases, which fold into the convolutions."""
    blocks = {block.name: block for block in cf.analyze(paper("convfirstnet_tiny"), images(128, 256), A5000).blocks}
    convfirst = analysis.convfirst_block(BlockShape(128, 64, 48, 6))
    assert blocks["stages.1.1"].bytes == convfirst.bytes
    assert blocks["stages.1.1"].operations == pytest.approx(convfirst.operations, rel=1e-6)
    mbconv = analysis.mbconv_block(BlockShape(128, 16, 192, 4))
    assert blocks["stages.3.1"].bytes == pytest.approx(mbconv.bytes, rel=1e-3)
    assert blocks["stages.3.1"].operations == pytest.approx(mbconv.operations, rel=1e-3)


# Whole networks


def test_sums_and_shares() -> None:
    model = network("mobilenetv3_small_050")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    found = cf.analyze(model.train(), torch.rand(2, 3, 64, 64), "h200")
    assert model.training and all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert found.layers[-1].cumulative_share == pytest.approx(1.0) and found.blocks[
        -1
    ].cumulative_share == pytest.approx(1)
    assert sum(block.macs for block in found.blocks) == found.macs == sum(layer.macs for layer in found.layers)
    assert sum(block.layers for block in found.blocks) == len(found.layers)
    assert found.ideal_seconds <= found.block_seconds <= found.layer_seconds
    for block in found.blocks:
        assert block.bytes <= block.layer_bytes and block.seconds <= block.layer_seconds and block.network_speedup >= 1
    # The gate of squeeze-excite is the only pass over the image that no convolution can make.
    kinds = {layer.kind for layer in found.layers if layer.macs == 0}
    assert kinds == {"pool, multiply, cat or norm"}
    assert not [layer.name for layer in found.layers if layer.name.endswith((".act", ".bn1", "drop"))]
    assert "GFLOP on h200" in str(found) and found.to_dict()["layers"][0]["name"] == "conv_stem"


def test_a_batch_takes_no_longer_and_costs_in_proportion() -> None:
    model = network("mobilenetv2_035")
    one, many = (cf.analyze(model, images(batch, 96), "a100") for batch in (1, 64))
    assert many.macs == 64 * one.macs and many.layer_seconds < 64 * one.layer_seconds
    assert [block.name for block in one.blocks] == [block.name for block in many.blocks]


@pytest.mark.parametrize("name", ["mobilenetv2_035", "convnext_atto"])
def test_patching_changes_nothing(name: str) -> None:
    model = network(name)
    stock = cf.analyze(model, images(2, 64), A5000)
    patched = cf.analyze(cf.patch(model), images(2, 64), A5000)
    assert patched.to_dict() == stock.to_dict()


def test_blocks_of_usual_networks() -> None:
    found = cf.analyze(network("tv:resnet50"), images(1, 64), A5000)
    assert [block.name for block in found.blocks if block.layers > 1][:4] == [
        "layer1.0",
        "layer1.1",
        "layer1.2",
        "layer2.0",
    ]
    # Two dense convolutions share no kernel; attention keeps nothing for a moment; ConvNeXt's products have a module.
    assert all(block.layers == 1 for block in cf.analyze(network("tv:resnet18"), images(1, 64), A5000).blocks)
    assert all(block.layers == 1 for block in cf.analyze(network("tv:vgg11"), images(1, 64), A5000).blocks)
    vit = cf.analyze(network("vit_tiny_patch16_224"), images(1, 224), A5000)
    assert {block.name for block in vit.blocks if block.layers > 1} == {f"blocks.{i}.mlp" for i in range(12)}
    atto = cf.analyze(network("convnext_atto"), images(1, 64), A5000)
    assert "stages.0.blocks.0" in {block.name for block in atto.blocks if block.layers == 4}


def test_transposed_convolutions_count_their_own_products() -> None:
    layer = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
    (record,) = cf.analyze(layer, torch.empty(3, 8, 5, 5), A5000).layers
    assert record.macs == 3 * 25 * 8 * 4 * 16 and record.output_shape == (3, 4, 10, 10)
    assert record.bytes == 2 * (3 * 8 * 25 + 3 * 4 * 100 + 8 * 4 * 16 + 4)


def test_what_joins_a_layer_and_what_does_not() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.conv(x)) + x  # joins, and reads x, which the convolution reads too
            y = y * torch.sigmoid(y)  # joins
            return torch.cat((y * y.mean((2, 3), keepdim=True), x), 1)  # pooling, gate, cat

    found = cf.analyze(Gate(), torch.empty(1, 4, 6, 6), dataclasses.replace(A5000, bytes_per_element=1))
    assert [layer.bytes for layer in found.layers] == [2 * 144 + 4 * 36 + 4 + 4, 144 + 4, 144 + 4 + 144, 4 * 144]
    assert [layer.operations for layer in found.layers] == [2 * 36 * 4 * 36, 144, 148, 288]


def test_wrong_arguments() -> None:
    model, image = nn.Conv2d(3, 8, 3), torch.empty(1, 3, 8, 8)
    for arguments, kind, message in (
        ((3, image, A5000), TypeError, "model must be a torch.nn.Module, but is int"),
        ((model, 3, A5000), TypeError, "example must be a tensor"),
        ((model, image, "cray"), ValueError, "machine 'cray' is not known; it must be one of a5000, a100"),
        ((model, torch.empty(1, 4, 8, 8), A5000), ValueError, "model must run on the meta device"),
        ((cf.optimize(model), image, A5000), ValueError, "model must be the one that optimize was given"),
        ((nn.Identity(), image, A5000), ValueError, "flow must hold at least one operation"),
    ):
        with pytest.raises(kind, match=message):
            cf.analyze(*arguments)
    flow = Dataflow([Operation("a", "convolution", 8, (Use(0, 4),), Use(1, 4), 2, (1, 4), (1, 4))], [1])
    with pytest.raises(ValueError, match="batch must be positive, but is 0"):
        NetworkAnalysis(flow, A5000, 0)


def test_this_machine() -> None:
    found = cf.analyze(nn.Conv2d(3, 8, 3), torch.empty(1, 3, 8, 8))
    assert found.machine.name.startswith("this CPU, 2 threads, data in L2") and found.machine.bytes_per_element == 4
    large = cf.analyze(nn.Conv2d(3, 8, 3), torch.empty(4096, 3, 224, 224, device="meta"))
    assert large.machine.name.endswith("data in memory")


# Machines that users name


def test_machines_that_users_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert analysis.find_machine("a100").bytes_per_second == 2039e9
    numbers = "flops_per_second = 1e12\nbytes_per_second = 1e11\n"
    own = tmp_path / "convfirst_ext" / "machines.toml"
    own.parent.mkdir()
    own.write_text(f"[laptop]\n{numbers}")
    assert analysis.find_machine("laptop") == Machine("laptop", 1e12, 1e11) and analysis.find_machine("a100")
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(f"[desk]\n{numbers}")
    two.write_text(f"[desk]\n{numbers}[rack]\n{numbers}")
    assert analysis.find_machine(str(one)).name == "desk" and analysis.find_machine(f"{two}:rack").name == "rack"
    with pytest.raises(ValueError, match="name one of desk, rack as .*two.toml:NAME"):
        analysis.find_machine(str(two))
    with pytest.raises(ValueError, match="'desk' is not known; it must be one of a5000, .*, laptop or FILE.toml"):
        analysis.find_machine("desk")
    with pytest.raises(FileNotFoundError):
        analysis.find_machine("none.toml")


# Pictures


def test_pictures() -> None:
    found = cf.analyze(network("mobilenetv2_035"), images(8, 96), A5000)
    (axes,) = analysis.roofline_figure(found).axes
    assert "OP/byte" in axes.get_xlabel() and "TFLOP/s" in axes.get_ylabel() and axes.get_xscale() == "log"
    marks = sum(len(group.get_offsets()) for group in axes.collections)
    assert marks == len(found.layers) + sum(block.layers > 1 for block in found.blocks)
    measured = [3e-3 * (i + 1) for i in range(len(found.blocks))]
    (axes,) = analysis.time_figure(found, {"measured": measured}).axes
    ends = {line.get_label().partition(":")[0]: line.get_ydata()[-1] for line in axes.lines}
    assert ends["layer by layer, least"] == pytest.approx(1e3 * found.layer_seconds)
    assert ends["measured"] == pytest.approx(3 * len(found.blocks)) and "[ms]" in axes.get_ylabel()
    assert axes.lines[2].get_ydata()[-1] == pytest.approx(1e3 * found.ideal_seconds)
    with pytest.raises(ValueError, match="curves must have .* points, but 'short' has 1"):
        analysis.time_figure(found, {"short": [1.0]})
