"""The simulated cache against traces that can be followed by hand, and the traces of our operators."""

import torch
from torch import nn

import convfirst_ext as cf
from benchmarks.access_trace import FLOAT, trace_of
from benchmarks.bytes_moved import blocks_of, moved_by
from convfirst_ext.analysis.ceilings import load_native
from convfirst_ext.fusion.work import Call, packed_work

LINE = 64


def simulate(
    trace: list[tuple[int, int, int]], lines: int, ways: int, kept: tuple[int, int] = (0, 0)
) -> tuple[int, ...]:
    found = load_native().simulate_cache(trace, lines * LINE, ways, *kept)
    return found["read"] // LINE, found["written"] // LINE, found["write_missed"] // LINE


def test_lines_are_fetched_once_while_they_fit() -> None:
    assert simulate([(0, 4 * LINE, 0)] * 3, 4, 4) == (4, 0, 0)
    # One line more than there are, in a circle: the least recently used is always the next.
    assert simulate([(0, 5 * LINE, 0)] * 3, 4, 4) == (15, 0, 0)
    assert simulate([(10, 2, 0), (60, 8, 0), (0, 0, 0)], 4, 4) == (2, 0, 0)  # a part of a line, across two, nothing


def test_the_least_recently_used_goes() -> None:
    a, b, c = 0, LINE, 2 * LINE
    assert simulate([(x, 1, 0) for x in (a, b, a, c, a)], 2, 2) == (3, 0, 0)
    assert simulate([(x, 1, 0) for x in (a, b, a, c, b)], 2, 2) == (4, 0, 0)


def test_lines_of_a_set_displace_each_other() -> None:
    # Four sets of one way: lines 0 and 4 share one.
    assert simulate([(0, 1, 0), (4 * LINE, 1, 0), (0, 1, 0)], 4, 1) == (3, 0, 0)
    assert simulate([(0, 1, 0), (1 * LINE, 1, 0), (0, 1, 0)], 4, 1) == (2, 0, 0)


def test_written_lines_go_back_when_they_leave_or_are_results() -> None:
    assert simulate([(0, LINE, 1), (LINE, 4 * LINE, 0)], 4, 4) == (4, 1, 1)
    assert simulate([(0, 2 * LINE, 1)], 4, 4) == (0, 0, 2)  # scratch that stays
    assert simulate([(0, 2 * LINE, 1)], 4, 4, (0, LINE)) == (0, 1, 2)


def test_a_cache_for_everything_moves_what_must() -> None:
    """Every kind of block: without displacement, input, weights and results once, in whole lines."""
    for name in ("mobilenetv3_small_050", "convnext_atto"):
        torch.set_num_threads(1)
        for module, call in blocks_of(name, 1, 64):
            record = moved_by(module, call, 2**28)
            if record is None:
                continue
            buffers = sum(buffer.numel() for key, buffer in module.named_buffers() if "bias" not in key) * FLOAT
            images = (call.input.numel() + call.output.numel()) * FLOAT
            residual = call.residual.numel() * FLOAT if call.residual is not None else 0
            assert record["written"] <= call.output.numel() * FLOAT + LINE
            assert record["read"] + record["written"] <= images + buffers + residual + 64 * LINE
            assert record["read"] + record["written"] >= 0.8 * images


def test_less_cache_moves_more() -> None:
    torch.set_num_threads(1)
    (module, call), *_ = [pair for pair in blocks_of("mobilenetv2_050", 1, 96) if "mbconv" in pair[0].describe()]
    moved = []
    for cache in (2**12, 2**14, 2**16, 2**20):
        record = moved_by(module, call, cache)
        moved.append(record["read"] + record["written"])
    assert moved == sorted(moved, reverse=True) and moved[0] > 2 * moved[-1]


def test_what_is_traced_is_what_the_block_moves() -> None:
    """A pointwise layer whose weights stay: image, weights and output, each line once."""
    (module,) = [
        m for m in cf.optimize(nn.Conv2d(32, 64, 1)).modules() if hasattr(m, "describe") and hasattr(m, "kernel")
    ]
    image = torch.rand(1, 32, 56, 56).contiguous(memory_format=torch.channels_last)
    call = Call(image, None, module(image))
    trace = trace_of(module, call)
    found = load_native().simulate_cache(trace.accesses, 2**20, 8, trace.output.start, trace.output.size)
    assert found["read"] == 56 * 56 * 32 * FLOAT + 32 * 64 * FLOAT and found["written"] == 56 * 56 * 64 * FLOAT
    work = packed_work(module, call, None)
    assert found["read"] + found["written"] == work.bytes_bound - 64 * FLOAT  # but for the bias
