"""The benchmark of training steps: its workloads, records, table and plot; no speed is checked."""

import io

import pytest
import torch
from rich.console import Console

from benchmarks import efficiency_gap, skipping_memory, training


def record(case, best, ours, peaks):
    timings = {
        name: {"name": name, "min_ms": value, "median_ms": value * 1.1, "error": None}
        for name, value in (("channels_last", best * 1.5), ("inductor", best), ("convfirst", ours))
    }
    ratios = {"of_minima": best / ours, "of_medians": best / ours, "in_turns": best / ours}
    return {
        "case": case,
        "batch": 2,
        "timings": timings,
        "peak_bytes": peaks,
        "best_peer": "inductor",
        "speedup": ratios,
    }


def test_every_runtime_takes_the_same_step():
    losses = []
    for runtime in ("channels_last", "convfirst"):
        workload = training.build("convfirstnet_pico", runtime, 2, 64, 2)
        losses.append((workload.facts["first_loss"], workload.run()))
    for stock, ours in zip(*losses, strict=True):
        assert ours == pytest.approx(stock, rel=1e-3)
    assert losses[0][0] != losses[0][1], "a step that changes nothing shows nothing"


def test_table_and_plot(tmp_path):
    mebibyte = 2**20
    records = [
        record(
            "one", 4.0, 2.0, {"channels_last": 40 * mebibyte, "inductor": 30 * mebibyte, "convfirst": 20 * mebibyte}
        ),
        record("two", 2.0, 4.0, {"channels_last": 40 * mebibyte, "inductor": 30 * mebibyte}),
    ]
    assert training.memory_ratio(records[0]) == 1.5 and training.memory_ratio(records[1]) is None
    text = io.StringIO()
    training.print_records(records, Console(file=text, width=200))
    assert "2.00 / 2.00" in text.getvalue() and "1.00" in text.getvalue().splitlines()[-1]
    training.plot_records(records, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_accuracy_against_time(tmp_path):
    records = [
        {"case": name, "batch": 8, "compute_floor_ms": 5.0, "best_peer": "inductor"}
        | {"timings": {"convfirst": {"min_ms": 8.0}, "inductor": {"min_ms": 12.0}}}
        for name in efficiency_gap.NETWORKS
    ]
    efficiency_gap.plot_gap({"records": records}, tmp_path / "gap.png")
    assert (tmp_path / "gap.png").stat().st_size > 1000


@pytest.mark.parametrize("layer", skipping_memory.LAYERS, ids=lambda layer: layer.name)
def test_contestants_of_the_memory_benchmark_agree(layer):
    with torch.no_grad():
        small = layer._replace(batch=1)
        expected, *others = (skipping_memory.call_of(small, name)() for name in skipping_memory.CONTESTANTS)
    for actual in others:
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-2)
