"""`benchmarks.cost`: figures, targets, table and plot from fake contestants; no speed is checked."""

import json
import operator
import os
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from benchmarks import cost, cost_parts, cost_workloads
from benchmarks.cost_parts import PARTS, QUICK, Setting, deviation
from benchmarks.cost_report import plot_figures, print_figures, verdict
from convfirst_ext.bench.results import ResultFile
from convfirst_ext.bench.timer import Contestant, ContestantFailure, Timing, Workload, ask_once

SETTING = Setting("lcnet_035", 1, QUICK)
ANSWERS = {
    cost_workloads.occasional: {"back to back": 2.0, "after 50 ms": 3.0},
    cost_workloads.first_calls: {"first in the process, 64": [9.0, 3.0], "first at a new size, 96": [4.0, 4.0]},
    cost_workloads.changing_shapes: {"sizes": [64, 96], "steady_ms": [1.0, 3.0], "changing_ms": [2.0, 4.0]},
    cost_workloads.workspace: {"workspace_bytes": 3 * 2**20, "output_bytes": 1},
}


@pytest.fixture
def fakes(monkeypatch):
    def take_turns(contestants, schedule, tell):
        return {each.name: Timing(each.name, float(index + 1), calls=1) for index, each in enumerate(contestants)}

    def contestants_for(prepared, runtimes, dtypes, threads):
        return [Contestant(runtime, partial(Workload, int)) for runtime in runtimes]

    def answer(contestant):
        if contestant.name == "openvino":
            raise ContestantFailure("not today [today]")
        return ANSWERS[contestant.build.func]

    monkeypatch.setattr(cost_parts, "take_turns", take_turns)
    monkeypatch.setattr(cost_parts, "contestants_for", contestants_for)
    monkeypatch.setattr(cost_parts, "ask_once", answer)
    monkeypatch.setattr(cost_parts, "prepare", lambda case, directory: None)
    monkeypatch.setattr(cost_parts, "_prepared", lambda setting, shape: nullcontext())


def figures_of(name):
    return [(record["runtime"], record["figure"]) for record in PARTS[name].measure(SETTING)]


def test_figures_of_every_part(fakes):
    # Two runtimes take turns at two points: ours get 1 and 3 ms, eager 2 and 4.
    assert figures_of("batch") == [("convfirst", pytest.approx(20.0)), ("eager", pytest.approx(0.0))]
    assert [name for name, _ in figures_of("pixels")] == ["convfirst", "eager"]
    assert figures_of("threads") == [("convfirst", pytest.approx(1 / 3)), ("eager", pytest.approx(0.5))]
    ratios = [("convfirst", 1.5), ("eager", 1.5), ("onnxruntime", 1.5), ("openvino", None)]
    assert figures_of("occasional") == ratios
    assert figures_of("first") == [("convfirst", 3.0), ("eager", 3.0)]
    assert figures_of("shapes") == [("convfirst", 1.5), ("eager", 1.5)]
    assert figures_of("workspace") == [("convfirst", 3.0), ("eager", 3.0)] * 2


def test_deviation_is_in_percent_of_the_mean():
    assert deviation([9.0, 10.0, 11.0]) == pytest.approx(10.0)
    assert deviation([5.0]) == 0.0


def test_a_target_is_for_ours_only_and_may_be_a_least():
    ours, eager = {"runtime": "convfirst", "figure": 1.5}, {"runtime": "eager", "figure": 1.5}
    assert "missed" in verdict(PARTS["occasional"], ours) and "met" in verdict(PARTS["first"], ours)
    assert "at least 1.8: [red]missed" in verdict(PARTS["threads"], ours)
    assert verdict(PARTS["first"], eager) == "-" and verdict(PARTS["shapes"], ours) == "-"
    assert verdict(PARTS["first"], {**ours, "figure": None}) == "at most 2"


def test_every_record_is_kept_printed_and_drawn(fakes, tmp_path):
    file = ResultFile.create(tmp_path, "cost", settings={"threads": 1})
    cost.measure(file, list(PARTS), ["lcnet_035"], 1, QUICK)
    saved = json.loads(file.path.read_text())["records"]
    assert saved == file.records and {record["part"] for record in saved} == set(PARTS)
    with (tmp_path / "table.txt").open("w") as stream:
        print_figures(saved, Console(file=stream))
    text = (tmp_path / "table.txt").read_text()
    assert all(part.question in text for part in PARTS.values()) and "failed: not today [today]" in text
    plot_figures(file.content, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_failed_point_leaves_the_others_and_no_figure(monkeypatch):
    points = {"16": Timing("a", 16.0), "32": Timing("b", error="no memory")}
    (record,) = cost_parts._records({"eager": points}, {"16": 16.0, "32": 32.0}, deviation)
    assert (record["points"], record["figure"], record["error"]) == ({"16": 1.0}, None, "no memory")


def test_first_calls_and_changing_shapes(monkeypatch):
    def load(prepared, runtime, threads):
        return torch.nn.Conv2d(3, 4, 3), torch.ones(1, 3, 8, 8)

    monkeypatch.setattr(cost_workloads, "_load", load)
    found = cost_workloads.first_calls(None, "eager", 1, [9], 2).run()
    assert list(found) == ["first in the process, 8", "first at a new size, 9"]
    assert all(len(times) == 2 and min(times) > 0 for times in found.values())
    found = cost_workloads.changing_shapes(None, "eager", 1, [8, 9], 1).run()
    assert found["sizes"] == [8, 9] and len(found["steady_ms"]) == len(found["changing_ms"]) == 2


def test_occasional_calls_sleep_outside_the_timed_stretch(monkeypatch):
    naps = []
    monkeypatch.setattr(
        cost_workloads, "time", SimpleNamespace(sleep=naps.append, perf_counter=lambda: float(len(naps)))
    )
    found = cost_workloads._compare_stretches(lambda: None, rounds=2)
    assert found == {"back to back": 0.0, "after 50 ms": 0.0} and naps == [0.05] * 20


def test_both_blocks_of_the_workspace_agree():
    ours, eager = (cost_workloads._block(runtime, 6) for runtime in ("convfirst", "eager"))
    image = cost_workloads._channels_last(8)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), eager(image), rtol=1e-4, atol=1e-4)


def test_ask_once_returns_the_answer_or_raises():
    assert ask_once(Contestant("seven", partial(Workload, partial(int, "7"))), pause_seconds=0.0) == 7
    with pytest.raises(ContestantFailure, match="division"):
        ask_once(Contestant("broken", partial(operator.truediv, 1, 0)), pause_seconds=0.0)


def test_the_environment_is_restored(monkeypatch):
    monkeypatch.setenv("CONVFIRST_A", "before")
    with cost_parts._environment({"CONVFIRST_A": "inside", "CONVFIRST_B": "inside"}):
        assert os.environ["CONVFIRST_A"] == os.environ["CONVFIRST_B"] == "inside"
    assert os.environ["CONVFIRST_A"] == "before" and "CONVFIRST_B" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "batch,speed"], "--only must be one of batch, pixels,"),
        (["--models", "nonet"], "got 'nonet'"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(monkeypatch, arguments, sentence, tmp_path):
    monkeypatch.setattr("sys.argv", ["cost", *arguments, "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="^benchmarks.cost: ") as caught:
        cost.main()
    assert sentence in str(caught.value) and list(tmp_path.iterdir()) == []
