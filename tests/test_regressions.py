"""Shapes that broke other libraries: forward and both gradients, exact on small integers.

Torch's own kernels run without oneDNN here: that has crashed on some windows.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

import convfirst_ext as cf

# What broke, and where it was reported; the layer; height and width of its image.
SHAPES = [
    pytest.param((24, 24, 3), {"stride": 2, "padding": 1, "groups": 24}, (6, 6), id="pytorch-50042-depthwise-weights"),
    pytest.param((3, 8, 5), {"stride": 3, "padding": 1}, (14, 11), id="pytorch-25101-gradient-of-stride-3"),
    pytest.param((4, 16, 1), {"groups": 2}, (5, 7), id="pytorch-19912-two-groups-of-1x1"),
    pytest.param((8, 8, 2), {"stride": 5}, (13, 17), id="pytorch-68868-stride-above-kernel"),
    pytest.param((8, 8, 2), {"stride": 5, "groups": 8}, (13, 17), id="pytorch-68868-depthwise"),
    pytest.param((16, 16, 4), {"padding": "same"}, (7, 6), id="onednn-5080-even-kernel-asymmetric-padding"),
    pytest.param((16, 16, (2, 4)), {"padding": "same", "groups": 16}, (7, 6), id="onednn-5080-depthwise"),
    pytest.param((16, 16, 3), {"stride": 4, "padding": 5}, (2, 2), id="fbgemm-395-output-below-padding"),
    pytest.param((16, 16, 3), {"stride": 4, "padding": 5, "groups": 16}, (2, 2), id="fbgemm-395-depthwise"),
    pytest.param((3, 5, 3), {"stride": 1000, "padding": 1}, (9, 9), id="huge-stride"),
    pytest.param((16, 16, 3), {"stride": (1, 1000), "padding": 1, "groups": 2}, (9, 9), id="huge-stride-group-width-8"),
]


def integers(*shape: int) -> Tensor:
    return torch.randint(-2, 3, shape).float()


def layer_of(sizes: tuple, options: dict) -> nn.Conv2d:
    layer = nn.Conv2d(*sizes, **options)
    with torch.no_grad():
        layer.weight.copy_(integers(*layer.weight.shape))
        layer.bias.copy_(integers(*layer.bias.shape))
    return layer


def results_of(layer: nn.Module, image: Tensor) -> list[Tensor]:
    """Output, and the gradients of image, weight and bias for an output gradient of small integers."""
    image = image.clone().requires_grad_()
    output = layer(image)
    torch.manual_seed(1)
    return [output, *torch.autograd.grad(output, (image, *layer.parameters()), integers(*output.shape))]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("sizes", "options", "size"), SHAPES)
def test_front_door_patch_and_optimize_equal_torch(
    sizes: tuple, options: dict, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = layer_of(sizes, options)
    image = integers(2, sizes[0], *size).contiguous(memory_format=memory_format)
    with torch.backends.mkldnn.flags(enabled=False):
        expected = results_of(layer, image)
        patched = cf.patch(nn.Sequential(copy.deepcopy(layer)))
        for actual, wanted in zip(results_of(patched, image), expected, strict=True):
            assert torch.equal(actual, wanted)
        own = cf.ops.conv2d(image, layer.weight, layer.bias, **options)
        assert torch.equal(own, expected[0])
        with torch.inference_mode():
            assert torch.equal(cf.optimize(layer)(image), expected[0])


@pytest.mark.parametrize("groups", [1, 16], ids=["dense", "depthwise"])
def test_bfloat16_sums_of_ones_are_counts(groups: int) -> None:
    # pytorch #163347: a 2x2 window of ones gave 1.
    layer = nn.Conv2d(16, 16, 2, groups=groups, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    image = torch.ones(1, 16, 2, 2, dtype=torch.bfloat16)
    for module in (cf.patch(copy.deepcopy(layer)), cf.optimize(layer)):
        with torch.inference_mode():
            assert torch.equal(module(image), torch.full((1, 16, 1, 1), 4.0 * 16 / groups, dtype=torch.bfloat16))


@pytest.mark.parametrize(("groups", "kernel"), [(1, 3), (16, 3), (16, 5), (2, 3), (1, 1)])
def test_denormal_weights_give_what_they_are_worth(groups: int, kernel: int) -> None:
    # pytorch #67797: correct, but a hundred times slower.
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, kernel, padding=kernel // 2, groups=groups, bias=False)
    tiny = torch.finfo(torch.float32).tiny
    with torch.no_grad():
        layer.weight.copy_(integers(*layer.weight.shape) * (tiny / 8))
    image = integers(1, 16, 9, 9) * 2.0**20
    exact = nn.functional.conv2d(image.double(), layer.weight.double(), None, 1, kernel // 2, 1, groups)
    for module in (cf.patch(copy.deepcopy(layer)), cf.optimize(layer)):
        with torch.inference_mode():
            actual = module(image).double()
        if isinstance(module, nn.Conv2d) or (groups, kernel) != (1, 3):
            assert torch.equal(actual, exact)
        else:  # Winograd's weights are sixths of these
            torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((24, 24, 5), {"stride": 2, "padding": 1, "groups": 24}),
        ((16, 16, 7), {"padding": 3, "groups": 16}),
        ((16, 16, 3), {"padding": 2, "dilation": 2, "groups": 16}),
    ],
)
def test_gradients_in_half_precision_are_rounded_once(dtype: torch.dtype, sizes: tuple, options: dict) -> None:
    # What is added in half precision is wrong from 257 or 2049 summands on.
    torch.manual_seed(0)
    layer = layer_of(sizes, options)
    image = integers(2, sizes[0], 33, 18)
    with torch.backends.mkldnn.flags(enabled=False):
        expected = results_of(layer, image)
        patched = cf.patch(nn.Sequential(copy.deepcopy(layer))).to(dtype)
        for actual, wanted in zip(results_of(patched, image.to(dtype)), expected, strict=True):
            assert torch.equal(actual, wanted.to(dtype))
