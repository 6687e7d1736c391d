"""`convfirst bench`: what it refuses, leaves out and writes; contestants are fakes, no speed is checked."""

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from convfirst_ext.analysis.ceilings import Ceilings
from convfirst_ext.apps import benchmark
from convfirst_ext.apps.commands import app
from convfirst_ext.bench import comparison, machine
from convfirst_ext.bench.naming import contestant_name
from convfirst_ext.bench.timer import Contestant, Schedule, Workload, take_turns

CEILINGS = Ceilings(2, 100.0, "a test", {"L2": 200.0, "L3": 100.0, "DRAM": 50.0}, {"L2": 1, "L3": 2, "DRAM": 3})


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def fake_contestants(prepared, runtimes, dtypes, threads):
    names = [contestant_name(runtime, dtype) for dtype in dtypes for runtime in runtimes]
    return [Contestant(name, partial(Workload, partial(time.sleep, 0.001))) for name in names]


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(comparison, "measure_ceilings", lambda threads, seconds=0.4: CEILINGS)
    monkeypatch.setattr(comparison, "contestants_for", fake_contestants)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilenetv2_10"], "timm has no model 'mobilenetv2_10'; did you mean mobilenetv2_1"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--size", "8"], "--size must be at least 32, got 8"),
        (["--seconds", "0"], "--seconds must be more than 0 and finite, got 0"),
        (["--runtime", "tpu"], "--runtime must be one of eager, channels_last, inductor,"),
        (["--runtime", "onnxruntime", "--dtype", "float16"], "must be one of float32, got 'float16'"),
        (["--quick", "mobilenetv2_100", "mnasnet_100"], "--quick times one MODEL, got 2: mobilenetv2_100, mnasnet_100"),
        (["--output", __file__], "a file; it must be a folder"),
        (["--output", f"{__file__}/deeper"], "it must be a folder you may write to"),
    ],
)
def test_a_bad_argument_gets_one_sentence(arguments, sentence):
    outcome = bench(*arguments)
    assert outcome.exit_code == 2 and outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("convfirst: ") and sentence in line


def test_typer_refuses_the_rest():
    for arguments in (["--threads", "0"], ["--dtype", "float8"], ["--batch", "many"]):
        assert bench(*arguments).exit_code == 2


def test_results_go_to_the_folder_and_a_missing_runtime_is_left_out(fakes, monkeypatch, tmp_path):
    absent = replace(benchmark.RUNTIMES["openvino"], packages=("no_such_package",))
    monkeypatch.setitem(benchmark.RUNTIMES, "openvino", absent)
    runtimes = ["--runtime", "openvino", "--runtime", "eager", "--runtime", "convfirst"]
    options = ["--batch", 1, "--batch", 2, "--size", 32, "--seconds", 60, "--threads", 1]
    outcome = bench("lcnet_035", *runtimes, *options, "--output", tmp_path / "deep" / "folder")
    assert outcome.exit_code == 0, outcome.output
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("convfirst: left out: openvino (not installed: no_such_package; run: pip install")
    plot, file = sorted((tmp_path / "deep" / "folder").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and str(plot) in outcome.stdout.replace("\n", "")
    records = json.loads(file.read_text())["records"]
    assert [(record["case"], record["batch"]) for record in records] == [("lcnet_035", 1), ("lcnet_035", 2)]
    assert all(list(record["timings"]) == ["eager", "convfirst"] for record in records)


def test_only_missing_runtimes_are_an_error(monkeypatch):
    absent = replace(benchmark.RUNTIMES["openvino"], packages=("no_such_package",))
    monkeypatch.setitem(benchmark.RUNTIMES, "openvino", absent)
    outcome = bench("--runtime", "openvino")
    assert outcome.exit_code == 2 and "--runtime openvino needs packages that are not installed" in outcome.stderr


def test_cases_beyond_the_budget_and_impossible_ones_are_named(fakes, tmp_path):
    options = ["--batch", 1, "--size", 32, "--runtime", "eager", "--output", tmp_path]
    outcome = bench("lcnet_035", "lcnet_050", "--seconds", 0.01, *options)
    assert outcome.exit_code == 0 and "left out, as the 0.01 s are used up: lcnet_050 b1" in outcome.stdout
    outcome = bench("vit_tiny_patch16_224", *options)
    assert outcome.exit_code == 1 and "vit_tiny_patch16_224 b1 left out, PyTorch itself cannot run it" in outcome.stdout


def test_a_budget_makes_rounds_fewer_and_turns_shorter():
    schedule = Schedule(rounds=8, turn_seconds=0.4, pause_seconds=0.2)
    assert schedule.fitted(5, 100.0) == schedule
    assert schedule.fitted(5, 6.1).rounds == 4 and schedule.fitted(5, 6.1).turn_seconds == pytest.approx(0.105)
    assert schedule.fitted(5, -3.0).rounds == 2 and schedule.fitted(0, -3.0).turn_seconds == 0.1
    hurried = take_turns(fake_contestants(None, ["one", "other"], ["float32"], 1), replace(schedule, seconds=0.1))
    assert all(len(found.round_min_ms) == 2 for found in hurried.values())


def test_a_quick_look_has_one_network_and_no_compiler(fakes, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(benchmark, "run_comparison", lambda *arguments: seen.append(arguments) or _Nothing())
    monkeypatch.chdir(tmp_path)
    assert bench("--quick").exit_code == 1
    ((_, (case,), options),) = seen
    assert case.batch == 1 and "inductor" not in options.runtimes and options.seconds == 20.0
    assert options.output == Path() and list(tmp_path.iterdir()) == []


class _Nothing:
    records: list[dict[str, object]] = []


def test_an_installed_package_does_not_report_a_strange_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert machine.commit() == {"hash": None, "dirty": None}
