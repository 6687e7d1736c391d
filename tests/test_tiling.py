"""The tile planner's plans, and a block of the right size for each of the orders they can name."""

import itertools
import time
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext import _native, analysis, ops
from convfirst_ext.analysis import ConvProblem, Precision, Tile

SHAPES = [
    pytest.param(*shape, id="-".join(map(str, shape)))
    for shape in itertools.product((1, 7, 14, 56, 112, 300), (16, 24, 320), (1, 6), (3, 5), (1, 2), (False, True))
]


@pytest.mark.parametrize(("size", "channels", "expansion", "kernel", "stride", "squeezes"), SHAPES)
def test_plans_fit_the_block(
    size: int, channels: int, expansion: int, kernel: int, stride: int, squeezes: bool
) -> None:
    hidden = channels * expansion
    out_rows = (size + 2 * (kernel // 2) - kernel) // stride + 1
    for images, threads in ((1, 1), (1, 2), (5, 2), (16, 64)):
        shape = (size, size, channels, hidden, channels, kernel, stride, expansion > 1, squeezes)
        plan = _native.plan_tiles(*shape, images, threads)
        assert plan["order"] in (("kept", "strips, twice") if squeezes else ("kept", "strips"))
        assert 1 <= plan["row_group"] <= out_rows
        assert 1 <= plan["strip_rows"] <= out_rows
        assert plan["hidden_channels"] % 16 == 0 and 16 <= plan["hidden_channels"] <= -(-hidden // 16) * 16


def test_large_hidden_tensors_are_not_kept() -> None:
    assert _native.plan_tiles(500, 500, 16, 960, 16)["order"] == "strips"


def _hidden_channels_for(order: str, size: int, channels: int, squeezes: bool) -> int:
    """The fewest hidden channels, in steps of 100, for which two threads take an order on this machine."""
    for hidden in range(101, 6000, 100):
        if _native.plan_tiles(size, size, channels, hidden, 20, 3, 1, True, squeezes, 1, 2)["order"] == order:
            return hidden
    pytest.skip(f"on this CPU nothing that is tried takes the order '{order}'")


@pytest.mark.parametrize(
    ("order", "squeezes", "size", "channels"),
    [("kept", False, 14, 40), ("strips", False, 112, 4), ("strips, twice", True, 112, 4)],
)
def test_every_order_gives_the_same_answer(order: str, squeezes: bool, size: int, channels: int) -> None:
    hidden = _hidden_channels_for(order, size, channels, squeezes)
    image, residual = torch.randn(1, channels, size, size), torch.randn(1, 20, size, size)
    expand, conv = torch.randn(hidden, channels, 1, 1) / channels**0.5, torch.randn(hidden, 1, 3, 3) / 3
    project, bias = torch.randn(20, hidden, 1, 1) / hidden**0.5, torch.randn(hidden)
    gate = ops.SqueezeExcite(torch.randn(6, hidden, 1, 1) / hidden**0.5, None, torch.randn(hidden, 6, 1, 1), None)

    def run() -> Tensor:
        return ops.mbconv(
            image, expand, bias, conv, bias, project, None, 1, 1,
            activation="relu", squeeze_excite=gate if squeezes else None, residual=residual,
        )  # fmt: skip

    h = F.relu_(F.conv2d(image, expand, bias))
    h = F.relu_(F.conv2d(h, conv, bias, padding=1, groups=hidden))
    if squeezes:
        squeezed = F.relu(F.conv2d(h.mean((2, 3), keepdim=True), gate.reduce_weight))
        h *= F.conv2d(squeezed, gate.expand_weight).sigmoid()
    expected = F.conv2d(h, project) + residual
    actual = run()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.set_num_threads(1)
    assert torch.equal(run(), actual)


# Single convolutions

FLOATS = Precision(4.0, 4.0, 4.0)
# Images, size, input and output channels.
POINTWISE = [
    (1, 112, 32, 64), (1, 112, 16, 96), (1, 56, 128, 128), (1, 56, 24, 144), (1, 28, 192, 768), (4, 14, 512, 512),
    (1, 14, 512, 512), (1, 14, 96, 576), (1, 7, 320, 1280), (16, 28, 256, 256), (16, 14, 672, 112), (4, 28, 144, 32),
]  # fmt: skip
# Size, channels, kernel, stride.
DEPTHWISE = [
    (112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (56, 96, 7, 1), (28, 240, 5, 1), (28, 192, 7, 1),
    (14, 672, 5, 1), (7, 960, 5, 1), (56, 144, 5, 2),
]  # fmt: skip


@pytest.fixture
def unforced() -> Iterator[None]:
    yield
    _native.force_tiles()


def pointwise_bytes(shape: tuple[int, int, int, int], l2: int) -> tuple[float, float]:
    """Bytes that pass between L2 cache and the rest with the planner's run on one thread, and with the LP's tile."""
    images, size, inputs, outputs = shape
    pixels = images * size * size
    plan = _native.plan_conv_tiles(size, size, inputs, outputs, images=images, l2_bytes=l2)
    problem = ConvProblem(1, inputs, outputs, pixels, 1, (1, 1))
    # All weights stay where they fit beside a run; else a register block's pass through.
    whole = Tile(1, inputs, outputs, plan["run_pixels"], 1, 1, 1, 1, 1)
    fits = sum(analysis.tile_footprint(problem, whole, FLOATS)) <= l2
    tile = whole if fits else whole._replace(filters=min(outputs, 32))
    return analysis.tile_bytes_moved(problem, tile, FLOATS), analysis.solve_tile(problem, l2, FLOATS).bytes_moved


@pytest.mark.parametrize("shape", POINTWISE)
@pytest.mark.parametrize("l2", [2**19, 2**20, 2**21])
def test_runs_of_pixels_move_hardly_more_bytes_than_the_lps_tile(shape: tuple[int, int, int, int], l2: int) -> None:
    moved, least = pointwise_bytes(shape, l2)
    # Weights of more than half of the cache: the LP cuts the sums, which our products never do.
    cuts_sums = shape == (16, 14, 672, 112) and l2 == 2**19
    assert moved <= (1.4 if cuts_sums else 1.1) * least


@pytest.mark.parametrize(("size", "channels", "kernel", "stride"), DEPTHWISE)
@pytest.mark.parametrize("l2", [2**19, 2**20, 2**21])
def test_bands_of_rows_move_hardly_more_bytes_than_the_lps_tile(
    size: int, channels: int, kernel: int, stride: int, l2: int
) -> None:
    rows = -(-size // stride)
    problem = ConvProblem(1, channels, channels, rows, rows, (kernel, kernel), (stride, stride), channels)
    plan = _native.plan_conv_tiles(size, size, channels, channels, kernel, stride, True, l2_bytes=l2)
    tile = Tile(1, 16, 1, plan["band_rows"], rows, *problem.phase_taps, *problem.phases)
    moved = analysis.tile_bytes_moved(problem, tile, FLOATS)
    assert moved <= 1.11 * analysis.solve_tile(problem, l2, FLOATS).bytes_moved


def test_shares_of_threads_are_even() -> None:
    for size, channels, kernel, stride in DEPTHWISE:
        rows = -(-size // stride)
        for threads in (2, 3, 8):
            band = _native.plan_conv_tiles(size, size, channels, channels, kernel, stride, True, 1, threads)[
                "band_rows"
            ]
            bands = -(-rows // band)
            assert 1 <= band <= rows
            assert bands == 1 or (-(-bands // threads) * band - rows / threads) <= max(band / 2, threads)
    for images, size, inputs, outputs in POINTWISE:
        pixels = images * size * size
        for threads in (1, 2, 8):
            plan = _native.plan_conv_tiles(size, size, inputs, outputs, images=images, threads=threads)
            runs = -(-pixels // plan["run_pixels"])
            assert 1 <= plan["run_pixels"] <= pixels and 1 <= plan["parts"] <= -(-outputs // 16)
            assert runs * plan["parts"] >= min(threads, -(-outputs // 32)) or pixels <= 56


def test_a_plan_takes_microseconds() -> None:
    fastest = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        for _ in range(100):
            _native.plan_conv_tiles(28, 28, 192, 768, images=4, threads=8)
            _native.plan_conv_tiles(56, 56, 96, 96, 7, 1, True, 4, 8)
        fastest = min(fastest, (time.perf_counter() - begin) / 200)
    assert fastest < 20e-6  # with the call from Python


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize(("groups", "kernel"), [(1, 1), (40, 3), (40, 5)])
def test_operators_take_their_tiles_from_the_planner(groups: int, kernel: int) -> None:
    """A tile that is forced on the planner changes the time of a call, but no bit of its result."""
    image = torch.randn(2, 40, 19, 23).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(40 if groups > 1 else 72, 40 // groups, kernel, kernel), None
    run = ops.pointwise_conv2d if groups == 1 else ops.depthwise_conv2d
    arguments = () if groups == 1 else (1, kernel // 2)
    expected = run(image, weight, bias, *arguments)
    for tile in ({"run_pixels": 1}, {"run_pixels": 15, "parts": 3}, {"parts": 5}, {"band_rows": 1}, {"band_rows": 18}):
        _native.force_tiles(**tile)
        assert torch.equal(run(image, weight, bias, *arguments), expected)


@pytest.mark.usefixtures("unforced")
def test_forced_tiles_reach_the_operators() -> None:
    """Bands of one row copy every input row of a 7x7 kernel seven times: much slower, whatever the machine does."""
    image = torch.randn(1, 64, 56, 56).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 1, 7, 7)

    def fastest() -> float:
        times = []
        for _ in range(30):
            begin = time.perf_counter()
            ops.depthwise_conv2d(image, weight, None, 1, 3)
            times.append(time.perf_counter() - begin)
        return min(times)

    torch.set_num_threads(1)
    planned = fastest()
    _native.force_tiles(band_rows=1)
    assert fastest() > 1.2 * planned
    assert _native.plan_conv_tiles(56, 56, 64, 64, 7, 1, True)["band_rows"] == 1


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize("tile", [{"keeps_hidden": 1}, {"keeps_hidden": -1}, {"row_group": 3, "hidden_blocks": 2}])
@pytest.mark.parametrize("squeezes", [False, True])
def test_forced_tiles_of_fused_blocks_give_the_same_answer(tile: dict[str, int], squeezes: bool) -> None:
    image = torch.randn(3, 24, 13, 13)
    expand, conv, project = torch.randn(72, 24, 1, 1) / 5, torch.randn(72, 1, 3, 3) / 3, torch.randn(24, 72, 1, 1) / 8
    gate = ops.SqueezeExcite(torch.randn(6, 72, 1, 1) / 8, None, torch.randn(72, 6, 1, 1), None)

    def run() -> Tensor:
        return ops.mbconv(
            image, expand, None, conv, None, project, None, 1, 1,
            activation="relu", squeeze_excite=gate if squeezes else None,
        )  # fmt: skip

    expected = run()
    _native.force_tiles(**tile)
    torch.testing.assert_close(run(), expected, rtol=1e-5, atol=1e-5)
