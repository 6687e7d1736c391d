"""CUDA kernels on a GPU, through the public functions: ``pytest -m cuda``. What needs no GPU is in cuda_emulator."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convfirst_ext as cf
from convfirst_ext.testing import CASES, Bounded, OpCase, assert_exact, assert_within

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEPTHWISE = [case for case in CASES["depthwise_conv2d"] if case.shapes["input"][0] and case.is_exact]
GROUPED = [
    case
    for case in CASES["grouped_conv2d"]
    if case.shapes["weight"][1] in (8, 16) and case.shapes["input"][0] and case.is_exact
]
HALVES = (torch.float16, torch.bfloat16)


def on_gpu(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    moved = {name: tensor.to("cuda", dtype) for name, tensor in tensors.items()}
    return moved | {"input": moved["input"].contiguous(memory_format=torch.channels_last)}


@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise_small(case: OpCase) -> None:
    for dtype in (torch.float32, *HALVES):
        assert_exact(case.run(on_gpu(case.make(), dtype)).cpu(), case.reference(case.make()))


@pytest.mark.parametrize("case", [case for case in GROUPED if case.shapes["weight"][2:] in ((3, 3), (5, 5))], ids=str)
def test_grouped_small(case: OpCase) -> None:
    window = [case.options.get(name, 1) for name in ("stride", "dilation")]
    if window[0] not in (1, 2) or window[1] != 1:
        pytest.skip("no CUDA kernel for this window")
    for dtype in HALVES:
        assert_exact(case.run(on_gpu(case.make(), dtype)).cpu(), case.reference(case.make()))


WINDOWS = [(width, kernel, stride) for width in (1, 8, 16) for kernel in (3, 5, 7) for stride in (1, 2)]


@pytest.mark.parametrize("dtype", (torch.float32, *HALVES), ids=str)
@pytest.mark.parametrize(("width", "kernel", "stride"), WINDOWS)
def test_gradients_small(width: int, kernel: int, stride: int, dtype: torch.dtype) -> None:
    if width > 1 and (dtype == torch.float32 or kernel > (5 if width == 8 else 3)):
        pytest.skip("no CUDA kernel of this group width")
    check_gradients((2, 80, 19, 23), width, kernel, stride, dtype)


@pytest.mark.parametrize(("width", "kernel", "stride"), [(1, 3, 1), (1, 7, 2), (8, 3, 1), (8, 5, 2)])
def test_gradients_of_many_blocks(width: int, kernel: int, stride: int) -> None:
    check_gradients((32, 192, 56, 56), width, kernel, stride, torch.float16)


def check_gradients(size: tuple[int, ...], width: int, kernel: int, stride: int, dtype: torch.dtype) -> None:
    channels = size[1]
    image = torch.randn(size).to("cuda", dtype, memory_format=torch.channels_last).requires_grad_()
    weight = (torch.randn(channels, width, kernel, kernel) / kernel).to("cuda", dtype).requires_grad_()
    output = cf.ops.conv2d(image, weight, None, stride, kernel // 2, groups=channels // width)
    grad = torch.randn_like(output)
    actual = output, *torch.autograd.grad(output, (image, weight), grad)
    wide = image.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected_output = F.conv2d(*wide, None, stride, kernel // 2, groups=channels // width)
    expected = expected_output, *torch.autograd.grad(expected_output, wide, grad.double())
    for found, right in zip(actual, expected, strict=True):
        assert (found.double() - right).norm() <= 2 * torch.finfo(dtype).eps * right.norm()
    again = torch.autograd.grad(cf.ops.conv2d(image, weight, None, stride, kernel // 2, groups=channels // width),
                                (image, weight), grad)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(again, actual[1:], strict=True)), "not deterministic"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("channels", "expansion"), [(16, 3), (24, 4), (48, 6), (64, 3), (96, 4), (128, 6)])
def test_convfirst_small(channels: int, expansion: int, dtype: torch.dtype) -> None:
    hidden = channels * expansion
    shapes = ((channels, 8, 3, 3), (hidden, channels, 1, 1), (channels, hidden, 1, 1))
    weights = [torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5) for shape in shapes]
    tensors = [part for weight in weights for part in (weight, torch.randn(len(weight)))]
    tensors = [tensor.to("cuda", dtype) for tensor in tensors]
    image = torch.randn(3, channels, 19, 21).to("cuda", dtype, memory_format=torch.channels_last)
    actual = cf.ops.convfirst(image, *tensors)
    image, conv, conv_bias, expand, expand_bias, project, project_bias = (t.double() for t in (image, *tensors))
    x = F.relu(F.conv2d(F.conv2d(image, conv, conv_bias, padding=1, groups=channels // 8), expand, expand_bias))
    expected = image + F.conv2d(x, project, project_bias)
    assert (actual.double() - expected).norm() <= 2 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("channels", "outputs", "size"), [(16, 32, (20, 23)), (24, 48, (33, 31)), (64, 96, (17, 40))])
def test_convfirst_of_stride_two_small(channels: int, outputs: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    hidden = 6 * channels
    shapes = ((channels, 8, 3, 3), (hidden, 2 * channels, 1, 1), (outputs, hidden, 1, 1))
    weights = [torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5) for shape in shapes]
    tensors = [torch.randn(3, channels, *size)]
    tensors += [part for weight in weights for part in (weight, torch.randn(len(weight)))]
    expected = cf.ops.convfirst(*tensors, 2, residual=False)
    actual = cf.ops.convfirst(*(tensor.to("cuda", dtype) for tensor in tensors), 2, residual=False)
    assert (actual.float().cpu() - expected).norm() <= 3 * torch.finfo(dtype).eps * expected.norm()


PASSES = [  # group width, kernel, stride, blur, squeeze-excite, expansion
    (8, 3, 1, False, True, 4),
    (8, 3, 1, True, True, 4),
    (1, 3, 1, False, False, 6),
    (1, 3, 2, False, False, 6),
    (1, 5, 1, False, True, 6),
    (1, 5, 2, False, True, 6),
    (1, 3, 2, False, False, 1),
]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("size", [(7, 7), (29, 37)], ids=str)
@pytest.mark.parametrize(("width", "kernel", "stride", "blur", "squeezes", "expansion"), PASSES)
def test_mbconv_in_passes_small(
    width: int, kernel: int, stride: int, blur: bool, squeezes: bool, expansion: int, size: tuple[int, int],
    dtype: torch.dtype,
) -> None:  # fmt: skip
    channels, outputs, squeezed = 40, 136, 10
    hidden = channels * expansion
    shapes = [(hidden, channels, 1, 1), (hidden, width, kernel, kernel), (outputs, hidden, 1, 1)]
    shapes += [(squeezed, hidden, 1, 1), (hidden, squeezed, 1, 1)] if squeezes else []
    weights = [torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5) for shape in shapes]
    biases = [torch.randn(len(weight)) for weight in weights]
    image = torch.randn(37, channels, *size)

    def run(device: str, dtype: torch.dtype) -> Tensor:
        w, b = ([tensor.to(device, dtype) for tensor in tensors] for tensors in (weights, biases))
        expand = (w[0], b[0]) if expansion > 1 else (None, None)
        squeeze = cf.ops.SqueezeExcite(w[3], b[3], w[4], b[4], "silu") if squeezes else None
        x = image.to(device, dtype).contiguous(memory_format=torch.channels_last)
        return cf.ops.mbconv(x, *expand, w[1], b[1], w[2], b[2], stride, kernel // 2, groups=hidden // width,
                             activation="silu", blur=blur, squeeze_excite=squeeze)  # fmt: skip

    expected = run("cpu", torch.float32)
    for _ in range(2):
        actual = run("cuda", dtype)
        assert (actual.float().cpu() - expected).norm() <= 6 * torch.finfo(dtype).eps * expected.norm()
    assert torch.equal(actual, run("cuda", dtype)), "not deterministic"


@pytest.mark.parametrize("squeezed", [0, 16])
@pytest.mark.parametrize(("channels", "hidden", "side"), [(16, 64, 7), (48, 192, 14), (128, 768, 14), (64, 512, 16)])
def test_mbconv_small(channels: int, hidden: int, side: int, squeezed: int) -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters need compute capability 9.0")
    shapes = [(hidden, channels, 1, 1), (hidden, 8, 3, 3), (channels, hidden, 1, 1)]
    shapes += [(squeezed, hidden, 1, 1), (hidden, squeezed, 1, 1)] if squeezed else []
    weights = [torch.randn(shape) * (1.5 / (shape[1] * shape[2] * shape[3]) ** 0.5) for shape in shapes]
    biases = [torch.randn(len(weight)) for weight in weights]
    image = torch.randn(5, channels, side, side)

    def run(device: str, dtype: torch.dtype) -> Tensor:
        w, b = ([tensor.to(device, dtype) for tensor in tensors] for tensors in (weights, biases))
        squeeze = cf.ops.SqueezeExcite(w[3], b[3], w[4], b[4]) if squeezed else None
        x = image.to(device, dtype).contiguous(memory_format=torch.channels_last)
        return cf.ops.mbconv(x, w[0], b[0], w[1], b[1], w[2], b[2], padding=1, groups=hidden // 8, residual=x,
                             activation="relu", squeeze_excite=squeeze)  # fmt: skip

    expected = run("cpu", torch.float32)
    for dtype in HALVES:
        error = (run("cuda", dtype).float().cpu() - expected).norm()
        assert error <= 6 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("batch", "size", "kernel"), [(65, 2, 3), (3, 7, 5), (128, 4, 3)])
def test_zero_skipping_small(batch: int, size: int, kernel: int, dtype: torch.dtype) -> None:
    image = torch.randint(-3, 4, (batch, 40, size, size)).to("cuda", dtype)
    weight = torch.randint(-1, 2, (24, 40, kernel, kernel)).to("cuda", dtype)
    actual = cf.ops.trimmed_conv2d(image, weight, padding=kernel // 2)
    expected = F.conv2d(image.double(), weight.double(), padding=kernel // 2)
    assert torch.equal(actual.double(), expected.to(dtype).double())
    weight = weight.transpose(0, 1).contiguous()
    actual = cf.ops.split_conv_transpose2d(image, weight, None, 2, kernel // 2, 1)
    expected = F.conv_transpose2d(image.double(), weight.double(), None, 2, kernel // 2, 1)
    assert torch.equal(actual.double(), expected.to(dtype).double())


@pytest.mark.parametrize("dtype", (torch.float32, *HALVES), ids=str)
def test_stem_small(dtype: torch.dtype) -> None:
    image = torch.randint(-3, 4, (3, 3, 37, 45)).to("cuda", dtype)
    weight, bias = torch.randint(-1, 2, (24, 3, 3, 3)).to("cuda", dtype), torch.randint(-3, 4, (24,)).to("cuda", dtype)
    actual = cf.ops.conv2d(image, weight, bias, 2, 1)
    assert torch.equal(actual.double(), F.conv2d(image.double(), weight.double(), bias.double(), 2, 1))


def test_random_values_within_the_stated_bound() -> None:
    for case in CASES["depthwise_conv2d"][::7]:
        for dtype in (torch.float32, *HALVES):
            tensors = case.make(dtype, values="normal")
            if tensors["input"].numel():
                reference: Bounded = case.reference(tensors)
                # One rounding more where the activation is torch's own.
                slack = torch.finfo(dtype).eps * reference.value.abs() + reference.error
                assert_within(case.run(on_gpu(tensors, dtype)).cpu(), reference._replace(error=reference.error + slack))


def test_a_captured_graph_gives_the_same() -> None:
    image = torch.randn(4, 64, 28, 28, device="cuda").half().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 8, 3, 3, device="cuda").half()
    expected = cf.ops.conv2d(image, weight, padding=1, groups=8)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        cf.ops.conv2d(image, weight, padding=1, groups=8)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = cf.ops.conv2d(image, weight, padding=1, groups=8)
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, expected)


def test_opcheck() -> None:
    image = torch.randn(2, 16, 9, 9, device="cuda").contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(16, 1, 3, 3, device="cuda", requires_grad=True)
    arguments = (image, weight, None, [1, 1], [1, 1, 1, 1], [1, 1], 16)
    torch.library.opcheck(torch.ops.convfirst.depthwise_conv2d.default, arguments)


def test_a_patched_model_trains() -> None:
    stock = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 16, 5, groups=16)).cuda()
    patched = cf.patch(copy.deepcopy(stock))
    assert {record.kernel for record in cf.explain(patched, torch.randn(1, 16, 12, 12).cuda())} == {"depthwise"}
    image = torch.randn(4, 16, 12, 12, device="cuda")
    for model in (stock, patched):
        model(image).pow(2).sum().backward()
    for a, b in zip(stock.parameters(), patched.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    with torch.autocast("cuda", torch.float16):
        assert patched(image).dtype == torch.float16
