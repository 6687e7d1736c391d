"""Wrong calls of every function and class in convfirst_ext.analysis."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from wrong_calls import assert_refused

from convfirst_ext import analysis

NAN = float("nan")
MACHINE = analysis.find_machine("a5000")
COST = analysis.conv2d_cost(1, 8, 8, 4)
PROBLEM = analysis.ConvProblem(1, 8, 8, 4, 4)
SHAPE = analysis.BlockShape(1, 8, 16, 4)
POINTS = [analysis.ModelPoint("a", 1e9, 1e-3, 70.0), analysis.ModelPoint("b", 2e9, 2e-3, 80.0)]
ONES = analysis.Tile(*[1] * 9)
IMAGE, WEIGHT = (1, 8, 4, 4), (8, 8, 3, 3)
T, V = TypeError, ValueError

Calls = list[tuple[tuple[Any, ...], type[Exception], str]]
WRONG: dict[str, Calls] = {
    "amdahl_speedup": [
        ((0.5, 0.6), V, "compute_fraction"),
        ((2, 0.1), V, "memory_fraction"),
        (("a", 0.1), T, "memory_fraction"),
        ((0.5, NAN), V, "compute_fraction"),
    ],
    "amdahl_speedups": [
        (([], MACHINE), V, "costs"),
        (([1], MACHINE), T, "costs"),
        ((COST, MACHINE), T, "costs"),
        (([COST], None), T, "machine"),
    ],
    "attainable_throughput": [((None, MACHINE), T, "cost"), ((COST, "a5000"), T, "machine")],
    "communication_bound": [
        ((PROBLEM, 0), V, "memory"),
        ((PROBLEM, "1 MB"), T, "memory"),
        ((PROBLEM, NAN), V, "memory"),
        ((None, 100), T, "problem"),
        ((PROBLEM, 100, (0, 1, 1)), V, "precision"),
        ((PROBLEM, 100, 2.0), T, "precision"),
    ],
    "parallel_communication_bound": [
        ((PROBLEM, 100, 0), V, "processors"),
        ((PROBLEM, -1, 2), V, "memory"),
        ((PROBLEM, 100, "2"), T, "processors"),
    ],
    "ideal_latency": [(("a", MACHINE), T, "operations"), ((-1, MACHINE), V, "operations"), ((1, None), T, "machine")],
    "actual_throughput": [
        ((1e9, 0), V, "latency"),
        ((1e9, [1, NAN]), V, "latency"),
        ((1e9, []), V, "latency"),
        ((None, 1), T, "operations"),
        (([1, 2], [1, 2, 3]), V, "latency must have operations' shape"),
    ],
    "computational_efficiency": [((1e9, -1, MACHINE), V, "latency"), ((1e9, 1, None), T, "machine")],
    "efficiency_gap": [((1e9, 0, MACHINE), V, "latency"), ((0, 1, MACHINE), V, "operations")],
    "ModelPoint": [
        (("a", 0, 1.0), V, "macs"),
        (("a", "b", 1.0), T, "macs"),
        (("a", 1.0, NAN), V, "latency"),
        (("a", 1.0, None), T, "latency"),
    ],
    "EfficiencyCurves": [
        (([], 1, MACHINE), V, "points"),
        ((POINTS[:1], 1, MACHINE), V, "points"),
        (([*POINTS, analysis.ModelPoint("c", 3e9, 1.0)], 1, MACHINE), V, "points must be .* all with accuracy"),
        (([POINTS[0], POINTS[0]], 1, MACHINE), V, "macs must grow"),
        ((POINTS, 0, MACHINE), V, "batch"),
        ((POINTS, 1, None), T, "machine"),
        (([1, 2], 1, MACHINE), T, "points"),
    ],
    "efficiency_gap_figure": [
        (({}, 1, MACHINE), V, "families"),
        ((None, 1, MACHINE), T, "families"),
        (({"a": [1]}, 1, MACHINE), T, "families"),
        (({"a": POINTS}, 0, MACHINE), V, "batch"),
        (({"a": POINTS}, 1, None), T, "machine"),
    ],
    "KernelCost": [
        (("a", "winograd", 1, 1), V, "kind"),
        (("a", COST.kind, -1, 1), V, "operations"),
        (("a", COST.kind, "1", 1), T, "operations"),
        (("a", COST.kind, 1, 0), V, "bytes"),
    ],
    "conv2d_cost": [
        ((0, 8, 8, 4), V, "batch"),
        (("1", 8, 8, 4), T, "batch"),
        ((1, 0, 8, 4), V, "in_channels"),
        ((1, 8, 8, 0), V, "size"),
        ((1, 8, 8, (4,)), V, "size"),
        ((1, 8, 8, "44"), T, "size"),
        ((1, 8, 8, 4, (3, 3, 3)), V, "kernel"),
    ],
    "conv2d_intensity": [
        ((0, 8), V, "in_channels"),
        ((8, []), V, "out_channels"),
        ((None, 8), T, "in_channels"),
        ((8, 8, (3,)), V, "kernel"),
    ],
    "elementwise_cost": [
        (("a", -1, 1), V, "inputs"),
        (("a", "1", 1), T, "inputs"),
        (("a", 1, 1, 0), V, "bytes_per_element"),
        (("a", 0, 0), V, "bytes"),
    ],
    "ffn_kernels": [((0, 8, 4), V, "batch"), ((1, 8, 0.3), V, "expansion"), ((1, 8, "4"), T, "expansion")],
    "fused_ffn": [((1, 8, 0.3), V, "expansion"), ((1, None, 4), T, "channels")],
    "mediant_intensity": [(([],), V, "costs"), ((None,), T, "costs"), ((["a"],), T, "costs")],
    "conv2d_multiply_adds": [
        ((IMAGE, (8, 8, 9, 9)), V, "input_shape"),
        ((IMAGE[:3], WEIGHT), V, "input_shape"),
        ((None, WEIGHT), T, "input_shape"),
        ((IMAGE, WEIGHT[:3]), V, "weight_shape"),
        ((IMAGE, (8, 8, 0, 3)), V, "weight_shape"),
        ((IMAGE, WEIGHT, 0), V, "stride"),
        ((IMAGE, WEIGHT, 1.5), T, "stride"),
        ((IMAGE, WEIGHT, 1, -1), V, "padding"),
        ((IMAGE, WEIGHT, 1, 0, 0), V, "dilation"),
    ],
    "conv_transpose2d_multiply_adds": [
        ((IMAGE, WEIGHT, 0), V, "stride"),
        ((IMAGE, WEIGHT, 1, 50), V, "padding must leave"),
        ((IMAGE, WEIGHT, 1, 0, -1), V, "output_padding"),
        ((IMAGE, WEIGHT, 1, 0, 0, 0), V, "dilation"),
        ((IMAGE, None), T, "weight_shape"),
    ],
    "weight_grad_multiply_adds": [((IMAGE, WEIGHT, -2), V, "stride"), ((IMAGE, (8, 8, 9, 9)), V, "input_shape")],
    "find_machine": [(("cray",), V, "'cray' is not known"), (("",), V, "'' is not known"), ((None,), T, "machine")],
    "load_machines": [((3,), T, "path")],
    "Machine": [
        (("a", 0, 1), V, "flops_per_second"),
        (("a", 1, NAN), V, "bytes_per_second"),
        (("a", "1", 1), V, "flops_per_second"),
        (("a", 1, 1, -1), V, "bytes_per_element"),
    ],
    "ConvProblem": [
        ((0, 8, 8, 4, 4), V, "batch"),
        (("1", 8, 8, 4, 4), T, "batch"),
        ((1, 8, 8, 4, 4, (0, 3)), V, "kernel"),
        ((1, 8, 8, 4, 4, "33"), T, "kernel"),
        ((1, 8, 8, 4, 4, (3, 3), (1,)), V, "stride"),
        ((1, 8, 8, 4, 4, (3, 3), (1, 1), 3), V, "groups"),
    ],
    "BlockShape": [
        ((0, 8, 16, 4), V, "batch"),
        ((1, "8", 16, 4), T, "size"),
        ((1, 9, 16, 4, None, 2), V, "stride"),
        ((1, 8, 16, 0.3), V, "expansion"),
        ((1, 8, 16, 4, None, 1, 0), V, "group_width"),
        ((1, 8, 16, 4, None, 1, 8, -1), V, "squeeze_ratio"),
    ],
    "convfirst_block": [((None,), T, "shape")],
    "convfirst_kernels": [((None,), T, "shape")],
    "mbconv_block": [((16,), T, "shape")],
    "mbconv_kernels": [(((1, 8, 16, 4),), T, "shape")],
    "solve_tile": [
        ((PROBLEM, 0), V, "memory"),
        ((PROBLEM, "a"), T, "memory"),
        ((PROBLEM, 10), V, "memory must hold"),
        ((None, 100), T, "problem"),
    ],
    "tile_bytes_moved": [
        ((PROBLEM, None, analysis.Precision()), T, "tile"),
        ((PROBLEM, analysis.Tile(*[0] * 9), analysis.Precision()), V, "tile"),
        ((None, ONES, analysis.Precision()), T, "problem"),
        ((PROBLEM, ONES, analysis.Precision(0, 1, 1)), V, "precision"),
    ],
    "tile_footprint": [((PROBLEM, (1, 2), analysis.Precision()), T, "tile"), ((PROBLEM, ONES, 2), T, "precision")],
    "naive_traffic": [((None,), T, "problem"), ((PROBLEM, (-1, 1, 1)), V, "precision")],
    "matmul_traffic": [((PROBLEM, 0), V, "memory"), ((PROBLEM, "a"), T, "memory")],
    "im2col_traffic": [((PROBLEM, 0), V, "memory"), ((None, 4), T, "problem")],
    "winograd_traffic": [((PROBLEM, 0), V, "memory"), ((PROBLEM, 10, None, 0), V, "tile")],
    "fft_traffic": [((PROBLEM, 2), V, "memory must be larger than an element"), ((PROBLEM, "a"), T, "memory")],
    "traffic_curves": [
        ((PROBLEM, [0]), V, "memories"),
        ((PROBLEM, ["a"]), T, "memories"),
        ((PROBLEM, []), V, "memories"),
        ((PROBLEM, 100), V, "memories must have one dimension"),
        ((None, [100]), T, "problem"),
    ],
    "minimum_latencies": [(([1], MACHINE), T, "costs"), (([COST], None), T, "machine")],
    "minimum_latency": [((None, MACHINE), T, "costs"), (([COST], None), T, "machine")],
    "maximum_efficiency": [(([], MACHINE), V, "costs"), (([COST], None), T, "machine")],
    "roofline_efficiency": [(([], MACHINE), V, "costs"), (([COST], None), T, "machine")],
    "roofline_efficiencies": [(([COST], 0), V, "op_byte"), (([COST], "a"), T, "op_byte"), (([], 1.0), V, "costs")],
    "waterline_efficiencies": [(([COST], -1), V, "op_byte"), (([COST], NAN), V, "op_byte"), (([], 1.0), V, "costs")],
    "waterline_figure": [(([], MACHINE), V, "costs"), (([COST], None), T, "machine")],
    "roofline_figure": [((None,), T, "network")],
    "time_figure": [((None,), T, "network")],
    "prediction_figure": [(({},), V, "points"), (({"a": (1.0,)},), V, "points"), ((None,), T, "points")],
}
CASES = [(name, *case) for name, cases in WRONG.items() for case in cases]
# What functions return, and tuples without checks of their own.
RESULTS = {
    *("BlockRecord", "CommunicationBound", "LayerRecord", "MultiplyAdds", "NetworkAnalysis", "Precision"),
    *("Tile", "TilePlan"),
}


def test_every_public_name_is_called() -> None:
    assert set(analysis.__all__) == WRONG.keys() | RESULTS
    assert len(CASES) > 150


@pytest.mark.parametrize(
    ("name", "arguments", "error", "pattern"), CASES, ids=[f"{case[0]}-{index}" for index, case in enumerate(CASES)]
)
def test_wrong_call(name: str, arguments: tuple[Any, ...], error: type[Exception], pattern: str) -> None:
    assert_refused(lambda: getattr(analysis, name)(*arguments), error, pattern)


@pytest.mark.parametrize(
    "call",
    [
        lambda: analysis.conv2d_cost(np.int64(1), np.int32(8), 8, (np.int64(4), 4)),
        lambda: analysis.ideal_latency(np.array([0.0, 1e9]), MACHINE),
        lambda: analysis.conv2d_multiply_adds(np.array(IMAGE), list(WEIGHT), (1, 2)),
        lambda: analysis.minimum_latencies([], MACHINE),
        lambda: analysis.communication_bound(PROBLEM, np.float32(1000), (1.0, 1, 2)),
    ],
)
def test_numbers_of_any_kind_are_taken(call: Callable[[], object]) -> None:
    call()
