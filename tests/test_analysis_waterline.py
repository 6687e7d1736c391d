"""Waterlines, Amdahl's roofline and machines: latencies and efficiencies that Lavin's figures print."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from paper_networks import convfirstnet, convnext_small, efficientnet_v2_small, resnet101

from convfirst_ext import analysis
from convfirst_ext.analysis import BlockShape, KernelCost, Machine, load_machines

A5000 = load_machines()["a5000"]

# Figure 8: channels, expansion, size; minimum latencies of the layers and of the fused block in microseconds.
FIGURE_8 = (
    (16, 3, 128, 1538, 280),
    (24, 3, 128, 2307, 419),
    (32, 3, 128, 3076, 559),
    (32, 6, 64, 1188, 199),
    (48, 6, 64, 1783, 425),
    (64, 6, 64, 2377, 735),
    (48, 6, 32, 446, 106),
    (64, 6, 32, 594, 184),
    (96, 6, 32, 892, 402),
)
# Figure 12: channels, size; minimum latencies of the layers and of the fused block in microseconds.
FIGURE_12 = (
    (128, 16, 544, 144),
    (144, 16, 612, 178),
    (160, 16, 680, 215),
    (192, 16, 816, 300),
    (256, 16, 1150, 512),
    (128, 8, 137, 36),
    (144, 8, 155, 45),
    (160, 8, 172, 54),
    (192, 8, 207, 75),
    (256, 8, 290, 128),
)


def microseconds(kernels: list[KernelCost]) -> int:
    return round(1e6 * analysis.minimum_latency(kernels, A5000))


@pytest.mark.parametrize(("channels", "expansion", "size", "layers", "fused"), FIGURE_8)
def test_latencies_of_figure_8(channels: int, expansion: int, size: int, layers: int, fused: int) -> None:
    shape = BlockShape(128, size, channels, expansion)
    kernels, block = analysis.convfirst_kernels(shape), analysis.convfirst_block(shape)
    assert microseconds([block]) == fused
    assert microseconds(kernels) == layers
    # Section 5.3.2: which are memory-bound.
    assert all(kernel.intensity < A5000.op_byte for kernel in kernels)
    assert (block.intensity < A5000.op_byte) == (expansion == 3)


@pytest.mark.parametrize(("channels", "size", "layers", "fused"), FIGURE_12)
def test_latencies_of_figure_12(channels: int, size: int, layers: int, fused: int) -> None:
    shape = BlockShape(128, size, channels, 4)
    kernels, block = analysis.mbconv_kernels(shape), analysis.mbconv_block(shape)
    assert microseconds([block]) == fused
    assert microseconds(kernels) == layers
    # Section 5.4.2: pointwise layers are memory-bound with 128 channels, barely compute-bound with 256.
    assert block.intensity > 2 * A5000.op_byte
    bound = {kernel.name: kernel.intensity < A5000.op_byte for kernel in kernels}
    assert bound["grouped 3x3"] and bound["squeeze: average pooling"] and bound["excitation: gating"]
    if channels in (128, 256):
        assert bound["expansion"] == (channels == 128)


def test_a_block_counts_a_few_more_operations_than_multiply_adds() -> None:
    """Section 5.1 would leave pooling and gating out; figure 12 prints 178 us where that gives 177."""
    block = analysis.mbconv_block(BlockShape(128, 16, 144, 4))
    multiply_adds = 128 * (256 * (2 * 144 * 576 + 576 * 72) + 2 * 576 * 36)
    assert 0 < block.operations / (2 * multiply_adds) - 1 < 0.004
    assert round(2e6 * multiply_adds / A5000.flops_per_second) == 177


@pytest.mark.parametrize(
    ("kernels", "percent"),
    [
        (resnet101(), 76),
        (convnext_small(), 72),
        (efficientnet_v2_small(), 43),
        (convfirstnet("small", fused=False), 36),
        (convfirstnet("small", fused=True), 97),
    ],
    ids=["resnet101", "convnext_small", "efficientnet_v2_small", "layer-wise", "fused"],
)
def test_maximum_efficiencies_of_figures_3_and_15(kernels: list[KernelCost], percent: int) -> None:
    assert round(100 * analysis.maximum_efficiency(kernels, A5000)) == percent


def test_efficiency_over_op_byte() -> None:
    """Section 6.2 reads 80 % of the peak at 500 off figure 16. Section 4.3: roofline is never below waterline."""
    fused, layers = convfirstnet("small", fused=True), convfirstnet("small", fused=False)
    assert analysis.waterline_efficiencies(fused, 500.0) == pytest.approx(0.8, abs=0.04)
    ratios = np.geomspace(1, 1e6, 40)
    for kernels in (fused, layers, resnet101()):
        waterline = analysis.waterline_efficiencies(kernels, ratios)
        roofline = analysis.roofline_efficiencies(kernels, ratios)
        assert (waterline <= roofline * (1 + 1e-12)).all() and (np.diff(waterline) <= 0).all()
        assert waterline[-1] == pytest.approx(roofline[-1])
        assert analysis.waterline_efficiencies(kernels, 1e-9) == 1.0
    assert analysis.maximum_efficiency(layers, A5000) == analysis.waterline_efficiencies(layers, A5000.op_byte)
    assert analysis.roofline_efficiency(layers, A5000) > analysis.maximum_efficiency(layers, A5000)


def test_the_two_sides_of_the_waterline() -> None:
    """Equations 10 and 11."""
    under, over = KernelCost("a", "convolution", 1e9, 1e9), KernelCost("b", "convolution", 1e12, 1e9)
    machine = Machine("m", 1e13, 1e11)
    assert analysis.attainable_throughput(under, machine) == 1e11
    assert analysis.attainable_throughput(over, machine) == 1e13
    np.testing.assert_allclose(analysis.minimum_latencies([under, over], machine), [1e-2, 1e-1])
    assert analysis.maximum_efficiency([under, over], machine) == pytest.approx(1.001e12 / 0.11 / 1e13)


def test_amdahl_is_what_taking_the_bytes_away_gives() -> None:
    """Equations 33 and 34 against the sequence with the kernel's bytes reduced to n / (R / B)."""
    kernels = convfirstnet("pico", fused=False)
    speedups = analysis.amdahl_speedups(kernels, A5000)
    before = analysis.minimum_latency(kernels, A5000)
    for index in (0, 1, 3, len(kernels) - 3):
        kernel = kernels[index]
        faster = dataclasses.replace(kernel, bytes=min(kernel.bytes, kernel.operations / A5000.op_byte))
        after = analysis.minimum_latency([*kernels[:index], faster, *kernels[index + 1 :]], A5000)
        assert speedups[index] == pytest.approx(before / after)
    assert analysis.amdahl_speedup(0.5, 0.5) == 1.0
    assert analysis.amdahl_speedup(0.5, 0.0) == 2.0
    assert analysis.amdahl_speedup(1.0, 0.0) == np.inf
    with pytest.raises(ValueError, match="compute_fraction <= memory_fraction <= 1, but are 0.5 and 0.2"):
        analysis.amdahl_speedup(0.2, 0.5)


def test_chart_has_a_bar_for_every_kernel(tmp_path: Path) -> None:
    kernels = analysis.mbconv_kernels(BlockShape(128, 16, 256, 4))
    figure = analysis.waterline_figure(kernels, A5000, "MBConv")
    (axes,) = figure.axes
    assert len(axes.patches) == len(kernels)
    widths = sum(bar.get_width() for bar in axes.patches)
    assert widths == pytest.approx(1e3 * analysis.minimum_latency(kernels, A5000))
    assert "ms" in axes.get_xlabel() and "OP/byte" in axes.get_ylabel() and "%" in axes.get_title()
    figure.savefig(tmp_path / "waterline.svg")
    with pytest.raises(ValueError, match="at least one kernel"):
        analysis.waterline_figure([], A5000)


def test_bad_blocks() -> None:
    for arguments, message in (
        ({"stride": 3}, "stride must be 1 or 2 and divide the size 32, but is 3"),
        ({"channels": 0}, "channels must be positive"),
        ({"expansion": 0.01}, "expansion must make 16 channels"),
        ({"squeeze_ratio": -1}, "squeeze_ratio must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            BlockShape(**({"batch": 1, "size": 32, "channels": 16, "expansion": 4} | arguments))


def test_machines_of_the_package() -> None:
    machines = load_machines()
    assert {"a5000", "a100", "h100", "h200"} <= set(machines)
    assert A5000.flops_per_second == 76.7e12 and A5000.op_byte == pytest.approx(159.8, abs=0.05)
    assert all(machine.bytes_per_element == 2 for machine in machines.values())


def test_machines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[mine]\nflops_per_second = 1e12\nbytes_per_second = 20_000_000_000\n[a100]\n")
    with pytest.raises(ValueError, match=r"\[a100\] must have the key flops_per_second, a positive number"):
        load_machines(path)
    path.write_text("[mine]\nflops_per_second = 1e12\nbytes_per_second = 20_000_000_000\n")
    machines = load_machines(path)
    assert machines["mine"].op_byte == 50 and "a5000" in machines
    for text, message in (
        ("[mine]\nflops = 1", r"\[mine\] may have the keys flops_per_second, .* but has flops = 1"),
        ("[mine]\nflops_per_second = 'fast'\nbytes_per_second = 1", "flops_per_second of machine 'mine' .* 'fast'"),
        ("[mine]\nflops_per_second = -1\nbytes_per_second = 1", "must be a positive number, but is -1"),
        ("[mine]\nflops_per_second = true\nbytes_per_second = 1", "must be a positive number, but is True"),
        ("mine = 3", r"mine must be a table \[mine\]"),
        ("[mine", "must be a TOML file of machines"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_machines(path)
    with pytest.raises(FileNotFoundError):
        load_machines(tmp_path / "none.toml")
