"""explain: multiply-adds, bytes, scratch memory and times, and what it leaves as it was."""

import io
import json
import sys

import pytest
import torch
from networks import network
from torch import nn

import convfirst_ext as cf
from convfirst_ext.fusion import stopwatch
from convfirst_ext.fusion.ceilings import ceilings_for
from convfirst_ext.fusion.explanation_table import short_name
from convfirst_ext.fusion.tiles import Tiles, tiles_of
from convfirst_ext.fusion.work import Call, packed_work
from convfirst_ext.nn import PackedConv2d, PackedMBConv
from convfirst_ext.nn.packed_mbconv import FoldedLayer


class Residual(nn.Module):
    """16 -> 32 -> 16 channels, the input added."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(16, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.project = nn.Conv2d(32, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(torch.relu(self.depthwise(torch.relu(self.expand(x)))))


class Chain(nn.Module):
    """A container that computes without calling its children, unless told to go step by step."""

    def __init__(self, *children: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(children)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step.forward(x)
        return x

    def run_stepwise(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(x)
        return x


def squeezing() -> PackedMBConv:
    """16 -> 32 -> 16 channels with a bottleneck of 4."""
    layers = [FoldedLayer(torch.randn(shape), None) for shape in ((32, 16, 1, 1), (32, 1, 3, 3), (16, 32, 1, 1))]
    gate = cf.ops.SqueezeExcite(torch.randn(4, 32, 1, 1), None, torch.randn(32, 4, 1, 1), None)
    block = cf.optimize(Residual()).get_submodule("fused_depthwise")
    return PackedMBConv(*layers, block.window, 32, "relu", squeeze_excite=gate)


# Numbers


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv2_050"])
def test_fusion_keeps_the_multiply_adds(name: str) -> None:
    model, example = network(name), torch.randn(2, 3, 64, 64)
    stock = cf.explain(model, example, time=False).totals
    fused = cf.explain(cf.optimize(model), example, time=False)
    assert fused.records[-1].kernel.startswith("linear") and fused.records[-1].macs == 2 * 1280 * 1000
    assert fused.totals.macs == stock.macs + 2 * 1280 * 1000
    assert all(record.bytes_bound <= record.bytes_moved for record in fused)


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.bfloat16, 2), (torch.float16, 2)])
def test_bytes_of_a_block(dtype: torch.dtype, size: int) -> None:
    (record,) = cf.explain(cf.optimize(Residual(), dtype=dtype), torch.randn(3, 16, 8, 8), time=False)
    image, weights = 3 * 16 * 64 * size, 4 * (17 * 32 + 10 * 32 + 33 * 16)
    assert record.macs == 3 * 64 * (16 * 32 + 9 * 32 + 32 * 16)
    assert record.bytes_moved == 3 * image + weights  # the residual is the input, read twice
    assert record.bytes_bound == 2 * image + weights


def test_padding_of_weights_and_other_layouts_can_be_avoided() -> None:
    packed = next(m for m in cf.optimize(nn.Conv2d(8, 5, 1)).modules() if isinstance(m, PackedConv2d))
    (record,) = cf.explain(packed, torch.randn(1, 8, 4, 4), time=False)
    ends = 4 * 16 * (8 + 5)
    assert record.bytes_bound == ends + 4 * 9 * 5
    assert record.bytes_moved == ends + 4 * 9 * 16 + 2 * 4 * 16 * 8  # weights in blocks of 16; one copy of the input


def test_layers_of_torch_move_what_they_must() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ConvTranspose2d(16, 8, 2))
    convolution, transposed = cf.explain(model, torch.randn(1, 16, 6, 6), time=False)
    assert convolution.bytes_moved == convolution.bytes_bound == 4 * (16 * 36 + 16 * 16 * 9 + 16 + 16 * 16)
    assert transposed.macs == 16 * 16 * 4 * 8
    assert convolution.workspace_bytes is None


def test_patched_layers_pack_their_weights_in_the_call() -> None:
    (record,) = cf.explain(cf.patch(nn.Sequential(nn.Conv2d(4, 16, 1))), torch.randn(1, 4, 3, 3), time=False)
    assert record.bytes_bound == 4 * (9 * (4 + 16) + 5 * 16)
    assert record.bytes_moved == record.bytes_bound + 2 * 4 * 5 * 16 + 2 * 4 * 9 * (4 + 16)


def test_a_second_pass_reads_the_input_again() -> None:
    block, image = squeezing(), torch.randn(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    call = Call(image, None, block(image))
    once = packed_work(block, call, Tiles("kept", 8, 8, 32, 0))
    twice = packed_work(block, call, Tiles("strips, twice", 7, 8, 32, 0))
    assert twice.bytes_moved - once.bytes_moved == 4 * (16 * 64 + 17 * 32 + 10 * 32)
    assert twice.bytes_bound == once.bytes_bound and twice.macs == once.macs == 64 * 1312 + 2 * 4 * 32


def test_scratch_memory_follows_the_plan() -> None:
    torch.set_num_threads(1)
    image = torch.randn(1, 16, 8, 8)
    (record,) = cf.explain(cf.optimize(Residual()), image, time=False)
    assert record.tile == "strips 7x32"
    # A ring of 9 padded rows, 7 convolved rows, their sums, and two offsets.
    assert record.workspace_bytes == 4 * (32 * 9 * 10 + 32 * 7 * 8 + 16 * 7 * 8 + 4)
    tiles = tiles_of(squeezing(), image)
    assert str(tiles) == "kept 8x32"
    # A ring of 10 rows, the hidden image, and squeeze-excite's sums of 8 rows, totals, means, gate and bottleneck.
    assert tiles.workspace_bytes == 4 * (32 * 10 * 10 + 32 * 64 + 32 * 11 + 16)
    assert tiles_of(squeezing(), image.half()).workspace_bytes == tiles.workspace_bytes + 4 * 10 * 8 * 16


def test_layers_around_the_blocks_of_a_classifier() -> None:
    fast = cf.optimize(network("convnext_atto"))
    records = {record.name: record for record in cf.explain(fast, torch.randn(2, 3, 64, 64), time=False)}
    block, norm = records["stages.0.blocks.0"], records["stages.1.downsample.0"]
    image, weights = 4 * 2 * 40 * 256, 4 * (50 * 40 + 41 * 160 + 161 * 40)
    padded = 4 * (50 * 48 + 41 * 160 + 161 * 48)
    assert block.macs == 2 * 256 * (49 * 40 + 2 * 40 * 160)
    assert (block.bytes_bound, block.bytes_moved) == (2 * image + weights, 3 * image + padded)
    assert (norm.macs, norm.bytes_bound, norm.bytes_moved) == (0, 2 * image + 4 * 80, 2 * image + 4 * 96)
    pool, linear = records["head.global_pool.pool"], records["head.fc"]
    assert (pool.kernel, pool.macs, pool.bytes_bound) == ("global average pool", 0, 4 * 2 * 320 * 5)
    assert linear.macs == 2 * 320 * 1000 and linear.shapes == "2x320 -> 2x1000"


# Times


@pytest.mark.parametrize("prepare", [lambda model: model, cf.patch, cf.optimize], ids=["stock", "patched", "optimized"])
def test_every_block_is_timed(prepare) -> None:
    model = prepare(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4)))
    explanation = cf.explain(model, torch.randn(2, 3, 12, 12))
    assert len(explanation) == 2
    assert all(record.seconds > 0 and record.roofline > 0 for record in explanation)
    totals = explanation.totals
    assert totals.seconds == pytest.approx(sum(record.seconds for record in explanation))
    assert 0 < totals.fallback_share <= 1 and totals.roofline > 0
    assert explanation.ceilings.flops_per_second > 0 and "GFLOP/s" in str(explanation)


def test_ceilings_are_measured_once() -> None:
    ceilings = ceilings_for(torch.get_num_threads())
    assert ceilings is ceilings_for(torch.get_num_threads())
    assert min(ceilings.bytes_per_second(size) for size in (1, 2**40)) > 0
    assert ceilings.roofline_seconds(2e9, 1) == 2e9 / ceilings.flops_per_second


def test_without_time_nothing_is_measured() -> None:
    explanation = cf.explain(cf.optimize(Residual()), torch.randn(1, 16, 8, 8), time=False)
    assert explanation.ceilings is None and explanation.totals.seconds is None
    assert all(record.seconds is None and record.roofline is None for record in explanation)
    assert "roof" not in str(explanation)


def test_a_long_measurement_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with stopwatch.Stopwatch(400) as watch:
        assert watch.median_seconds(lambda: None) > 0
        assert sys.stderr.getvalue() == ""
        monkeypatch.setattr(stopwatch, "_PATIENCE_SECONDS", 0.0)
        watch.median_seconds(lambda: None)
    assert "Timing blocks" in sys.stderr.getvalue()


# What it gives


def test_records_are_plain_data() -> None:
    explanation = cf.explain(cf.optimize(Residual()), torch.randn(1, 16, 8, 8))
    (plain,) = json.loads(json.dumps(explanation.to_dict()))
    assert plain["macs"] == explanation.records[0].macs and plain["seconds"] > 0
    assert list(plain) == list(vars(explanation.records[0]))


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_large_100"])
def test_the_table_is_aligned_and_fits(name: str) -> None:
    explanation = cf.explain(cf.optimize(network(name)), torch.randn(16, 3, 64, 64), time=False)
    lines = str(explanation).splitlines()
    assert max(map(len, lines)) <= 140  # the times take 14 more
    kernel, space = lines[0].index("kernel"), len(lines[0])
    for record, line in zip(explanation, lines[2:], strict=False):
        assert len(line) == space and line[kernel:].startswith(record.kernel.split(" ")[0])
    assert lines[2 + len(explanation)].startswith("total ")


def test_names_share_their_beginning() -> None:
    assert short_name("conv_stem") == "conv_stem"
    assert short_name("blocks.1.0.conv_pw blocks.1.0.conv_dw blocks.1.0.conv_pwl") == "blocks.1.0.conv_pw+dw+pwl"
    assert short_name("features.2.conv.0.0 features.2.conv.1.0") == "features.2.conv.0.0+1.0"
    assert short_name("a b.c") == "a+b.c"


# What it leaves alone


def test_the_blocks_of_a_container_are_seen_singly() -> None:
    blocks = [next(m for m in cf.optimize(Residual()).modules() if isinstance(m, PackedMBConv)) for _ in range(2)]
    model, example = nn.Sequential(Chain(*blocks)), torch.randn(1, 16, 8, 8)
    explanation = cf.explain(model, example)
    assert [record.kernel for record in explanation] == [block.describe() for block in blocks]
    assert all(record.seconds > 0 for record in explanation)
    assert "forward" not in vars(model[0]) and not any(module._forward_hooks for module in model.modules())


def test_a_forward_of_the_instance_comes_back() -> None:
    chain = Chain(nn.Conv2d(3, 4, 1))
    own = chain.forward
    chain.forward = own
    with pytest.raises(RuntimeError):
        cf.explain(chain, torch.randn(1, 7, 5, 5))
    assert vars(chain)["forward"] is own and not chain.steps[0]._forward_hooks


def test_frozen_parts_and_hooks_of_users_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    model.train()[1].eval()
    calls: list[nn.Module] = []
    model[0].register_forward_hook(lambda module, args, output: calls.append(module))
    statistics = model[1].running_mean.clone()
    cf.explain(model, torch.randn(1, 3, 9, 9))
    assert [module.training for module in model] == [True, False, True]
    assert len(calls) == 1 and torch.equal(model[1].running_mean, statistics)


def test_the_example_stays() -> None:
    example = torch.randn(1, 3, 9, 9, requires_grad=True)
    before = example.detach().clone()
    cf.explain(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 8, 3)), (example,), time=False)
    assert torch.equal(example, before)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="example must be a tensor or a tuple of arguments, but is str"):
        cf.explain(nn.Conv2d(3, 4, 1), "cat")
    with pytest.raises(TypeError, match="time must be True or False, but is 3"):
        cf.explain(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4), time=3)
