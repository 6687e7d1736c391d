"""BlurPool: packed, in chains, beside another one, and timm's."""

import pytest
import timm
import torch
from networks import relative_error, with_statistics
from torch import nn

import convfirst_ext as cf
import convfirst_ext.models  # noqa: F401  (registers ConvFirstNet)
from convfirst_ext.nn import BlurPool, ConvFirst, MBConv, PackedBlurPool, PackedChain, PackedMBConv

SIZES = [(2, 2), (3, 2), (5, 8), (33, 17), (64, 40)]


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-8, 9, shape).float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 16, 19])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_equals_torch_exactly(size: tuple[int, int], channels: int, stride: int) -> None:
    image, beside = integers(2, channels, *size), integers(2, channels, *size)
    blur = BlurPool(channels, stride)
    expected = blur(image)
    assert torch.equal(PackedBlurPool(channels, stride)(image), expected)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(PackedBlurPool(channels, stride)(image.to(dtype)), expected.to(dtype))
    both = PackedBlurPool(channels, stride, images=2)(image, beside)
    assert torch.equal(both, torch.cat((expected, blur(beside)), 1))


@pytest.mark.parametrize("size", [(1, 8), (8, 1)])
def test_one_row_has_nothing_to_reflect(size: tuple[int, int]) -> None:
    with pytest.raises(RuntimeError, match="at least 2x2 pixels"):
        PackedBlurPool(16, 2)(torch.randn(1, 16, *size))


@pytest.mark.parametrize("block", [ConvFirst(16, 24, stride=2), MBConv(16, 24, stride=2)], ids=["convfirst", "mbconv"])
def test_blocks_of_stride_two_are_one_chain(block: nn.Module) -> None:
    torch.manual_seed(0)
    block = with_statistics(block).eval()
    fused = cf.optimize(block)
    (chain,) = [module for module in fused.modules() if isinstance(module, PackedChain)]
    assert any(isinstance(link, PackedBlurPool) for link in chain.links)
    for batch, height, width in ((1, 9, 14), (3, 32, 33)):
        image = torch.randn(batch, 16, height, width)
        with torch.inference_mode():
            assert relative_error(fused(image), block(image)) < 1e-5
        dense = image.contiguous(memory_format=torch.channels_last)
        assert torch.equal(chain(dense), chain.run_stepwise(dense))


def test_a_gate_without_a_convolution_before_it_is_fused_with_the_projection() -> None:
    torch.manual_seed(0)
    block = with_statistics(MBConv(16, 16, stride=2, se_activation="silu")).eval()
    fused = cf.optimize(block)
    (packed,) = [module for module in fused.modules() if isinstance(module, PackedMBConv)]
    assert packed.se_reduce_weight is not None and packed.window.kernel == (1, 1)


def test_convfirstnet_is_one_chain() -> None:
    model = with_statistics(timm.create_model("convfirstnet_pico", num_classes=7)).eval()
    fused = cf.optimize(model)
    assert [type(module) for module in fused.children()] == [PackedChain]
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        exact = model.double()(image.double())
        assert relative_error(fused(image).double(), exact) < 1e-4


def test_concatenations_of_other_things_stay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = BlurPool(16), BlurPool(16, 1)
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return torch.cat((self.first(x), self.second(x)[:, :, ::2, ::2], x[:, :, ::2, ::2]), 1)

    model = Model().eval()
    image = torch.randn(2, 16, 12, 12)
    with torch.inference_mode():
        assert relative_error(cf.optimize(model)(image), model(image)) < 1e-6


def test_timm_blur_pool() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.blur = nn.Conv2d(16, 24, 1), timm.layers.BlurPool2d(24, filt_size=3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blur(self.conv(x))

    model = Model().eval()
    fused = cf.optimize(model)
    assert any(isinstance(module, PackedBlurPool) for module in fused.modules())
    image = torch.randn(2, 16, 13, 12)
    with torch.inference_mode():
        assert relative_error(fused(image), model(image)) < 1e-6
