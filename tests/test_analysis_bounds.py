"""Communication: lower bounds against the tiles that the linear program gives and against any other tile."""

import itertools
import math
import random

import numpy as np
import pytest

from convfirst_ext import analysis
from convfirst_ext.analysis import ConvProblem, Precision, Tile

WORDS = Precision(1.0, 1.0, 1.0)
MIXED = Precision(2.0, 2.0, 4.0)

# ResNet-50's first and second kind of layer, which the slides compare algorithms on, and later ones.
RESNET50 = {
    "conv1": ConvProblem(8, 3, 64, 112, 112, (7, 7), (2, 2)),
    "conv2": ConvProblem(8, 64, 64, 56, 56),
    "conv4": ConvProblem(8, 256, 256, 14, 14),
    "pointwise": ConvProblem(8, 256, 64, 56, 56, (1, 1)),
}
DEPTHWISE = ConvProblem(8, 32, 32, 112, 112, groups=32)


def test_the_theorem_of_the_slides() -> None:
    problem, memory = RESNET50["conv1"], 4096.0
    work = 8 * 64 * 112 * 112 * 3 * 49
    bound = analysis.communication_bound(problem, memory, WORDS)
    assert problem.multiply_adds == work
    assert bound.general == pytest.approx(9 * work / (4 * memory) - memory)
    assert bound.small_filter == pytest.approx(2 * work * math.sqrt(2 * 2) / math.sqrt(49 * memory) - 2 * memory)
    assert bound.compulsory == 8 * 3 * 229 * 229 + 64 * 3 * 49 + 8 * 64 * 112 * 112
    assert bound.bytes == max(bound)
    parallel = analysis.parallel_communication_bound(problem, memory, 16, WORDS)
    assert parallel.general == pytest.approx(9 * work / (4 * 16 * memory) - memory)
    assert parallel.small_filter == pytest.approx((bound.small_filter + 2 * memory) / 16 - 2 * memory)
    assert analysis.parallel_communication_bound(problem, memory, 10**9, WORDS).bytes == 0


def test_mixed_precision() -> None:
    problem, memory = RESNET50["conv4"], 8192.0
    work = problem.multiply_adds
    assert analysis.communication_bound(problem, memory, MIXED).general == pytest.approx(
        64 / 4 * work / memory - memory
    )
    # One precision larger than both others together: the exponents stop at 1.
    unequal = analysis.communication_bound(problem, memory, Precision(1.0, 1.0, 8.0))
    assert unequal.general == pytest.approx(16 * work / memory - memory)
    # The unit does not matter: fp32 in bytes is four times words.
    in_bytes = analysis.communication_bound(problem, 4 * memory, Precision(4.0, 4.0, 4.0))
    np.testing.assert_allclose(in_bytes, 4 * np.array(analysis.communication_bound(problem, memory, WORDS)))


def test_a_stride_beyond_the_filter_is_a_matrix_product() -> None:
    """Pixels between the taps are not read: the bound is that of stride 1."""
    strided, dense = ConvProblem(4, 64, 64, 14, 14, (1, 1), (2, 2)), ConvProblem(4, 64, 64, 14, 14, (1, 1))
    assert analysis.communication_bound(strided, 1000) == analysis.communication_bound(dense, 1000)


def random_problem(rng: random.Random, depthwise: bool) -> ConvProblem:
    channels = rng.choice((4, 6, 8))
    kernel, stride = (rng.choice((1, 2, 3, 5)), rng.choice((1, 3))), (rng.choice((1, 2)), 1)
    filters = channels * rng.choice((1, 2))
    size = rng.choice((5, 8)), rng.choice((4, 7))
    return ConvProblem(rng.choice((1, 3)), channels, filters, *size, kernel, stride, channels if depthwise else 1)


def random_tile(rng: random.Random, problem: ConvProblem) -> Tile:
    whole = analysis.solve_tile(problem, 1e9).tile
    return Tile(*(rng.randint(1, size) for size in whole))


def moved_by_simulation(problem: ConvProblem, tile: Tile, precision: Precision) -> float:
    """Runs through the tiles in every order of the loops and loads what the iteration before did not leave."""
    whole = analysis.solve_tile(problem, 1e9).tile
    parts = [
        [(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(whole, tile, strict=True)
    ]
    depthwise = problem.groups > 1
    # Loops over pixels, sums and filters, by their place in a tile; a depthwise convolution's channels stay outside.
    classes = [(0, 3, 4), (5, 6, 7, 8) if depthwise else (1, 5, 6, 7, 8), (2,)]
    outside = (1,) if depthwise else ()
    arrays = {"image": (0, 1, 3, 4, 5, 6, 7, 8), "filter": (1, 2, 5, 6, 7, 8)}
    arrays["output"] = (0, 1, 2, 3, 4) if depthwise else (0, 2, 3, 4)
    best = math.inf
    for order in itertools.permutations(classes):
        loops = [index for group in (outside, *order) for index in group]
        moved, seen = 0.0, set()
        held: dict[str, object] = {}
        for position in itertools.product(*(parts[index] for index in loops)):
            at = dict(zip(loops, position, strict=True))
            current = Tile(*(at[index][1] - at[index][0] for index in range(9)))
            footprint = analysis.tile_footprint(problem, current, precision)
            for name, size in zip(("image", "filter", "output"), footprint, strict=True):
                key = (name, *(at[index] for index in arrays[name]))
                if held.get(name) != key:
                    moved += size * (2 if name == "output" and key in seen else 1)
                    held[name] = key
                    seen.add(key)
        best = min(best, moved)
    return best


@pytest.mark.parametrize("depthwise", [False, True])
def test_bytes_moved_are_those_of_the_loops(depthwise: bool) -> None:
    rng = random.Random(7)
    for _ in range(8):
        problem = random_problem(rng, depthwise)
        if any(k % s and k > s for k, s in zip(problem.kernel, problem.stride, strict=True)):
            continue  # the last phase has fewer taps, which footprints of tiles leave out
        tile = Tile(
            *(
                max(size, math.ceil(full / 3))
                for size, full in zip(random_tile(rng, problem), analysis.solve_tile(problem, 1e9).tile, strict=True)
            )
        )
        moved = analysis.tile_bytes_moved(problem, tile, MIXED)
        assert moved == pytest.approx(moved_by_simulation(problem, tile, MIXED))


@pytest.mark.parametrize("depthwise", [False, True])
def test_no_tile_moves_less_than_the_bound(depthwise: bool) -> None:
    rng = random.Random(1)
    for _ in range(60):
        problem = random_problem(rng, depthwise)
        tile = random_tile(rng, problem)
        for precision in (WORDS, MIXED, Precision(1.0, 1.0, 8.0)):
            memory = sum(analysis.tile_footprint(problem, tile, precision))
            bound = analysis.communication_bound(problem, memory, precision).bytes
            assert analysis.tile_bytes_moved(problem, tile, precision) >= bound * (1 - 1e-12)


@pytest.mark.parametrize("name", RESNET50)
@pytest.mark.parametrize("memory", [2**14, 2**18, 2**22])
def test_tiles_come_near_the_bound(name: str, memory: int) -> None:
    problem = RESNET50[name]
    plan = analysis.solve_tile(problem, memory, MIXED)
    bound = analysis.communication_bound(problem, memory, MIXED).bytes
    assert sum(plan.footprint) <= memory
    assert plan.footprint == analysis.tile_footprint(problem, plan.tile, MIXED)
    assert bound <= plan.bytes_moved <= 3.5 * bound
    assert all(isinstance(size, int) and size >= 1 for size in plan.tile)


def test_a_matrix_product_has_square_tiles() -> None:
    """Three squares of M / 3 elements: sqrt(M / 3)^3 multiply-adds in a tile."""
    problem = ConvProblem(1, 4096, 4096, 64, 64, (1, 1))
    plan = analysis.solve_tile(problem, 3 * 2**14, WORDS)
    assert math.prod(plan.relaxed) == pytest.approx((2**14) ** 1.5)
    relaxed = plan.relaxed
    pixels = relaxed.batch * relaxed.rows * relaxed.columns
    assert (pixels, relaxed.channels, relaxed.filters) == pytest.approx((128, 128, 128))


def test_a_memory_for_everything_moves_every_array_once() -> None:
    for problem in (RESNET50["conv2"], RESNET50["pointwise"], DEPTHWISE, ConvProblem(2, 64, 128, 9, 9, groups=4)):
        plan = analysis.solve_tile(problem, 2**40, MIXED)
        assert plan.bytes_moved == problem.compulsory_bytes(MIXED)


def test_small_filters_are_split() -> None:
    """7x7 with stride 2 is four phases of at most 4x4 taps; together they cover the filter."""
    plan = analysis.solve_tile(RESNET50["conv1"], 2**22, MIXED)
    assert plan.tile[5:] == (4, 4, 2, 2)


def test_buffers_precisions_and_double_buffering() -> None:
    problem = RESNET50["conv2"]
    shared = analysis.solve_tile(problem, 2**16, MIXED)
    halved = analysis.solve_tile(problem, 2**17, MIXED, double_buffered=True)
    assert halved == shared
    buffers = Precision(2**15, 2**14, 2**16)
    separate = analysis.solve_tile(problem, buffers, MIXED)
    assert all(part <= size for part, size in zip(separate.footprint, buffers, strict=True))
    in_words, in_bytes = (analysis.solve_tile(problem, 2**14 * size, Precision(*[size] * 3)) for size in (1.0, 4.0))
    assert in_bytes.tile == in_words.tile and in_bytes.bytes_moved == pytest.approx(4 * in_words.bytes_moved)
    assert analysis.solve_tile(problem, 2**20, MIXED).bytes_moved < shared.bytes_moved


def test_depthwise_blocks_neither_filters_nor_few_channels() -> None:
    """What the CS267 report found (section 4.5.1): only batch, width and height need blocks."""
    plan = analysis.solve_tile(DEPTHWISE, 2**18)
    assert plan.tile[5:] == (3, 3, 1, 1)
    assert math.prod(plan.relaxed) == pytest.approx(2**18 / 3 / 2)
    assert sum(plan.footprint) <= 2**18
    assert plan.bytes_moved <= 1.1 * DEPTHWISE.compulsory_bytes(Precision())


def test_curves_of_the_slides() -> None:
    """Direct convolution moves least, and less than matrix products where the memory is large for the problem."""
    memories = np.geomspace(2**12, 2**30, 19)
    for name in ("conv1", "conv2"):
        curves = analysis.traffic_curves(RESNET50[name], memories, MIXED)
        direct = curves.pop("direct lower bound")
        for curve in curves.values():
            assert curve.shape == memories.shape and (np.diff(curve) <= 0).all()
            assert (curve[-1:] > direct[-1:]).all()
        assert (curves["im2col"] > curves["matmul"]).all()
        assert (curves["naive"] > 10 * direct)[memories >= 2**18].all()
        # The product with the lowered matrix reads each pixel as often as filters cover it.
        assert curves["matmul"][-1] > 1.9 * direct[-1]
        for algorithm in ("Winograd", "FFT", "im2col"):
            assert (curves[algorithm] > direct)[memories >= 2**18].all()


def test_bad_arguments() -> None:
    problem = RESNET50["conv2"]
    with pytest.raises(ValueError, match="groups must divide in_channels 3, but is 2"):
        ConvProblem(1, 3, 4, 8, 8, groups=2)
    with pytest.raises(ValueError, match="kernel must be positive"):
        ConvProblem(1, 3, 4, 8, 8, (0, 3))
    for call in (
        lambda: analysis.communication_bound(problem, 0),
        lambda: analysis.im2col_traffic(problem, -1),
        lambda: analysis.solve_tile(problem, 0),
        lambda: analysis.fft_traffic(problem, 0),
    ):
        with pytest.raises(ValueError, match="memory must be positive"):
            call()
    with pytest.raises(ValueError, match="memory must be larger than an element of 2.0 bytes, but is 1"):
        analysis.fft_traffic(problem, 1)
    with pytest.raises(ValueError, match="precision must be positive"):
        analysis.solve_tile(problem, 1000, Precision(2, 0, 2))
    with pytest.raises(ValueError, match="memory must hold an element of each array"):
        analysis.solve_tile(problem, 10)
    with pytest.raises(ValueError, match="tile must be positive"):
        analysis.winograd_traffic(problem, 1000, tile=0)
