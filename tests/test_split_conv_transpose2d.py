"""Transposed convolution: exact on small integers, with torch's contract and gradients.

Torch's own kernels run without oneDNN here: that has crashed on some of these windows.
"""

import copy
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from contract import OpContract
from gradient_contract import GradientContract
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db

import convfirst_ext as cf
from convfirst_ext import ops


class TestSplitConvTranspose2d(OpContract, GradientContract):
    op = "split_conv_transpose2d"


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = (torch.contiguous_format, torch.channels_last)

# channels, out_channels, groups
CHANNELS = [
    *[(c, o, 1) for c, o in ((1, 1), (3, 8), (5, 17), (16, 16), (33, 40), (64, 3), (48, 5))],
    *[(c, c, c) for c in (2, 8, 16, 20, 33)],
    *[(6, 18, 6), (17, 34, 17), (6, 32, 2), (9, 96, 3)],
]
# kernel, stride, padding, output_padding, dilation
WINDOWS = [
    ((1, 1), (1, 1), (0, 0), (0, 0), (1, 1)),
    ((3, 3), (1, 1), (1, 1), (0, 0), (1, 1)),
    ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1)),
    ((3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((5, 5), (2, 2), (2, 2), (1, 0), (1, 1)),
    ((5, 4), (3, 2), (2, 1), (2, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0), (0, 0), (1, 1)),
    ((2, 3), (4, 5), (0, 0), (3, 2), (1, 1)),  # phases without taps
    ((1, 1), (3, 3), (0, 0), (2, 2), (1, 1)),
    ((3, 3), (1, 1), (2, 2), (0, 0), (2, 2)),
    ((3, 3), (2, 2), (2, 2), (1, 1), (2, 2)),  # every second phase has no taps
    ((3, 2), (2, 3), (3, 1), (1, 0), (3, 2)),
    ((4, 4), (4, 4), (0, 0), (0, 0), (3, 3)),
    ((7, 1), (2, 1), (5, 0), (1, 0), (1, 1)),
    ((4, 4), (6, 6), (1, 1), (5, 5), (4, 4)),
]


def integers(*shape: int, largest: int = 2) -> Tensor:
    return torch.randint(-largest, largest + 1, shape).float()


def torch_transposed(*arguments: object) -> Tensor:
    with torch.backends.mkldnn.flags(enabled=False):
        return F.conv_transpose2d(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: "k{}x{}s{}x{}".format(*w[0], *w[1]) + f"d{w[4][0]}")
@pytest.mark.parametrize(("channels", "out_channels", "groups"), CHANNELS)
def test_exact_on_small_integers(channels: int, out_channels: int, groups: int, window: tuple) -> None:
    kernel, stride, padding, extra, dilation = window
    for batch, height, width in ((1, 4, 5), (5, 3, 2), (2, 6, 9)):
        image, weight = integers(batch, channels, height, width), integers(channels, out_channels // groups, *kernel)
        bias = integers(out_channels)
        expected = torch_transposed(image, weight, bias, stride, padding, extra, groups, dilation)
        dtype, layout = DTYPES[(height + channels) % 3], LAYOUTS[width % 2]
        given = image.to(dtype).contiguous(memory_format=layout)
        actual = ops.split_conv_transpose2d(
            given, weight.to(dtype), bias.to(dtype), stride, padding, extra, groups, dilation
        )
        assert actual.dtype == dtype and torch.equal(actual.float(), expected.to(dtype).float())
        assert torch.equal(given.float(), image)


def test_fuzz() -> None:
    generator = random.Random(0)
    draw = generator.randint
    for _ in range(400):
        groups = generator.choice([1, 1, draw(2, 20)])
        channels = groups if groups > 1 else draw(1, 40)
        out_channels = groups * draw(1, 3) if groups > 1 else draw(1, 40)
        kernel, stride, dilation = (draw(1, 5), draw(1, 5)), (draw(1, 4), draw(1, 4)), (draw(1, 3), draw(1, 3))
        extra = tuple(draw(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        padding = draw(0, 4), draw(0, 4)
        image = integers(draw(1, 4), channels, draw(1, 9), draw(1, 9))
        weight = integers(channels, out_channels // groups, *kernel)
        arguments = (image, weight, None, stride, padding, extra, groups, dilation)
        try:
            expected = torch_transposed(*arguments)
        except RuntimeError:
            try:  # torch takes an empty output in some of its kernels and not in others
                assert ops.conv_transpose2d(*arguments).numel() == 0
            except ValueError as error:
                assert "padding must leave" in str(error)
            continue
        assert torch.equal(ops.conv_transpose2d(*arguments), expected), arguments[2:]
        forward = F.conv2d  # a convolution by the same runs, padding above the kernel included
        with torch.backends.mkldnn.flags(enabled=False):
            turned = (image, weight.transpose(0, 1).contiguous() if groups == 1 else None)
            if turned[1] is None:
                continue
            try:
                expected = forward(*turned, None, stride, padding, dilation)
            except RuntimeError:
                continue
        assert torch.equal(ops.trimmed_conv2d(*turned, None, stride, padding, dilation), expected)


@pytest.mark.parametrize("wants", [(True, True, True), (True, False, False), (False, True, False)])
@pytest.mark.parametrize(("channels", "out_channels", "groups"), [(5, 7, 1), (8, 8, 8), (4, 32, 2), (12, 3, 1)])
def test_gradients(channels: int, out_channels: int, groups: int, wants: tuple[bool, ...]) -> None:
    for kernel, stride, padding, extra, dilation in WINDOWS[1:6] + WINDOWS[10:12]:
        tensors = [
            integers(2, channels, 4, 5),
            integers(channels, out_channels // groups, *kernel),
            integers(out_channels),
        ]
        results = []
        for function in (ops.conv_transpose2d, torch_transposed):
            leaves = [t.clone().requires_grad_(want) for t, want in zip(tensors, wants, strict=True)]
            output = function(*leaves, stride, padding, extra, groups, dilation)
            loss = (output * torch.arange(output.numel()).remainder(5).sub(2).view_as(output)).sum()
            results.append((output, torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])))
        assert torch.equal(results[0][0], results[1][0])
        for actual, expected in zip(results[0][1], results[1][1], strict=True):
            torch.testing.assert_close(actual, expected)


def test_second_gradients() -> None:
    image, weight, bias = torch.randn(2, 4, 3, 4), torch.randn(4, 6, 3, 3), torch.randn(6)
    results = []
    for function in (ops.conv_transpose2d, F.conv_transpose2d):
        leaves = [t.clone().requires_grad_() for t in (image, weight, bias)]
        first = torch.autograd.grad(function(*leaves, 2, 1, 1).pow(2).sum(), leaves, create_graph=True)
        norm = torch.stack([gradient.pow(2).sum() for gradient in first]).sum()
        results.append(torch.autograd.grad(norm, leaves))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-2)


def test_torchs_own_samples() -> None:
    """What torch tests nn.functional.conv_transpose2d and conv2d with."""
    for name, ours in (("conv_transpose2d", ops.conv_transpose2d), ("conv2d", ops.conv2d)):
        (info,) = [op for op in op_db if op.name == f"nn.functional.{name}"]
        count = 0
        for sample in info.sample_inputs("cpu", torch.float32):
            expected = getattr(F, name)(sample.input, *sample.args, **sample.kwargs)
            actual = ours(sample.input, *sample.args, **sample.kwargs)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
            count += 1
        assert count > 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_format_is_that_of_torch(layout: torch.memory_format) -> None:
    image, weight = torch.randn(2, 6, 4, 5).contiguous(memory_format=layout), torch.randn(6, 4, 3, 3)
    for weight_layout in LAYOUTS:
        given = weight.contiguous(memory_format=weight_layout)
        expected, actual = F.conv_transpose2d(image, given, stride=2), ops.conv_transpose2d(image, given, stride=2)
        assert actual.stride() == expected.stride()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    for channels, out_channels, groups, batch in ((64, 48, 1, 1), (40, 40, 40, 3), (64, 3, 1, 2), (96, 64, 1, 16)):
        image, weight = torch.randn(batch, channels, 7, 6), torch.randn(channels, out_channels // groups, 4, 4)
        results = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(ops.split_conv_transpose2d(image, weight, None, 2, 1, 0, groups))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_inserted_zeros_never_meet_a_weight(value: float) -> None:
    weight = torch.zeros(3, 4, 2, 2)
    weight[:, :, 1, 1] = value
    actual = ops.split_conv_transpose2d(torch.ones(1, 3, 2, 2), weight, stride=3)
    expected = torch.zeros(1, 4, 5, 5)
    expected[:, :, 1::3, 1::3] = 3 * value
    torch.testing.assert_close(actual, expected, equal_nan=True)


def test_an_image_without_a_batch_and_an_empty_one() -> None:
    weight = torch.randn(3, 5, 3, 3)
    assert ops.conv_transpose2d(torch.randn(3, 4, 5), weight).shape == (5, 6, 7)
    assert ops.conv_transpose2d(torch.randn(0, 3, 4, 5), weight).shape == (0, 5, 6, 7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_dtypes_without_a_kernel_go_to_torch(dtype: torch.dtype) -> None:
    image, weight = torch.randn(1, 4, 6, 6, dtype=dtype), torch.randn(4, 3, 3, 3, dtype=dtype)
    assert torch.equal(ops.conv_transpose2d(image, weight), F.conv_transpose2d(image, weight))


def test_autocast_is_that_of_torch() -> None:
    image, weight = torch.randn(2, 8, 5, 5), torch.randn(8, 6, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, actual = F.conv_transpose2d(image, weight), ops.conv_transpose2d(image, weight)
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
    actual.float().sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


IMAGE, WEIGHT = torch.randn(2, 6, 4, 5), torch.randn(6, 5, 3, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": 3.0}, TypeError, "input must be a Tensor"),
        ({"input": IMAGE[0, 0]}, ValueError, "input must have 4 dimensions"),
        ({"weight": WEIGHT[0]}, ValueError, "weight must have 4 dimensions"),
        ({"weight": WEIGHT.double()}, TypeError, "weight must have input's dtype"),
        ({"weight": WEIGHT[:5]}, ValueError, "weight must have 6 input channels"),
        ({"weight": WEIGHT[:, :0]}, ValueError, "weight must have no empty dimension"),
        ({"bias": torch.randn(4)}, ValueError, "bias must have 5 elements"),
        ({"bias": torch.randn(5, 1)}, ValueError, "bias must have 1 dimensions"),
        ({"stride": 0}, ValueError, "stride must be at least 1"),
        ({"stride": (1, 2, 3)}, ValueError, "stride must be one int or two"),
        ({"stride": "2"}, TypeError, "stride must be an int"),
        ({"padding": -1}, ValueError, "padding must be at least 0"),
        ({"padding": 20}, ValueError, "padding must leave"),
        ({"output_padding": 1}, ValueError, "output_padding must be smaller"),
        ({"output_padding": -1}, ValueError, "output_padding must be at least 0"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1"),
        ({"groups": 4}, ValueError, "groups must be positive and divide the 6"),
        ({"groups": 1.5}, TypeError, "groups must be an int"),
    ],
)
def test_wrong_calls(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"input": IMAGE, "weight": WEIGHT} | change
    for function in (ops.conv_transpose2d, ops.split_conv_transpose2d):
        with pytest.raises(error, match=message):
            function(**arguments)


def test_groups_without_a_kernel() -> None:
    image, weight = torch.randn(1, 6, 4, 4), torch.randn(6, 5, 3, 3)
    with pytest.raises(ValueError, match="groups must be 1, the 6 input channels or leave a multiple of 16"):
        ops.split_conv_transpose2d(image, weight, groups=2)
    torch.testing.assert_close(
        ops.conv_transpose2d(image, weight, groups=2), F.conv_transpose2d(image, weight, groups=2)
    )


# The module


@pytest.mark.parametrize("size", [None, (9, 12), (10, 11)])
def test_the_module_is_a_drop_in(size: tuple[int, int] | None) -> None:
    stock = torch.nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1)
    ours = cf.nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1)
    assert ours.load_state_dict(stock.state_dict()) == ([], [])
    image = torch.randn(2, 6, 5, 6)
    torch.testing.assert_close(ours(image, size), stock(image, size))


def test_packed_weights_follow_their_parameters() -> None:
    layer = cf.nn.ConvTranspose2d(6, 8, 3, stride=2)
    stock = torch.nn.ConvTranspose2d(6, 8, 3, stride=2)
    image = torch.randn(2, 6, 5, 6)
    for change in (
        lambda: None,
        lambda: layer.weight.mul_(2),
        lambda: layer.bias.add_(1),
        lambda: layer.load_state_dict(torch.nn.ConvTranspose2d(6, 8, 3).state_dict()),
        lambda: setattr(layer, "weight", torch.nn.Parameter(torch.randn(6, 8, 3, 3))),
        lambda: layer.bfloat16() and layer.float(),
    ):
        with torch.no_grad():
            change()
            stock.load_state_dict(layer.state_dict())
            for given in (image, image.contiguous(memory_format=torch.channels_last)):
                actual, expected = layer(given), stock(given)
                torch.testing.assert_close(actual, expected)
                assert actual.stride() == expected.stride()
                assert torch.equal(layer(given), actual)
        assert layer(image).requires_grad
    twin = copy.deepcopy(layer)
    assert "_kept" in layer.__dict__ and "_kept" not in twin.__dict__ and len(pickle.dumps(layer)) < 8000
    with torch.no_grad():
        assert torch.equal(twin(image), layer(image))
        with pytest.raises(ValueError, match="weight must have 5 input channels"):
            layer(torch.randn(1, 5, 4, 4))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(image).dtype == torch.bfloat16


def test_patch_swaps_it_and_keeps_its_parameters() -> None:
    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8), torch.nn.ConvTranspose2d(8, 6, 2))
    image = torch.randn(1, 8, 5, 5)
    expected = model(image)
    weight = model[0].weight
    assert cf.patch(model) is model and type(model[0]) is type(model[1]) is cf.nn.ConvTranspose2d
    assert model[0].weight is weight
    torch.testing.assert_close(model(image), expected)
    with torch.no_grad():
        torch.testing.assert_close(cf.optimize(model)(image), expected)


@pytest.mark.parametrize("groups", [1, 2, 16])
@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.SiLU, torch.nn.Tanh])
def test_optimize_folds_norm_and_activation(activation: type[torch.nn.Module], groups: int) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.ConvTranspose2d(16, 32, 4, 2, 1, groups=groups), torch.nn.BatchNorm2d(32), activation()]
    layers += [torch.nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers)
    torch.nn.init.uniform_(model[1].running_var, 0.5, 2)
    torch.nn.init.normal_(model[1].running_mean)
    torch.nn.init.uniform_(model[1].weight, 0.5, 2)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    fast = cf.optimize(model)
    kinds = [type(module).__name__ for module in fast.modules()]
    assert kinds.count("ConvTranspose2d") == 2 and "BatchNorm2d" not in kinds and "ReLU" not in kinds
    with torch.no_grad():
        for image in (torch.randn(2, 16, 5, 6), torch.randn(1, 16, 7, 3).contiguous(memory_format=LAYOUTS[1])):
            torch.testing.assert_close(fast(image), model(image), rtol=1e-4, atol=1e-5)
            half = cf.optimize(model, dtype=torch.bfloat16)(image)
            torch.testing.assert_close(half.float(), model(image), rtol=0.1, atol=0.05)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
