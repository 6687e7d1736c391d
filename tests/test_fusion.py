"""optimize: equal to stock, the blocks it must find, and what it must leave alone."""

import copy
import io
import pickle

import pytest
import torch
from networks import network, relative_error, with_statistics
from torch import Tensor, nn

import convfirst_ext as cf
from convfirst_ext.nn import PackedChain, PackedConv2d, PackedConvNeXtBlock, PackedMBConv

# name: fused blocks, single convolutions of ours, convolutions left to torch, ConvNeXt blocks, chains
NETWORKS = {
    "mobilenetv1_100": (13, 1, 0, 0, 1),
    "mobilenetv2_100": (17, 2, 0, 0, 1),
    "mobilenetv3_large_100": (15, 3, 0, 0, 1),
    "mnasnet_100": (17, 2, 0, 0, 1),
    "efficientnet_b0": (16, 2, 0, 0, 1),
    "tf_efficientnet_lite0": (16, 2, 0, 0, 1),
    "tf_efficientnetv2_b0": (16, 11, 0, 0, 1),
    "efficientnet_es": (11, 16, 0, 0, 1),
    "resnet18": (0, 20, 0, 0, 1),
    "convnext_atto": (0, 4, 0, 12, 1),
    "tv:mobilenet_v2": (17, 2, 0, 0, 1),
    "tv:mobilenet_v3_large": (15, 2, 0, 0, 1),
    "tv:mnasnet1_0": (17, 2, 0, 0, 1),
    "tv:efficientnet_b0": (16, 2, 0, 0, 1),
    "tv:convnext_tiny": (0, 4, 0, 18, 1),
}


def counts(model: nn.Module) -> tuple[int, int, int]:
    """Fused blocks, single convolutions of ours, convolutions left to torch."""
    return tuple(sum(isinstance(m, kind) for m in model.modules()) for kind in (PackedMBConv, PackedConv2d, nn.Conv2d))


def structure(model: nn.Module) -> tuple[int, int, int, int, int]:
    """The columns of NETWORKS."""
    return *counts(model), *(
        sum(isinstance(m, kind) for m in model.modules()) for kind in (PackedConvNeXtBlock, PackedChain)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_stock_and_finds_the_blocks(name: str) -> None:
    model = network(name)
    image = torch.randn(2, 3, 97, 65)
    fast = cf.optimize(model)
    with torch.no_grad():
        assert relative_error(fast(image), model(image)) < 1e-4
    assert structure(fast) == NETWORKS[name]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)])
@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0", "tv:mobilenet_v3_large"])
def test_storage_types_stay_within_their_rounding(name: str, dtype: torch.dtype, bound: float) -> None:
    model = network(name)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        output = cf.optimize(model, dtype=dtype)(image)
        assert output.dtype == torch.float32
        assert relative_error(output, model(image)) < bound


def test_the_original_is_untouched() -> None:
    model = network("mobilenetv3_large_100").train()
    before = copy.deepcopy(model.state_dict())
    fast = cf.optimize(model)
    assert model.training and not fast.training
    assert all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("channels_last", [False, True])
def test_feature_maps_keep_the_layout_of_the_input(channels_last: bool) -> None:
    model = network("mobilenetv2_100", features_only=True)
    image = torch.randn(1, 3, 64, 64)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        actual, expected = cf.optimize(model)(image), model(image)
    assert len(actual) == len(expected)
    for ours, stock in zip(actual, expected, strict=True):
        assert relative_error(ours, stock) < 1e-4
        assert ours.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def block(channels: int = 16, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 4 * channels, 1, bias=False),
        nn.BatchNorm2d(4 * channels),
        nn.ReLU6(),
        nn.Conv2d(4 * channels, 4 * channels, 3, stride, 1, groups=4 * channels, bias=False),
        nn.BatchNorm2d(4 * channels),
        nn.ReLU6(),
        nn.Conv2d(4 * channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class _Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = block()
        self.second = block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if x.sum() > 0 else x + self.second(x)


class _Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.block[:3](x)
        return self.block[3:](hidden), hidden


class _TwoUsers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block()[:3], block()[3:]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(x)
        return self.second(hidden), hidden


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x) + x)


class _BroadcastAddition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("make", "blocks"),
    [(_Untraceable, 2), (_Sliced, 0), (_TwoUsers, 1), (_Shared, 1), (_BroadcastAddition, 1)],
)
def test_graphs_that_invite_mistakes(make: type[nn.Module], blocks: int) -> None:
    torch.manual_seed(0)
    model = with_statistics(make()).eval()
    image = torch.randn(2, 16, 9, 9)
    fast = cf.optimize(model)
    with torch.no_grad():
        actual, expected = fast(image), model(image)
    pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
    assert all(relative_error(ours, stock) < 1e-5 for ours, stock in pairs)
    assert len({id(m) for m in fast.modules() if isinstance(m, PackedMBConv)}) >= blocks


def test_a_hooked_convolution_stays() -> None:
    model = with_statistics(block()).eval()
    seen = []
    model[3].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    fast = cf.optimize(model)
    seen.clear()
    with torch.no_grad():
        assert relative_error(fast(torch.ones(1, 16, 5, 5)), model(torch.ones(1, 16, 5, 5))) < 1e-5
    assert len(seen) == 2 and not any(isinstance(m, PackedMBConv) for m in fast.modules())


def test_different_activations_are_not_fused_into_one_block() -> None:
    model = with_statistics(block()).eval()
    model[2] = nn.SiLU()
    image = torch.randn(1, 16, 8, 8)
    fast = cf.optimize(model)
    with torch.no_grad():
        assert relative_error(fast(image), model(image)) < 1e-5
    assert counts(fast) == (1, 1, 0)  # pointwise, then a depthwise-separable pair


def test_copies_and_files() -> None:
    fast = cf.optimize(network("mobilenetv2_100"))
    image = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        expected = fast(image)
        assert torch.equal(copy.deepcopy(fast)(image), expected)
        assert torch.equal(pickle.loads(pickle.dumps(fast))(image), expected)
        other = cf.optimize(network("mobilenetv2_100").apply(_scramble))
        buffer = io.BytesIO()
        torch.save(fast.state_dict(), buffer)
        buffer.seek(0)
        assert not torch.equal(other(image), expected)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(other(image), expected)


def _scramble(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.05)


def test_compile_and_export() -> None:
    fast = cf.optimize(with_statistics(nn.Sequential(block(), block())).eval())
    image = torch.randn(1, 16, 9, 9)
    with torch.no_grad():
        expected = fast(image)
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(image), expected)
        exported = torch.export.export(fast, (image,))
        torch.testing.assert_close(exported.module()(image), expected)


def test_a_wanted_gradient_is_refused() -> None:
    fast = cf.optimize(with_statistics(block()).eval())
    with pytest.raises(RuntimeError, match="input must not require a gradient"):
        fast(torch.randn(1, 16, 8, 8, requires_grad=True))


def test_half_keeps_packed_weights() -> None:
    fast = cf.optimize(with_statistics(block()).eval()).half()
    with torch.no_grad():
        assert fast(torch.randn(1, 16, 8, 8).half()).dtype == torch.float16


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        ("resnet18", {}, TypeError, "model must be a torch.nn.Module"),
        (nn.ReLU(), {"dtype": torch.int8}, TypeError, "dtype must be"),
        (nn.BatchNorm2d(4, track_running_stats=False), {}, ValueError, "running statistics"),
    ],
)
def test_bad_arguments(model: object, options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cf.optimize(model, **options)
