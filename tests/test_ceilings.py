"""This machine's ceilings: how they are measured, kept and shown."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from flat_rates import flat_rates
from typer.testing import CliRunner

from convfirst_ext.analysis.ceilings import Ceilings, copy_working_sets, load_native, measure_ceilings, steps, together
from convfirst_ext.analysis.ceilings_cache import cache_file, cached_ceilings, cached_kernel_rates, keep
from convfirst_ext.apps import commands
from convfirst_ext.fusion.ceilings import ceilings_for
from convfirst_ext.fusion.kernel_rates import rates_for

COPIES = {"L1": 400.0, "L2": 200.0, "L3": 100.0, "DRAM": 50.0}
KEPT = Ceilings(7, 123.0, "a test", COPIES, {"L1": 1, "L2": 2, "L3": 3, "DRAM": 4})
DAMAGES = [{"gflops": -1.0}, {"threads": 3}, {"copy_gbps": {}}, {"more": 1}, {"copy_gbps": {"L2": "x", "DRAM": 1}}, 5]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ceilings_for.cache_clear()
    rates_for.cache_clear()
    yield tmp_path
    ceilings_for.cache_clear()
    rates_for.cache_clear()


def test_every_ceiling_is_measured_on_all_threads() -> None:
    told: list[str] = []
    found = measure_ceilings(2, 0.01, told.append)
    assert found.threads == 2 and len(told) == steps() == 1 + len(found.copy_gbps)
    assert found.gflops > 1 and found.source.startswith("microkernel ")
    assert {"L1", "L2", "DRAM"} <= set(found.copy_gbps) and min(found.copy_gbps.values()) > 0.01
    assert found.copy_gbps["L1"] > found.copy_gbps["DRAM"]
    assert list(found.working_sets.values()) == sorted(found.working_sets.values())
    for threads, seconds in ((0, 1.0), (1, 0.0)):
        with pytest.raises(ValueError, match="threads and seconds must be positive"):
            measure_ceilings(threads, seconds)


def test_threads_run_at_once_and_add_up() -> None:
    waiting: list[int] = []

    def task() -> float:
        waiting.append(1)
        while len(waiting) < 3:  # ends only if all three are running
            os.sched_yield()
        return 2.0

    assert together(3, task) == 6.0


def test_an_activation_is_timed_in_nanoseconds_an_element() -> None:
    isa = load_native().cpu_info()["available"][-1]
    relu, gelu = (load_native().time_activation(isa, index, 0.003) for index in (1, 5))
    assert 0 < relu < gelu < 1000
    with pytest.raises(ValueError, match="activation must be 0 to 8, but is 9"):
        load_native().time_activation(isa, 9, 0.1)


def test_a_copy_is_timed_in_bytes_a_second() -> None:
    assert 1e8 < load_native().time_copy(2**16, 0.005) < 1e13
    with pytest.raises(ValueError, match="working_set must be at least 2 bytes, but is 1"):
        load_native().time_copy(1, 0.1)


def test_levels_and_times() -> None:
    info = load_native().cpu_info()
    assert KEPT.level(1) == "L2" and KEPT.level(7 * info["l2_bytes"]) == "L2" and KEPT.level(2**60) == "DRAM"
    assert KEPT.bytes_per_second(2**60) == 50e9 and KEPT.flops_per_second == 123e9
    assert KEPT.roofline_seconds(123e9, 1) == 1.0 and KEPT.roofline_seconds(1, 2**60) == 2**60 / 50e9
    other = Ceilings(7, 100.0, "slow", {"L1": 1.0, "L2": 300.0, "L3": 1.0, "DRAM": 1.0}, {})
    assert KEPT.highest(other).copy_gbps["L2"] == 300.0 and KEPT.highest(other).source == "a test"
    assert "123 GFLOP/s" in str(KEPT) and "50 GB/s in DRAM" in str(KEPT)
    assert set(copy_working_sets(2)) >= {"L1", "L2", "DRAM"}


def test_kept_ceilings_come_back_to_the_same_number_of_threads() -> None:
    assert cached_ceilings(7) is None
    path = keep(KEPT)
    assert path == cache_file() and cached_ceilings(7) == KEPT and cached_ceilings(6) is None
    later = Ceilings(6, 1.0, "later", KEPT.copy_gbps, KEPT.working_sets)
    keep(later)
    assert cached_ceilings(7) == KEPT and cached_ceilings(6) == later and ceilings_for(6) == later
    assert [file.name for file in path.parent.iterdir()] == ["ceilings.json"]


@pytest.mark.parametrize("text", ["{", "[1]", "\x00", '{"a": 1'])
def test_a_damaged_file_is_ignored_with_a_warning_and_replaced(text: str) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(text)
    with pytest.warns(UserWarning, match=r"ceilings.json is not used, .*convfirst info --measure"):
        assert cached_ceilings(7) is None
    with pytest.warns(UserWarning):
        keep(KEPT)
    assert cached_ceilings(7) == KEPT


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_entry_is_ignored_with_a_warning(change: object) -> None:
    content = json.loads(keep(KEPT).read_text())
    (key,) = content
    content[key] = {**content[key], **change} if isinstance(change, dict) else change
    cache_file().write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="an entry is damaged"):
        assert cached_ceilings(7) is None


def test_info_measures_keeps_and_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "measure_ceilings", partial(measure_ceilings, seconds=0.005))
    monkeypatch.setattr(commands, "measure_rates", lambda threads, tell: flat_rates(threads))
    before = CliRunner().invoke(commands.app, ["info", "--threads", "1"])
    assert before.exit_code == 0 and "not measured for this number of threads" in before.stdout
    outcome = CliRunner().invoke(commands.app, ["info", "--measure", "--threads", "1"])
    assert outcome.exit_code == 0, outcome.output
    kept = cached_ceilings(1)
    assert cached_kernel_rates(1) == flat_rates(1) and rates_for(1) == flat_rates(1)
    assert kept is not None and f"{kept.gflops:.0f} GFLOP/s in float32" in outcome.stdout
    assert "copies in L2" in outcome.stdout and "copies in memory" in outcome.stdout and "GPU" in outcome.stdout


def test_info_says_where_it_cannot_write(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "measure_ceilings", lambda threads, tell: KEPT)
    monkeypatch.setattr(commands, "measure_rates", lambda threads, tell: flat_rates(threads))
    (own_cache / "convfirst_ext").write_text("a file")
    outcome = CliRunner().invoke(commands.app, ["info", "--measure"])
    assert outcome.exit_code == 2 and outcome.stdout == ""
    assert outcome.stderr.startswith("convfirst: ") and "ceilings.json" in outcome.stderr
