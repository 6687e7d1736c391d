"""The benchmarks' own machinery: timer, results files, work counts, cases, tables and plots; no speed is checked."""

import json
import operator
import os
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import against_torch
from benchmarks.layer_cases import InvertedResidual, conv, layer_cases
from benchmarks.layers import choose_cases
from benchmarks.microkernels import time_isa
from benchmarks.zero_skipping import zero_skipping_cases
from convfirst_ext.analysis.ceilings import Ceilings
from convfirst_ext.bench import results
from convfirst_ext.bench.cases import Case, prepare, randomize
from convfirst_ext.bench.comparison import make_record, raise_ceilings
from convfirst_ext.bench.machine import cpu_slug, describe_machine, versions
from convfirst_ext.bench.macs import count_work
from convfirst_ext.bench.network_cases import create_network, network_cases
from convfirst_ext.bench.options import Options
from convfirst_ext.bench.peers import contestants_for, relative_error
from convfirst_ext.bench.plots import plot_records
from convfirst_ext.bench.results import ResultFile, write_json
from convfirst_ext.bench.tables import geometric_mean, print_tables
from convfirst_ext.bench.timer import Contestant, Schedule, Timing, Workload, speedup_in_turns, steps_of, take_turns
from convfirst_ext.bench.worker import time_calls

QUICK = Schedule(rounds=2, turn_seconds=0.02, pause_seconds=0.0, warmup_seconds=0.0, turn_timeout_seconds=20.0)
CEILINGS = Ceilings(2, 100.0, "a test", {"L2": 200.0, "L3": 100.0, "DRAM": 50.0}, {"L2": 1, "L3": 2, "DRAM": 3})


def sleeper(name, seconds):
    return Contestant(name, partial(Workload, partial(time.sleep, seconds), {"slept": seconds}))


def timing(name, *round_minima):
    low = min(round_minima)
    return Timing(name, low, low * 1.1, 10, list(round_minima), [1.1 * time for time in round_minima])


def record_of(case, **milliseconds):
    timings = {name: timing(name, value, value) for name, value in milliseconds.items()}
    timings["openvino"] = Timing("openvino", error="RuntimeError: not today")
    return make_record(case, timings, CEILINGS)


def small_case(batch=2):
    return Case("small block", partial(InvertedResidual, 8, 8), (batch, 8, 10, 10), channels_last_input=True)


def content_of(*records):
    header = {"benchmark": "networks", "machine": describe_machine(), "ceilings": CEILINGS.to_json()}
    return {**header, "records": list(records)}


def test_contestants_take_turns_and_keep_their_order():
    steps = []
    timings = take_turns([sleeper("slow", 0.004), sleeper("fast", 0.001)], QUICK, steps.append)
    assert list(timings) == ["slow", "fast"]
    assert len(steps) == steps_of(2, QUICK) == 6
    for name, seconds in (("slow", 0.004), ("fast", 0.001)):
        found = timings[name]
        assert found.error is None and found.facts == {"slept": seconds}
        assert 1e3 * seconds <= found.min_ms <= found.median_ms
        assert len(found.round_min_ms) == len(found.round_median_ms) == 2 and found.calls >= 4
        assert found.min_ms == min(found.round_min_ms)


def test_a_failing_contestant_keeps_its_error_and_the_others_go_on():
    contestants = [
        Contestant("does not build", partial(operator.truediv, 1, 0)),
        Contestant("dies", partial(os._exit, 3)),
        Contestant("fails when run", partial(Workload, partial(operator.getitem, {}, "key"))),
        sleeper("works", 0.001),
    ]
    timings = take_turns(contestants, QUICK)
    assert timings["does not build"].error == "ZeroDivisionError: division by zero"
    assert "exit status 3" in timings["dies"].error
    assert timings["fails when run"].error == "KeyError: 'key'"
    assert timings["works"].error is None and timings["works"].calls >= 4
    assert timings["dies"].min_ms is None and timings["dies"].calls == 0


def test_a_hanging_contestant_is_given_up():
    schedule = Schedule(rounds=1, turn_seconds=0.01, pause_seconds=0.0, build_timeout_seconds=1.0)
    found = take_turns([Contestant("hangs", partial(time.sleep, 60))], schedule)["hangs"]
    assert found.error == "no answer to 'build' within 1 s"


def test_names_must_differ():
    with pytest.raises(ValueError, match="different names"):
        take_turns([sleeper("same", 0.1), sleeper("same", 0.1)], QUICK)


def test_time_calls_leaves_out_the_first_call_and_makes_at_least_two():
    calls = []
    assert len(time_calls(lambda: calls.append(1), 0.0)) == 2
    assert len(calls) == 3


def test_speedup_in_turns_cancels_a_slow_minute():
    ours, peer = timing("ours", 1.0, 1.0, 4.0), timing("peer", 2.0, 2.0, 8.0)
    assert speedup_in_turns(ours, peer) == 2.0


def test_write_json_leaves_the_old_file_whole_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "results.json"
    write_json(path, {"value": 1})
    monkeypatch.setattr(results.os, "fsync", lambda handle: operator.truediv(1, 0))
    with pytest.raises(ZeroDivisionError):
        write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_run_is_resumed(tmp_path):
    settings = {"threads": 2, "rounds": 8}
    file = ResultFile.create(tmp_path, "networks", settings=settings, ceilings=CEILINGS.to_json())
    file.add({"case": "first", "batch": 1})
    again = ResultFile.resume(file.path, "networks", settings)
    assert again.has(case="first", batch=1) and not again.has(case="first", batch=16)
    again.add({"case": "second", "batch": 1})
    saved = json.loads(file.path.read_text())
    assert [record["case"] for record in saved["records"]] == ["first", "second"]
    assert {"machine", "versions", "commit", "started", "settings", "ceilings"} <= set(saved)
    assert saved["versions"]["torch"] == versions()["torch"]


def test_a_second_run_of_a_day_does_not_overwrite_the_first(tmp_path):
    paths = [ResultFile.create(tmp_path, "layers").path for _ in range(3)]
    assert len(set(paths)) == 3 and all(path.name.startswith(f"layers-{cpu_slug()}-") for path in paths)


@pytest.mark.parametrize("change", [{"settings": {"threads": 4}}, {"benchmark": "layers"}, {"machine": {}}])
def test_resume_refuses_what_does_not_fit(tmp_path, change):
    file = ResultFile.create(tmp_path, "networks", settings={"threads": 2})
    write_json(file.path, {**file.content, **change})
    with pytest.raises(ValueError, match=f"has another '{next(iter(change))}'"):
        ResultFile.resume(file.path, "networks", {"threads": 2})


def test_resume_refuses_what_is_not_json(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a results file"):
        ResultFile.resume(path, "networks", {})


def test_macs_of_mobilenetv2_are_the_published_ones():
    assert count_work(create_network("mobilenetv2_100"), (1, 3, 224, 224)).macs / 1e6 == pytest.approx(
        300.774, abs=1e-3
    )


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_atto"])
def test_flops_agree_with_the_counter_of_torch(name):
    model = create_network(name).eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert count_work(model, (1, 3, 224, 224)).flops == counter.get_total_flops()


def test_work_of_single_layers():
    grouped = count_work(conv(16, 32, kernel=3, stride=2, groups=4), (2, 16, 9, 9))
    assert grouped.macs == 2 * 32 * 5 * 5 * 9 * 4 and grouped.flops == 2 * grouped.macs
    assert grouped.bytes == 4 * (2 * 16 * 81 + 2 * 32 * 25 + 32 * 4 * 9 + 32)
    transposed = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1)
    assert count_work(transposed, (1, 6, 5, 5)).macs == 6 * 25 * 16 * 4
    assert count_work(nn.Linear(7, 3), (5, 7)).macs == 5 * 7 * 3


def test_roofline_is_the_slower_of_computing_and_moving():
    assert CEILINGS.compute_seconds(100e9) == 1.0
    assert CEILINGS.roofline_seconds(100e9, 64) == 1.0
    assert CEILINGS.roofline_seconds(1.0, 2**40) == 2**40 / 50e9
    assert CEILINGS.bytes_per_second(64) == 200e9


def test_ceilings_are_raised_when_measured_higher(tmp_path):
    file = ResultFile.create(tmp_path, "networks", ceilings=CEILINGS.to_json())
    file.add(record_of(small_case(), eager=2.0, convfirst=1.0))
    before = file.records[0]["compute_floor_ms"]
    raise_ceilings(file, Ceilings(2, 200.0, "later", {"L2": 1.0, "L3": 1.0, "DRAM": 1.0}, CEILINGS.working_sets))
    assert file.records[0]["compute_floor_ms"] == pytest.approx(before / 2)
    assert file.content["ceilings"]["source"] == "later" and file.content["ceilings"]["copy_gbps"]["L2"] == 200.0


def test_every_contestant_loads_the_same_weights_and_input(tmp_path):
    prepared = prepare(small_case(), tmp_path, seed=3)
    model, image, reference = prepared.load()
    assert not model.training and torch.equal(model(image), reference)
    assert torch.equal(prepare(small_case(), tmp_path / "..", seed=3).load()[2], reference)
    assert not torch.equal(prepare(small_case(), tmp_path, seed=4).load()[2], reference)
    larger = Case("small block", partial(InvertedResidual, 8, 8), (2, 8, 20, 20))
    sizes = [item.load()[1].shape[2] for item in [prepare(small_case(), tmp_path), prepare(larger, tmp_path)]]
    assert sizes == [10, 20]


def test_randomized_weights_let_no_term_vanish():
    torch.manual_seed(0)
    model = create_network("mobilenetv2_100").eval()
    randomize(model, (2, 3, 64, 64))
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        assert not norm.training and norm.momentum == 0.1
        assert norm.running_mean.abs().mean() > 1e-4 and (norm.bias.abs().mean() > 1e-2)
    output = model(torch.randn(1, 3, 64, 64))
    assert torch.isfinite(output).all() and 1e-2 < output.abs().max() < 1e4


def test_contestants_agree_with_eager_before_they_are_timed(tmp_path):
    prepared = prepare(small_case(), tmp_path)
    found = take_turns(contestants_for(prepared, ["eager", "channels_last"], ["float32"], 1), QUICK)
    for name in ("eager", "channels_last"):
        assert found[name].error is None and found[name].facts["relative_error"] <= 1e-3


def test_relative_error():
    assert relative_error(torch.tensor([2.0, -3.0]), torch.tensor([2.0, -4.0])) == 0.25
    with pytest.raises(ValueError, match="shape"):
        relative_error(torch.zeros(2), torch.zeros(3))


def test_every_layer_case_runs_and_is_named_once():
    cases = layer_cases([1])
    assert all(count_work(case.make_model(), case.input_shape).macs > 0 for case in cases)
    chosen = choose_cases(None, None)
    assert len({case.name for case in chosen}) == len(chosen)
    assert all("MBConv" in case.name for case in choose_cases(["MBConv"], None))


def test_bad_options_are_named(tmp_path):
    options = Options(tmp_path, ["eager"])
    options.check()
    for name, value in (("threads", 0), ("rounds", 0), ("turn_seconds", 0.0), ("batch", [0]), ("runtimes", ["tpu"])):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be"):
            replace(options, **{name: value}).check()
    with pytest.raises(ValueError, match="--models must be names timm knows, got 'nonet'"):
        network_cases(["nonet"], [1], 224)
    with pytest.raises(ValueError, match="--cases must be parts of"):
        choose_cases(["no such layer"], None)


def test_microkernel_records():
    native = SimpleNamespace(
        cpu_info=lambda: {"available": ["portable", "avx2"]},
        list_microkernels=lambda isa: [f"{isa}_kernel"],
        time_microkernel=lambda isa, name, seconds: {
            "ns_per_call": 10.0,
            "flops_per_call": 500.0,
            "bytes_per_call": 80.0,
        },
    )
    (record,) = time_isa(native, "avx2", 0.01)
    assert (record["microkernel"], record["gflops"], record["gbps"]) == ("avx2_kernel", 50.0, 8.0)
    assert time_isa(native, "avx512", 0.01) == []


def test_record_has_ratios_to_the_best_peer():
    record = record_of(small_case(), eager=4.0, onnxruntime=3.0, convfirst=1.5)
    assert record["best_peer"] == "onnxruntime"
    ratios = record["speedup_over_best_peer"]["convfirst"]
    assert ratios["of_minima"] == pytest.approx(2.0) and ratios["in_turns"] == pytest.approx(2.0)
    alone = make_record(small_case(), {"convfirst": timing("convfirst", 1.0)}, CEILINGS)
    assert alone["best_peer"] is None and alone["speedup_over_best_peer"] == {}


def test_half_precision_is_held_against_peers_at_any_precision():
    times = {"onnxruntime": 3.0, "openvino bfloat16": 2.0, "convfirst": 2.5, "convfirst float16": 1.0}
    record = record_of(small_case(), **times)
    found = {name: speedup["peer"] for name, speedup in record["speedup_over_best_peer"].items()}
    assert found == {"convfirst": "onnxruntime", "convfirst float16": "openvino bfloat16"}
    json.dumps(record, allow_nan=False)


def test_table_shows_times_ratios_and_failures(tmp_path):
    path = tmp_path / "table.txt"
    with path.open("w") as stream:
        content = content_of(record_of(small_case(), eager=4.0, convfirst=1.0))
        print_tables(content, Console(file=stream))
    text = path.read_text()
    assert "small block" in text and "4.00x" in text and "failed" in text
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_plot_is_drawn(tmp_path):
    path = tmp_path / "plots" / "networks.png"
    records = [record_of(small_case(batch), eager=4.0, inductor=2.0, convfirst=1.0) for batch in (1, 16)]
    plot_records(content_of(*records), path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_zero_skipping_layers_against_torch(tmp_path, monkeypatch, capsys):
    """The whole script on tiny layers: every figure is there, ours computes the same."""
    layers = [against_torch.Layer("strided", 4, 6, 5, 3, 2, batch=2)]
    padded = [against_torch.Layer(f"padded {size}", 16, 16, size, 3, batch=2) for size in (1, 2)]
    monkeypatch.setattr(against_torch, "LAYERS", layers)
    monkeypatch.setattr(against_torch, "PADDED", padded)
    monkeypatch.setattr(against_torch, "TURN_SECONDS", 0.001)
    monkeypatch.setattr("sys.argv", ["against_torch", "--rounds", "1", "--output", str(tmp_path)])
    against_torch.main()
    (path,) = tmp_path.glob("against_torch-*.json")
    records = json.loads(path.read_text())["records"]
    assert [record["of"] for record in records] == ["data", "weights", "forward", "forward"]
    for record in records:
        trimmed = {"trimmed"} if record["of"] == "forward" else set()
        assert set(record["timings"]) == {"eager", "channels_last", "convfirst"} | trimmed
    assert records[2]["zeros_saved"] == pytest.approx(8 / 9) and path.with_suffix(".png").exists()
    for layer, make in [(layers[0], against_torch.contestants), (padded[0], against_torch.forward_contestants)]:
        for kind, calls in make(layer).items():
            position = {"data": 0, "weights": 1}.get(kind)
            expected = calls["eager"]() if position is None else calls["eager"]()[position]
            for name in {"convfirst", "trimmed"} & set(calls):
                torch.testing.assert_close(calls[name](), expected, rtol=1e-4, atol=1e-4)


def test_zero_skipping_cases_are_what_they_say():
    cases = zero_skipping_cases()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        if case.input_shape[1] * case.input_shape[2] <= 2048:
            with torch.no_grad():
                assert case.make_model()(torch.zeros(1, *case.input_shape[1:])).dim() == 4
