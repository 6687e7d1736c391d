import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from contract import OpContract, cast, on_every, poisoned
from torch import nn

import convfirst_ext as cf
from convfirst_ext import ops
from convfirst_ext.nn import PackedConv2d
from convfirst_ext.testing import OpCase

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class TestWinogradConv2d(OpContract):
    op = "winograd_conv2d"

    @on_every(3)
    def test_nan_reaches_exactly_the_outputs_that_see_it(self, case: OpCase) -> None:
        """It reaches all of a tile."""
        tensors = poisoned(case, float("nan"))
        expected = case.reference(tensors).value.isnan()
        for dtype in DTYPES:
            actual = case.run(cast(tensors, dtype)).isnan()
            reached = _tiles_with(expected, case.options["tile"])
            assert actual[expected].all() and not actual[~reached].any()

    @on_every(5)
    def test_infinity(self, case: OpCase) -> None:
        """Outputs that see it are infinite or NaN, those of other tiles are right."""
        for value in (float("inf"), -float("inf")):
            tensors = poisoned(case, value)
            seen = ~case.reference(tensors).value.isfinite()
            actual, untouched = case.run(tensors), case.run(case.make())
            outside = ~_tiles_with(seen, case.options["tile"])
            if case.options.get("activation", "identity") == "identity" and "residual" not in tensors:
                assert not actual[seen].isfinite().any()
            assert torch.equal(actual[outside], untouched[outside])


def _tiles_with(marked: torch.Tensor, tile: int) -> torch.Tensor:
    """All outputs of the tiles of any channel that have a marked one."""
    if not marked.numel():
        return marked
    height, width = marked.shape[2:]
    whole = F.pad(marked.float(), (0, -width % tile, 0, -height % tile)).amax(1, keepdim=True)
    spread = F.interpolate(F.max_pool2d(whole, tile), scale_factor=tile)[:, :, :height, :width] > 0
    return spread.expand_as(marked)


@pytest.mark.parametrize("tile", [2, 4])
def test_errors_are_those_of_a_direct_convolution(tile: int) -> None:
    """Of the order of the rounding of its longer sums, in norm."""
    image, weight = torch.randn(2, 64, 30, 30), torch.randn(48, 64, 3, 3) / 24
    exact = F.conv2d(image.double(), weight.double(), padding=1)
    ours = ops.winograd_conv2d(image, weight, padding=1, tile=tile).double() - exact
    direct = ops.dense_conv2d(image, weight, padding=1).double() - exact
    assert ours.norm() < 3 * direct.norm() and ours.norm() < 2e-6 * exact.norm()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    for batch, size, channels, tile in ((1, 7, 48, 4), (3, 2, 96, 2), (16, 14, 33, 4), (2, 40, 3, 2)):
        image, weight = torch.randn(batch, 64, size, size), torch.randn(channels, 64, 3, 3)
        results = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(ops.winograd_conv2d(image, weight, padding=1, tile=tile))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_an_image_gives_the_same_bits_in_every_batch() -> None:
    image, weight = torch.randn(5, 24, 9, 11), torch.randn(40, 24, 3, 3)
    whole = ops.winograd_conv2d(image, weight, padding=1)
    for index in range(5):
        assert torch.equal(ops.winograd_conv2d(image[index : index + 1], weight, padding=1), whole[index : index + 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(6, 7), (29, 31)])  # below and above what makes up for the weights' transform
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 2, 1, 0), (3, 3, 3, 3)])
def test_gradients_are_torchs(size: tuple[int, int], padding: tuple[int, ...], dtype: torch.dtype) -> None:
    height, width = size[0] + padding[2] + padding[3] - 2, size[1] + padding[0] + padding[1] - 2
    shapes = ((2, 24, *size), (20, 24, 3, 3), (20,), (2, 20, height, width))
    leaves = [(torch.randn(shape) / 4).to(dtype).requires_grad_() for shape in shapes]
    image, weight, bias, residual = leaves
    output = ops.winograd_conv2d(image, weight, bias, padding, activation="silu", residual=residual)
    expected = F.silu(F.conv2d(F.pad(image, padding), weight, bias)) + residual
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    for ours, torchs in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (output, expected)), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=tolerance, atol=tolerance * torchs.abs().max().item())


def test_second_gradients() -> None:
    image = torch.randn(1, 16, 29, 30, dtype=torch.float32).requires_grad_()
    weight = (torch.randn(16, 16, 3, 3) / 12).requires_grad_()
    results = []
    for convolve in (lambda: ops.winograd_conv2d(image, weight, padding=1), lambda: F.conv2d(image, weight, padding=1)):
        (first,) = torch.autograd.grad(convolve().pow(3).mean(), image, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [image, weight]))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4 * torchs.abs().max().item())


def test_patched_layers_train_by_it() -> None:
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
    patched = cf.patch(copy.deepcopy(stock))
    assert [type(layer) for layer in patched] == [cf.nn.Conv2d, nn.ReLU, cf.nn.Conv2d, nn.ReLU]
    image = torch.randn(2, 3, 40, 36)
    for model in (stock, patched):
        model(image).square().sum().backward()
    for ours, torchs in zip(patched.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, torchs.grad, rtol=1e-4, atol=1e-4 * torchs.grad.abs().max().item())
    narrow = cf.patch(nn.Sequential(nn.Conv2d(8, 64, 3)))
    assert type(narrow[0]) is nn.Conv2d


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(4, 3, 5, 5)}, r"weight must have shape \(O, 3, 3, 3\), but has shape \(4, 3, 5, 5\)"),
        ({"weight": torch.zeros(4, 1, 3, 3)}, r"weight must have shape \(O, 3, 3, 3\), but has shape \(4, 1, 3, 3\)"),
        ({"tile": 6}, "tile must be 2, 4 or None, but is 6"),
        ({"tile": "4"}, "tile must be 2, 4 or None, but is '4'"),
        ({"activation": "elu"}, "activation must be one of"),
        ({"residual": torch.zeros(1, 4, 2, 2)}, "residual must have"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str) -> None:
    arguments = {"input": torch.zeros(1, 3, 8, 8), "weight": torch.zeros(4, 3, 3, 3)}
    with pytest.raises(ValueError, match=message):
        ops.winograd_conv2d(**(arguments | change))


class Residual(nn.Module):
    """ResNet's basic block, and what follows the sum."""

    def __init__(self, channels: int, width: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), activation()),
            *(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)),
        )
        self.short = nn.Conv2d(channels, width, 1, stride) if (channels, stride) != (width, 1) else nn.Identity()
        self.activation = activation()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.activation(self.main(input) + self.short(input))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU])
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_blocks_become_one_chain_with_their_sums(dtype: torch.dtype, activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Residual(16, 16, 1, activation), Residual(16, 24, 2, activation)).eval()
    fast = cf.optimize(model, dtype=dtype)
    packed = [m for m in fast.modules() if isinstance(m, PackedConv2d)]
    assert sorted(m.kernel for m in packed) == ["dense", "dense", "winograd4", "winograd4", "winograd4"]
    clamps = activation is not nn.SiLU  # another activation behind the sum stays the graph's
    assert sum(m.sum_activation != "identity" for m in packed) == (2 if clamps else 0)
    assert sum(isinstance(m, cf.nn.PackedChain) for m in fast.modules()) == (1 if clamps else 2)
    rtol = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    for size, batch in itertools.product(((15, 18), (1, 1), (4, 4)), (1, 3)):
        image = torch.randn(batch, 16, *size)
        with torch.no_grad():
            expected, actual = model(image), fast(image)
            torch.testing.assert_close(actual, expected, rtol=rtol, atol=2 * rtol)
            if clamps:
                (chain,) = (m for m in fast.modules() if isinstance(m, cf.nn.PackedChain))
                stepwise = chain.run_stepwise(image.to(dtype)).float()
                torch.testing.assert_close(stepwise, actual, rtol=2 * rtol, atol=2 * rtol)


def test_one_layer_with_a_sum_behind_it_is_one_call() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(input) + input)

    model = Model().eval()
    fast = cf.optimize(model)
    image = torch.randn(1, 16, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), model(image), rtol=1e-5, atol=1e-5)
    assert sum(isinstance(m, cf.nn.PackedChain) for m in fast.modules()) == 1


def test_chains_between_other_layers_use_torchs_threads() -> None:
    alone = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    between = nn.Sequential(*alone, nn.MaxPool2d(2))
    for model, own in ((alone, True), (between, False)):
        chains = [m for m in cf.optimize(model.eval()).modules() if isinstance(m, cf.nn.PackedChain)]
        assert [chain.own_threads for chain in chains] == [own]
    image = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(cf.optimize(between)(image), between(image))


def test_large_weights_get_small_tiles() -> None:
    choose = ops.selection.choose_kernel
    kernels = [
        choose((o, c, 3, 3), groups=1, packed=True).kernel for o, c in ((512, 512), (2048, 1024), (4, 8), (64, 5))
    ]
    assert kernels == ["winograd4", "winograd2", "dense", "dense"]
    for options in ({"stride": (2, 2)}, {"dilation": (2, 2)}):
        assert choose((32, 32, 3, 3), groups=1, packed=True, **options).kernel == "dense"
    assert choose((32, 32, 3, 3), groups=1).kernel == "winograd"
    assert choose((32, 32, 3, 3), groups=1, dtype=torch.bfloat16).kernel is None
    assert choose((32, 8, 3, 3), groups=1).kernel is None
