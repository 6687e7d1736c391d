"""ConvFirst, BlurPool and stochastic depth against torch's functions."""

import itertools

import pytest
import torch
from block_contract import (
    Weights,
    assert_agrees,
    assert_patched_and_optimized_agree,
    blur,
    convolve_and_normalize,
)
from timm.layers import BlurPool2d
from torch import Tensor, nn

import convfirst_ext as cf
from convfirst_ext.nn import BlurPool, ConvFirst, DropPath, PackedConvNeXtBlock

SHAPES = [
    {"in_channels": 16, "out_channels": 16, "expansion": 3},
    {"in_channels": 24, "out_channels": 24, "bias": True},
    {"in_channels": 16, "out_channels": 32},
    {"in_channels": 16, "out_channels": 32, "stride": 2},
    {"in_channels": 16, "out_channels": 16, "stride": 2, "bias": True},
    {"in_channels": 12, "out_channels": 12, "kernel_size": 7, "group_width": 1, "activation": "silu"},
]


def reference(block: ConvFirst, weights: Weights, image: Tensor, training: bool) -> Tensor:
    output = convolve_and_normalize(weights, "convolution", image, training, block.convolution.groups)
    if block.blur is not None:
        output = blur(torch.cat((image, output), 1))  # as figure 6(c) has it
    output = torch.relu(convolve_and_normalize(weights, "expand", output, training))
    output = convolve_and_normalize(weights, "project", output, training)
    return image + output if image.shape == output.shape else output


@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
def test_the_same_as_torch(shape: dict[str, int]) -> None:
    block = ConvFirst(**shape)
    image = torch.randn(3, shape["in_channels"], 9, 12)
    assert_agrees(block, lambda *arguments: reference(block, *arguments), image)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_patched_and_optimized(shape: dict[str, int]) -> None:
    assert_patched_and_optimized_agree(ConvFirst(**shape), torch.randn(2, shape["in_channels"], 13, 10))


def test_hidden_channels_follow_the_input() -> None:
    block = ConvFirst(16, 32, stride=2, expansion=6)
    assert block.expand.weight.shape == (96, 32, 1, 1) and block.project.weight.shape == (32, 96, 1, 1)
    assert block.convolution.weight.shape == (16, 8, 3, 3)
    assert ConvFirst(16, 32, expansion=6).expand.weight.shape == (96, 16, 1, 1)


def test_the_state_is_plain_tensors_of_the_layers() -> None:
    block = ConvFirst(8, 8, stride=2)
    parts = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    layers = ("convolution", "expand", "project")
    keys = [key for n in layers for key in (f"{n}.weight", *(f"{n}_norm.{part}" for part in parts))]
    assert list(block.state_dict()) == keys
    other = ConvFirst(8, 8, stride=2)
    other.load_state_dict(block.state_dict())
    image = torch.randn(1, 8, 6, 6)
    assert torch.equal(other.eval()(image), block.eval()(image))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((12, 16), {}, "in_channels must be a multiple of group_width 8, but is 12"),
        ((16, 16), {"group_width": 0}, "group_width must be positive, but is 0"),
        ((16, 0), {}, "out_channels must be positive, but is 0"),
        ((16, 16, 4), {}, "kernel_size must be odd, but is 4"),
        ((16, 16, 3, 3), {}, "stride must be 1 or 2, but is 3"),
        ((16, 16), {"expansion": 0}, "expansion must be positive, but is 0"),
        ((16, 16), {"activation": "tanh"}, "activation must be one of identity, relu, .*but is 'tanh'"),
        ((16, 16), {"drop_path": 1.0}, "drop_path must be at least 0 and below 1, but is 1.0"),
    ],
)
def test_wrong_arguments(arguments: tuple[int, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvFirst(*arguments, **options)


def test_drop_path_leaves_out_images_in_training_only() -> None:
    block = ConvFirst(8, 8, drop_path=0.5)
    whole = ConvFirst(8, 8)
    whole.load_state_dict(block.state_dict())
    image = torch.randn(64, 8, 4, 4)
    branch, dropped = whole(image) - image, block(image) - image
    kept = dropped.flatten(1).any(1)
    assert 16 < kept.sum() < 48
    torch.testing.assert_close(dropped[kept], 2 * branch[kept], rtol=1e-4, atol=1e-5)
    assert torch.equal(block.eval()(image), whole.eval()(image))


def test_drop_path_keeps_the_mean() -> None:
    kept = DropPath(0.25)(torch.ones(4096, 1, 1, 1))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(kept.mean().item() - 1) < 0.05


@pytest.mark.parametrize(("height", "width"), list(itertools.product((2, 5, 8), repeat=2)))
def test_blur_pool_is_zhangs(height: int, width: int) -> None:
    image = torch.randn(2, 6, height, width)
    actual = BlurPool(6)(image)
    assert actual.shape == (2, 6, -(-height // 2), -(-width // 2))
    torch.testing.assert_close(actual, blur(image))
    torch.testing.assert_close(actual, BlurPool2d(6, filt_size=3, stride=2)(image))


def test_blur_pool_keeps_constants_and_no_state() -> None:
    pool = BlurPool(4)
    assert not pool.state_dict() and not list(pool.parameters())
    assert torch.equal(pool(torch.full((1, 4, 7, 6), 3.0)), torch.full((1, 4, 4, 3), 3.0))
    with torch.device("meta"):
        later = BlurPool(4)
    later.to_empty(device="cpu").reset_parameters()
    assert torch.equal(later.filter, pool.filter)
    assert torch.equal(pool.half().filter.float(), later.filter)


@pytest.mark.parametrize("options", [{"channels": 0}, {"channels": 4, "stride": 0}])
def test_blur_pool_refuses_what_is_not_positive(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive, but is 0"):
        BlurPool(**options)


def test_blur_pool_needs_something_to_reflect() -> None:
    with pytest.raises(RuntimeError, match="[Pp]adding size"):
        BlurPool(4)(torch.ones(1, 4, 1, 8))


def with_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


@pytest.mark.parametrize("size", [(7, 7), (20, 33)])
@pytest.mark.parametrize(
    ("channels", "out_channels", "group_width"), [(16, 16, 8), (24, 24, 8), (40, 40, 1), (24, 33, 8)]
)
def test_optimize_makes_one_block_of_it(
    channels: int, out_channels: int, group_width: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    model = with_statistics(nn.Sequential(ConvFirst(channels, out_channels, group_width=group_width)))
    fused = cf.optimize(model)
    blocks = [module for module in fused.modules() if isinstance(module, PackedConvNeXtBlock)]
    assert len(blocks) == 1 and blocks[0].adds_input == (channels == out_channels)
    assert "convfirst block" in blocks[0].describe()
    image = torch.randn(3, channels, *size)
    with torch.no_grad():
        expected, actual = model(image), fused(image)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
        half = cf.optimize(model, dtype=torch.bfloat16)(image.bfloat16())
    assert (half - expected).abs().max() <= 0.03 * expected.abs().max()
