"""Model efficiency and computational efficiency: Lavin's tables 1, 2, 4 and 9 and the relations of section 3."""

from pathlib import Path

import numpy as np
import pytest

from convfirst_ext import analysis
from convfirst_ext.analysis import BlockShape, EfficiencyCurves, ModelPoint, load_machines

A5000 = load_machines()["a5000"]

# Table 4: multiply-adds in billions, latency in ms, images a second, % of the peak, accuracy.
TABLE_4 = {
    "ConvNeXtFemto(288)": (1.3, 23.4, 5474.8, 18.6, 78.7),
    "EfficientNetB1": (0.8, 49.9, 2566.8, 5.2, 79.1),
    "ConvFirstPico": (0.9, 6.1, 21059.6, 47.2, 79.9),
    "EfficientNetB2": (1.1, 66.1, 1935.9, 5.7, 80.1),
    "ConvNeXtPico(288)": (2.3, 31.7, 4033.3, 23.9, 80.4),
    "ConvNeXtNano(288)": (4.1, 46.7, 2742.5, 29.0, 81.5),
    "EfficientNetB3": (2.0, 107.5, 1190.4, 6.2, 81.6),
    "ConvFirstNano": (1.8, 13.5, 9447.2, 44.6, 81.8),
    "ConvNeXtTiny": (7.4, 80.6, 1587.8, 30.6, 82.7),
    "ConvFirstTiny": (3.2, 24.1, 5311.0, 44.7, 82.8),
    "EfficientNetB4": (4.5, 203.7, 628.3, 7.4, 82.9),
    "ConvFirstSmall": (5.5, 33.2, 3851.0, 55.2, 83.3),
    "EfficientNetB5": (9.6, 385.1, 332.4, 8.3, 83.6),
    "ConvNeXtSmall(288)": (14.4, 138.4, 925.1, 34.7, 83.7),
    "EfficientNetv2S": (8.4, 146.0, 876.8, 19.3, 83.9),
}
# Table 1: channels, expansion, size, ms of one fused block, TFLOPS, % of the peak.
TABLE_1 = (
    (16, 3, 128, 0.42, 26.9, 35.1),
    (32, 3, 128, 0.99, 35.7, 46.6),
    (32, 6, 64, 0.30, 51.3, 66.9),
    (48, 6, 64, 0.59, 54.9, 71.6),
    (64, 6, 64, 0.96, 58.4, 76.2),
    (48, 6, 32, 0.16, 51.3, 67.0),
    (64, 6, 32, 0.25, 56.7, 74.0),
    (96, 6, 32, 0.58, 52.6, 68.7),
)
# Table 2: channels, size, ms, TFLOPS, % of the peak. The milliseconds are those of the stage of eight blocks,
# the operations multiply-adds only.
TABLE_2 = (
    (128, 16, 2.48, 35.4, 46.2),
    (144, 16, 3.19, 34.0, 44.4),
    (160, 16, 4.09, 32.1, 41.9),
    (192, 16, 5.39, 34.1, 44.4),
    (256, 16, 8.01, 39.1, 51.0),
    (128, 8, 0.64, 34.5, 45.0),
    (144, 8, 1.09, 25.0, 32.5),
    (160, 8, 1.37, 24.0, 31.3),
    (192, 8, 1.39, 33.1, 43.1),
    (256, 8, 1.99, 39.4, 51.4),
)


def family(name: str) -> list[ModelPoint]:
    return [
        ModelPoint(model, 1e9 * macs, 1e-3 * latency, accuracy)
        for model, (macs, latency, _, _, accuracy) in TABLE_4.items()
        if model.startswith(name)
    ]


def assert_rounds_to(low: float, high: float, printed: float, half_digit: float) -> None:
    """Some value between low and high, which inputs rounded in print allow, is printed so."""
    assert low <= printed + half_digit and high >= printed - half_digit


def assert_throughput(operations: float, milliseconds: float, tflops: float, percent: float) -> None:
    """Of what the tables print some is rounded, some cut off after the last digit."""
    high, low = analysis.actual_throughput(operations, 1e-3 * np.array([milliseconds - 0.005, milliseconds + 0.005]))
    assert_rounds_to(low / 1e12, high / 1e12, tflops, 0.1)
    assert percent == pytest.approx(100 * tflops / 76.7, abs=0.15)


@pytest.mark.parametrize("model", TABLE_4)
def test_share_of_the_peak_of_table_4(model: str) -> None:
    macs, latency, images, percent, _ = TABLE_4[model]
    low, high = 100 * analysis.computational_efficiency(
        256e9 * np.array([macs - 0.05, macs + 0.05]), 1e-3 * np.array([latency + 0.05, latency - 0.05]), A5000
    )
    assert_rounds_to(low, high, percent, 0.05)
    assert_rounds_to(128e3 / (latency + 0.05), 128e3 / (latency - 0.05), images, 0.05)


@pytest.mark.parametrize(
    ("macs", "milliseconds", "percent"),
    [(110.1, 6.078, 47.23), (231.9, 13.549, 44.64), (413.1, 24.101, 44.69), (703.1, 33.238, 55.16)],
)
def test_share_of_the_peak_of_table_9(macs: float, milliseconds: float, percent: float) -> None:
    assert 100 * analysis.computational_efficiency(2e9 * macs, 1e-3 * milliseconds, A5000) == pytest.approx(
        percent, abs=0.03
    )


@pytest.mark.parametrize(("channels", "expansion", "size", "milliseconds", "tflops", "percent"), TABLE_1)
def test_throughput_of_table_1(
    channels: int, expansion: int, size: int, milliseconds: float, tflops: float, percent: float
) -> None:
    operations = analysis.convfirst_block(BlockShape(128, size, channels, expansion)).operations
    assert_throughput(operations, milliseconds, tflops, percent)


@pytest.mark.parametrize(("channels", "size", "milliseconds", "tflops", "percent"), TABLE_2)
def test_throughput_of_table_2(channels: int, size: int, milliseconds: float, tflops: float, percent: float) -> None:
    kernels = analysis.mbconv_kernels(BlockShape(128, size, channels, 4))
    operations = 8 * sum(kernel.operations for kernel in kernels if kernel.kind != "pool, multiply, cat or norm")
    assert_throughput(operations, milliseconds, tflops, percent)


def test_ideal_latency_of_figure_1() -> None:
    """Its upper axis sets 15 billion multiply-adds against 50 ms."""
    assert 1e3 * analysis.ideal_latency(2 * 128 * 15e9, A5000) == pytest.approx(50, abs=0.1)


def test_relations_of_section_3() -> None:
    points = family("ConvNeXt")
    curves = EfficiencyCurves(points, 128, A5000)
    operations, latencies = curves.operations, curves.latencies
    share = analysis.computational_efficiency(operations, latencies, A5000)
    ideal = analysis.ideal_latency(operations, A5000)
    np.testing.assert_allclose(latencies, ideal / share)  # 8
    np.testing.assert_allclose(
        np.log10(latencies), np.log10(ideal) + analysis.efficiency_gap(operations, latencies, A5000)
    )  # 9
    accuracies = [point.accuracy for point in points]
    np.testing.assert_allclose(curves.model_efficiency(operations), accuracies)
    np.testing.assert_allclose(curves.ideal_efficiency(ideal), accuracies)  # 5
    np.testing.assert_allclose(curves.actual_efficiency(ideal / share), accuracies)  # 6
    between = np.sqrt(operations[0] * operations[1])
    assert accuracies[0] < curves.model_efficiency(between) < accuracies[1]
    assert np.isnan(curves.actual_efficiency(2 * latencies[-1]))


def test_conclusions_of_figures_1_and_17() -> None:
    """EfficientNet is the better model, ConvNeXt the faster; ConvFirst's actual latency is below ConvNeXt's ideal."""
    efficient, convnext, convfirst = (
        EfficiencyCurves(family(name), 128, A5000) for name in ("EfficientNetB", "ConvNeXt", "ConvFirst")
    )
    macs = 256e9 * np.array([2.0, 4.0])
    assert (efficient.model_efficiency(macs) > convnext.model_efficiency(macs)).all()
    assert (efficient.actual_efficiency([0.1, 0.13]) < convnext.actual_efficiency([0.1, 0.13])).all()
    assert (convfirst.actual_efficiency([0.02, 0.03]) > convnext.ideal_efficiency([0.02, 0.03])).all()


def test_figure_shows_both_latencies_of_every_model(tmp_path: Path) -> None:
    families = {name: family(name) for name in ("ConvNeXt", "ConvFirst")}
    figure = analysis.efficiency_gap_figure(families, 128, A5000, "Table 4")
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "[ms]" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert {text.get_text() for text in axes.texts} >= {"19 %", "35 %", "55 %"}
    figure.savefig(tmp_path / "gap.svg")
    unknown = {"ConvFirst": [ModelPoint(point.name, point.macs, point.latency) for point in families["ConvFirst"]]}
    assert "Multiply-adds" in analysis.efficiency_gap_figure(unknown, 128, A5000).axes[0].get_ylabel()


def test_bad_arguments() -> None:
    points = family("ConvFirst")
    with pytest.raises(ValueError, match="points must be at least 2, all with accuracy, but 1 are"):
        EfficiencyCurves(points[:1], 128, A5000)
    with pytest.raises(ValueError, match="latency must grow"):
        EfficiencyCurves([points[0], ModelPoint("slow", 1e12, 1e-6, 90.0)], 128, A5000)
    with pytest.raises(ValueError, match="latency must be positive"):
        analysis.computational_efficiency(1e9, [1.0, 0.0], A5000)
    with pytest.raises(ValueError, match="macs must be positive"):
        ModelPoint("none", 0, 1.0)
    with pytest.raises(ValueError, match="families must hold at least one model"):
        analysis.efficiency_gap_figure({}, 128, A5000)
