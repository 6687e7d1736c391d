"""ConvNeXt blocks, layer norm over channels and global pooling: equal to torch, and what must stay torch's."""

import pytest
import timm
import torch
import torch.nn.functional as F
from contract import DTYPES
from networks import relative_error
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock

import convfirst_ext as cf
from convfirst_ext.nn import PackedConvNeXtBlock, PackedLayerNorm, PackedPool

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.004}


def scrambled(model: nn.Module) -> nn.Module:
    """Weights, norms and layer scales that all change the result."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = name.endswith(("gamma", "layer_scale")) or "norm" in name and name.endswith("weight")
        fan = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.data = 0.5 + 0.3 * noise if is_scale else noise / fan**0.5
    return model.eval()


def blocks(model: nn.Module) -> int:
    return sum(isinstance(module, PackedConvNeXtBlock) for module in model.modules())


def assert_like_stock(model: nn.Module, image: Tensor, count: int, bound: float = 1e-4) -> None:
    fast = cf.optimize(model)
    with torch.no_grad():
        assert relative_error(fast(image), model(image)) < bound
    assert blocks(fast) == count


@pytest.mark.parametrize("conv_mlp", [False, True])
@pytest.mark.parametrize("options", [{}, {"ls_init_value": None}], ids=["gamma", "no gamma"])
def test_timm_networks(conv_mlp: bool, options: dict) -> None:
    model = scrambled(timm.create_model("convnext_atto", conv_mlp=conv_mlp, **options))
    for shape in ((1, 3, 32, 32), (3, 3, 97, 65)):
        assert_like_stock(model, torch.randn(shape), 12)


def test_larger_networks() -> None:
    image = torch.randn(1, 3, 64, 64)
    assert_like_stock(scrambled(timm.create_model("convnext_tiny")), image, 18)


@pytest.mark.parametrize("channels", [20, 40, 17, 2])
@pytest.mark.parametrize(
    "make", [ConvNeXtBlock, lambda channels: CNBlock(channels, 1e-6, 0.0)], ids=["timm", "torchvision"]
)
def test_blocks_of_odd_channels_and_sizes(make, channels: int) -> None:
    torch.manual_seed(0)
    model = scrambled(nn.Sequential(make(channels)))
    fast = cf.optimize(model)
    assert blocks(fast) == 1
    # Few pixels take another way than many; so do more images than fit the cache at a time.
    for shape in ((1, 1, 1), (1, 3, 5), (1, 7, 7), (3, 13, 9), (2, 31, 33), (9, 57, 56)):
        image = torch.randn(shape[0], channels, *shape[1:])
        with torch.no_grad():
            expected = model(image)
            # Two normalised channels are a step function of their difference, which magnifies rounding.
            for dtype in DTYPES if channels > 2 else DTYPES[:1]:
                assert relative_error(fast(image.to(dtype)).float(), expected) < BOUNDS[dtype]


@pytest.mark.parametrize("channels", [40, 96])
def test_any_number_of_threads_gives_the_same_bits(channels: int) -> None:
    fast = cf.optimize(scrambled(nn.Sequential(ConvNeXtBlock(channels))))
    for shape in ((1, channels, 5, 5), (1, channels, 7, 8), (2, channels, 21, 20)):
        for dtype in DTYPES:
            image = torch.randn(shape).to(dtype)
            results = []
            for threads in (1, 2, 1):
                torch.set_num_threads(threads)
                results.append(fast(image))
            assert all(torch.equal(results[0], result) for result in results[1:])


@pytest.mark.parametrize("options", [{"use_grn": True}, {"out_chs": 40}, {"stride": 2}, {"act_layer": nn.Tanh}])
def test_blocks_that_stay(options: dict) -> None:
    torch.manual_seed(0)
    model = scrambled(nn.Sequential(ConvNeXtBlock(20, **options)))
    assert_like_stock(model, torch.randn(2, 20, 9, 9), 0)


def test_convnext_v2_stays() -> None:
    assert_like_stock(scrambled(timm.create_model("convnextv2_atto")), torch.randn(1, 3, 64, 64), 0)


@pytest.mark.parametrize("part", ["0", "0.conv_dw", "0.norm", "0.mlp", "0.mlp.fc1", "0.mlp.act"])
def test_hooks_are_still_called(part: str) -> None:
    model = scrambled(nn.Sequential(ConvNeXtBlock(20), ConvNeXtBlock(20)))
    seen: list[str] = []
    model.get_submodule(part).register_forward_hook(lambda *_: seen.append(part))
    fast = cf.optimize(model)
    image = torch.randn(1, 20, 9, 9)
    with torch.no_grad():
        actual = fast(image)
        assert seen == [part] and relative_error(actual, model(image)) < 1e-5
    assert blocks(fast) == 1


# Layer norm and pooling alone


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 40, 321])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(channels: int, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(channels), torch.randn(channels)
    norm = PackedLayerNorm(weight, bias, 1e-3)
    for shape in ((1, 1, 1), (2, 7, 5), (1, 40, 33)):
        image = (3 + torch.randn(shape[0], channels, *shape[1:])).to(dtype)
        rows = image.double().permute(0, 2, 3, 1)
        expected = F.layer_norm(rows, (channels,), weight.double(), bias.double(), 1e-3).permute(0, 3, 1, 2)
        actual = norm(image)
        assert actual.dtype == dtype and actual.is_contiguous(memory_format=torch.channels_last)
        assert relative_error(actual.double(), expected) < max(BOUNDS[dtype] / 4, 1e-5)


def test_layer_norm_of_large_and_equal_values() -> None:
    norm = PackedLayerNorm(torch.ones(40), torch.zeros(40), 1e-6)
    offset = 1e3 + torch.randn(1, 40, 6, 6)
    expected = F.layer_norm(offset.double().permute(0, 2, 3, 1), (40,), eps=1e-6).permute(0, 3, 1, 2)
    assert relative_error(norm(offset).double(), expected) < 1e-3
    assert norm(torch.full((1, 40, 3, 3), 7.0)).abs().max() < 1e-2


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 40, 321])
@pytest.mark.parametrize("dtype", DTYPES)
def test_global_pool(channels: int, dtype: torch.dtype) -> None:
    for shape in ((1, 1, 1), (2, 7, 5), (3, 40, 33)):
        image = torch.randn(shape[0], channels, *shape[1:]).to(dtype)
        expected = image.double().mean((2, 3), keepdim=True)
        actual = PackedPool()(image)
        assert actual.dtype == dtype and actual.shape == expected.shape
        torch.testing.assert_close(actual.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
