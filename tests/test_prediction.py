"""Predicted times: cost sheets on rates whose sums can be done by hand, and whole networks."""

import json
import math

import pytest
import torch
from flat_rates import FMA, PASS, flat_rates
from networks import network
from torch import nn

import convfirst_ext as cf
from convfirst_ext.analysis import prediction_figure
from convfirst_ext.analysis.cost_sheet import CostSheet, busiest_share
from convfirst_ext.analysis.kernel_rates import KernelRates, measure_kernel_rates
from convfirst_ext.fusion import explanation, kernel_rates

SHEET = CostSheet(flat_rates(2))
PLAIN = ((3, 3), (1, 1), (1, 1))


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanation, "rates_for", flat_rates)


# Parts of a step


def test_products_take_their_register_blocks() -> None:
    # Two blocks of 14 pixels by 32 channels, whose sums are loaded and stored.
    assert SHEET.product(28, 32, 96) == pytest.approx(2 * 96 * 28 * FMA)
    # Twice the depth: all but loading and storing the sums, twice 28 slots, is twice as long.
    assert SHEET.product(28, 32, 192) == pytest.approx(2 * (2 * 96 * 28 - 2 * 28) * FMA)
    assert SHEET.product(28, 24, 96) > SHEET.product(28, 16, 96)  # half a block more
    assert SHEET.product(28, 24, 96) < SHEET.product(28, 32, 96) * 1.2
    assert SHEET.product(1, 16, 96) == pytest.approx(96 * FMA)
    assert SHEET.product(29, 32, 96) == pytest.approx(96 * 2 * 29 * FMA)


def test_rows_of_a_spatial_convolution_take_their_tiles() -> None:
    assert SHEET.spatial(4, 28, 32, PLAIN, False) == pytest.approx(2 * 4 * 28 * 9 * FMA)
    assert SHEET.spatial(4, 28, 32, PLAIN, True) == pytest.approx(2 * 4 * 28 * 9 * 8 * FMA)
    assert SHEET.spatial(1, 15, 16, PLAIN, False) == pytest.approx(2 * 8 * 9 * FMA)  # outputs are computed twice
    odd = ((5, 3), (1, 1), (1, 1))
    assert SHEET.spatial(1, 28, 16, odd, False) == pytest.approx(28 * 15 * FMA)
    assert SHEET.spatial(1, 28, 17, PLAIN, False) == SHEET.spatial(1, 28, 32, PLAIN, False)


def test_winograd_transforms_tiles_and_multiplies_at_every_position() -> None:
    transforms, products = (96 + 32) * PASS, 36 * 96 * 32 / 16 * FMA
    assert SHEET.winograd(28, 96, 32, 4) == pytest.approx(28 * (transforms + products))
    assert SHEET.winograd(280, 96, 32, 4) == pytest.approx(280 * (transforms + products))
    assert SHEET.winograd(28, 96, 32, 2) == pytest.approx(28 * (transforms + products * 16 / 36))
    assert SHEET.winograd(28, 90, 20, 4) < SHEET.winograd(28, 96, 32, 4)


def test_passes_bytes_and_meetings() -> None:
    assert SHEET.activation(100, "relu6") == 0 and SHEET.activation(100, "silu") == pytest.approx(100 * PASS)
    assert SHEET.passes(10, "sum") == pytest.approx(10 * PASS)
    step = SHEET.step(5000, 10**6, 1, 3)
    assert step.arithmetic == pytest.approx(5e-6) and step.memory == pytest.approx(1e-5)
    assert step.meetings == pytest.approx(3e-6) and step.seconds == pytest.approx(18e-6)
    assert SHEET.step(0, 10**6, 2**40, 0).memory == pytest.approx(1e-4)
    assert SHEET.rates.bytes_per_second(math.sqrt(100) * 2**20) == pytest.approx(55e9)  # half way between two sizes
    assert busiest_share(4, 2) == 0.5 and busiest_share(3, 2) == pytest.approx(2 / 3) and busiest_share(1, 2) == 1


# Blocks and networks


def test_a_pointwise_layer_is_its_product(flat: None) -> None:
    model = cf.optimize(nn.Sequential(nn.Conv2d(64, 32, 1), nn.ReLU()))
    (record,) = cf.explain(model, torch.rand(1, 64, 28, 28), time=False, predict=True)
    product = 1e-9 * SHEET.product(392, 32, 64)
    moved = record.bytes_moved / 100e9
    assert record.predicted_seconds == pytest.approx(product + moved + 1e-6)


def test_a_thread_has_half_of_an_inverted_residual(flat: None) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expand, self.project = nn.Conv2d(16, 96, 1), nn.Conv2d(96, 16, 1)
            self.depthwise = nn.Conv2d(96, 96, 3, padding=1, groups=96)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.project(torch.relu(self.depthwise(torch.relu(self.expand(x)))))

    model, image = cf.optimize(Residual()), torch.rand(2, 16, 28, 28)
    (record,) = cf.explain(model, image, time=False, predict=True)
    # 16 multiply-adds are a slot; blocks of less than 14 rows lose some.
    arithmetic = 1e-9 * FMA * record.macs / 16 / 2
    assert arithmetic < record.predicted_seconds < 1.35 * arithmetic
    (silu,) = cf.explain(cf.optimize(_with_silu(Residual())), image, time=False, predict=True)
    assert silu.macs == record.macs
    assert silu.predicted_seconds - record.predicted_seconds == pytest.approx(1e-9 * 2 * 2 * 96 * 784 * PASS / 2)


def _with_silu(model: nn.Module) -> nn.Module:
    class Silu(type(model)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            silu = nn.functional.silu
            return x + self.project(silu(self.depthwise(silu(self.expand(x)))))

    model.__class__ = Silu
    return model


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(
    "name", ["mobilenetv1_100", "mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "convfirstnet_pico"]
)
def test_every_block_of_ours_has_a_prediction(flat: None, name: str, batch: int) -> None:
    import convfirst_ext.models  # noqa: F401

    found = cf.explain(cf.optimize(network(name)), torch.rand(batch, 3, 64, 64), time=False, predict=True)
    for record in found:
        assert (record.predicted_seconds is None) == (record.kernel is None or "stock torch" in record.detail)
        if record.predicted_seconds is not None:
            assert record.predicted_seconds > 1e-9 * FMA * record.macs / 16 / 2
    if all(record.kernel for record in found):
        total = sum(record.predicted_seconds for record in found)
        assert found.totals.predicted_seconds == pytest.approx(total) and "Predicted from the rates" in str(found)
    else:
        assert found.totals.predicted_seconds is None


def test_without_asking_nothing_is_predicted() -> None:
    (record,) = cf.explain(cf.optimize(nn.Conv2d(8, 8, 1)), torch.rand(1, 8, 4, 4), time=False)
    assert record.predicted_seconds is None
    with pytest.raises(TypeError, match="predict must be True or False, but is 1"):
        cf.explain(nn.Conv2d(8, 8, 1), torch.rand(1, 8, 4, 4), predict=1)  # type: ignore[arg-type]


# Rates


def test_rates_are_measured_and_kept_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_rates, "_MEETING_SECONDS", 0.01)
    monkeypatch.setattr(
        kernel_rates, "measure_kernel_rates", lambda *arguments: measure_kernel_rates(*arguments, scale=0.05)
    )
    told: list[str] = []
    found = kernel_rates.measure_rates(2, told.append)
    assert len(told) == kernel_rates.RATE_STEPS
    assert 0 < found.meeting < 1e-2 and found.rows["2"][-1] >= 6 and set(found.calls) == set(flat_rates(2).calls)
    assert found.elements["gelu"] > found.elements["identity"] / 4 and list(found.copies) == sorted(found.copies)
    assert KernelRates.from_json(json.loads(json.dumps(found.to_json()))) == found
    for change in ({"meeting": -1}, {"copies": []}, {"elements": {}}, {"calls": {}}, {"meeting": "soon"}, {"more": 1}):
        with pytest.raises((ValueError, TypeError)):
            KernelRates.from_json({**found.to_json(), **change})
    with pytest.raises(ValueError, match="threads must be positive, but is 0"):
        measure_kernel_rates(0, 1e-6)


def test_a_picture_of_predictions() -> None:
    (axes,) = prediction_figure({f"block {i}": (1e-3 * i, 1.1e-3 * i) for i in range(1, 9)}, "blocks").axes
    assert "[ms]" in axes.get_xlabel() and len(axes.texts) == 5 and axes.get_xlim() == axes.get_ylim()
    for points in ({}, {"a": (0.0, 1.0)}):
        with pytest.raises(ValueError, match="points must be pairs of positive seconds"):
            prediction_figure(points)
