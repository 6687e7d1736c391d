"""fp16 arithmetic in chains: within its error bound, on every kernel, and only where it was asked for.

The kernels here are the ones of this CPU where it has AVX512-FP16, and otherwise those that compute the same values out
of fp32 instructions.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from networks import network, relative_error, with_statistics
from sessions import run_python
from test_fusion import block
from torch import Tensor, nn

import convfirst_ext as cf
from convfirst_ext.apps.classify import load_classifier
from convfirst_ext.apps.photos import preprocess, sample_photos
from convfirst_ext.nn import PackedChain, PackedConv2d
from convfirst_ext.nn.window import FusedWindow
from convfirst_ext.ops import chain

UNIT_ROUNDOFF = 2.0**-11
POINT = FusedWindow((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
NETWORKS = (
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mnasnet_100",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "convnext_atto",
)


@pytest.fixture(autouse=True)
def _emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFIRST_FP16", "emulate")


def half_chains(model: nn.Module) -> list[PackedChain]:
    return [module for module in model.modules() if isinstance(module, PackedChain)]


def dense_image(*shape: int) -> Tensor:
    return torch.randn(*shape).half().contiguous(memory_format=torch.channels_last)


# Single convolutions against their bound

SHAPES = [  # kernel, in, out, groups, R, S, stride, dilation, height, width
    ("pointwise", 1, 1, 1, 1, 1, 1, 1, 3, 5),
    ("pointwise", 16, 16, 1, 1, 1, 1, 1, 7, 7),
    ("pointwise", 95, 33, 1, 1, 1, 1, 1, 5, 9),
    ("pointwise", 96, 48, 1, 1, 1, 1, 1, 6, 6),
    ("pointwise", 97, 40, 1, 1, 1, 1, 1, 13, 11),
    ("pointwise", 1536, 70, 1, 1, 1, 1, 1, 7, 7),
    ("dense", 3, 32, 1, 3, 3, 2, 1, 17, 19),
    ("dense", 3, 24, 1, 4, 4, 4, 1, 16, 20),
    ("dense", 20, 35, 1, 3, 5, 1, 2, 9, 12),
    ("depthwise", 32, 32, 32, 3, 3, 1, 1, 14, 30),
    ("depthwise", 40, 40, 40, 3, 3, 2, 1, 15, 31),
    ("depthwise", 72, 72, 72, 5, 5, 1, 1, 9, 9),
    ("depthwise", 8, 8, 8, 5, 5, 2, 1, 20, 33),
    ("depthwise", 65, 65, 65, 7, 7, 1, 1, 12, 12),
    ("depthwise", 24, 24, 24, 3, 3, 1, 2, 11, 10),
    ("depthwise", 12, 36, 12, 3, 3, 1, 1, 8, 9),
    ("grouped", 64, 64, 8, 3, 3, 1, 1, 10, 15),
    ("grouped", 24, 24, 3, 3, 3, 2, 1, 10, 15),
    ("grouped", 40, 40, 5, 3, 3, 1, 2, 10, 15),
    ("grouped", 64, 64, 2, 3, 3, 1, 1, 6, 7),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}to{s[2]}k{s[4]}x{s[5]}s{s[6]}d{s[7]}")
@pytest.mark.parametrize("data", ["normal", "positive"])
@pytest.mark.parametrize("activation", ["identity", "relu6", "silu"])
def test_a_convolution_is_within_its_bound(shape: tuple, data: str, activation: str) -> None:
    kernel, channels, out_channels, groups, rows, columns, stride, dilation, height, width = shape
    image = dense_image(2, channels, height, width)
    weight = (torch.randn(out_channels, channels // groups, rows, columns) / (rows * columns) ** 0.5).half()
    bias = torch.randn(out_channels).half()
    if data == "positive":  # nothing cancels: the bound is close to the sum itself
        image, weight = image.abs() / 8, weight.abs() / 8
    pad = dilation * (rows - 1) // 2, dilation * (columns - 1) // 2
    sides = None if kernel == "pointwise" else (pad[1], pad[1], pad[0], pad[0])
    window = FusedWindow((rows, columns), (stride, stride), (dilation, dilation), sides or (0, 0, 0, 0))
    module = PackedConv2d(kernel, weight.float(), bias.float(), window, groups, activation)
    step = module.step()
    assert chain.fits_half(step)
    weights = chain.join_weights([step], half=True)
    assert weights.dtype == torch.float16
    actual = chain.run(image, weights, chain.program_of([step], [(0, -1)]), False)
    assert actual.dtype == torch.float16 and actual.is_contiguous(memory_format=torch.channels_last)

    def convolve(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x.double(), w.double(), b.double(), stride, pad, dilation, groups)

    magnitude = convolve(image.abs(), weight.abs(), bias.abs())
    roundings = min(weight[0].numel(), chain.MOST_HALF_PRODUCTS) + 2
    before = roundings * UNIT_ROUNDOFF / (1 - roundings * UNIT_ROUNDOFF) * magnitude + weight[0].numel() * 2**-24
    activate = {"identity": lambda x: x, "relu6": F.relu6, "silu": F.silu}[activation]
    expected = activate(convolve(image, weight, bias))
    bound = 1.1 * before + 2 * UNIT_ROUNDOFF * expected.abs() + 2.0**-14
    assert ((actual.double() - expected).abs() <= bound).all()


def test_long_sums_do_not_get_worse() -> None:
    """Eighths summed in fp16 alone would stop at 256."""
    errors = {}
    for products in (96, 1536, 6144):
        module = PackedConv2d("pointwise", torch.ones(16, products, 1, 1) / 8, None, POINT, 1)
        image = torch.ones(1, products, 1, 2).half().contiguous(memory_format=torch.channels_last)
        weights = chain.join_weights([module.step()], half=True)
        output = chain.run(image, weights, chain.program_of([module.step()], [(0, -1)]), False)
        errors[products] = (output.double() / (products / 8) - 1).abs().max().item()
    assert errors == {96: 0.0, 1536: 0.0, 6144: 0.0}


# Networks


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_nearly_as_good_as_with_fp32_arithmetic(name: str) -> None:
    model = network(name)
    image = torch.randn(3, 3, 97, 64)
    fast = cf.optimize(model, dtype=torch.float16)
    chains = half_chains(fast)
    assert chains and all(chain.multiplies_half and "fp16" in chain.describe() for chain in chains)
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(image.double())
        actual = fast(image)
        assert torch.equal(fast(image[:1]), actual[:1]) and torch.equal(fast(image), actual)
        for links in chains:
            links.multiplies_half = False
            links._join()
        kept = fast(image)
    error, kept_error = relative_error(actual.double(), expected), relative_error(kept.double(), expected)
    assert error < max(8 * kept_error, 0.004)
    assert not torch.equal(actual, kept)  # fp16 arithmetic was really used


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_atto", "mobilenetv3_large_100"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    fast = cf.optimize(network(name), dtype=torch.float16)
    for batch, size in ((1, 97), (3, 64), (5, 33)):
        image = torch.randn(batch, 3, size, size + 5)
        results = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(fast(image))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_real_photos_keep_their_labels() -> None:
    stock = load_classifier()
    fast = cf.optimize(stock, dtype=torch.float16)
    assert all(links.multiplies_half for links in half_chains(fast))
    for photo in sample_photos():
        image = preprocess(photo.image)
        with torch.no_grad():
            expected, actual = stock(image).softmax(1), fast(image).float().softmax(1)
        assert torch.equal(actual.topk(3).indices, expected.topk(3).indices)
        assert (actual - expected).abs().max() < 0.01


def test_portable_kernels_agree() -> None:
    """Emulated with fp32 vectors or with scalars: the same roundings."""
    code = """
import torch, convfirst_ext as cf
from networks import network
fast = cf.optimize(network("mobilenetv3_small_100"), dtype=torch.float16)
assert all(m.multiplies_half for m in fast.modules() if type(m).__name__ == "PackedChain")
torch.manual_seed(0)
print(fast(torch.randn(1, 3, 32, 32)).double().sum(0)[:50].tolist())
"""
    outputs = []
    for isa in ("portable", "avx2", ""):
        session = run_python("-c", code, CONVFIRST_CPU_ISA=isa, CONVFIRST_FP16="emulate")
        assert session.returncode == 0, session.stderr
        outputs.append(torch.tensor(eval(session.stdout)))
    assert torch.equal(outputs[0], outputs[1])
    assert relative_error(outputs[2], outputs[0]) < 0.01  # activations take another way to the same 5e-7


# Where it is used


def small() -> nn.Module:
    return with_statistics(nn.Sequential(block(), nn.ReLU6(), block())).eval()


def test_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(1, 16, 9, 9)
    for dtype, wanted in ((None, False), (torch.float32, False), (torch.bfloat16, False), (torch.float16, True)):
        fast = cf.optimize(small(), dtype=dtype)
        (links,) = half_chains(fast)
        assert links.multiplies_half == wanted and (links.half_weights is not None) == wanted
        assert fast(image).dtype == torch.float32
    (links,) = half_chains(cf.optimize(small().half()))
    assert links.multiplies_half
    assert links(image).dtype == torch.float32 and torch.equal(links(image), links.run_stepwise(image))
    for value in ("off", "native"):
        monkeypatch.setenv("CONVFIRST_FP16", value)
        native = value == "native" and chain.half_arithmetic() == "native"
        (links,) = half_chains(cf.optimize(small(), dtype=torch.float16))
        assert links.multiplies_half == native


def test_the_variable_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVFIRST_FP16", "yes")
    with pytest.raises(ValueError, match="CONVFIRST_FP16 must be native, emulate or off, but is 'yes'"):
        cf.optimize(small(), dtype=torch.float16)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 11, padding=5, groups=16),
        nn.Conv2d(16, 16, 5, padding=2, groups=2),
        nn.Conv2d(48, 48, 3, padding=1, groups=3),
    ],
)
def test_sums_too_long_for_fp16_stay_fp32(layer: nn.Conv2d) -> None:
    before, after = nn.Conv2d(16, layer.in_channels, 1), nn.Conv2d(layer.out_channels, 8, 1)
    model = nn.Sequential(before, layer, after, nn.Conv2d(8, 8, 1))
    image = torch.randn(1, 16, 12, 12).half()
    (links,) = half_chains(cf.optimize(model, dtype=torch.float16))
    assert not links.multiplies_half
    with torch.no_grad():
        assert relative_error(links(image).float(), model.float()(image.float())) < 0.005


def test_weights_beyond_fp16_stay_fp32() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
    with torch.no_grad():
        model[1].weight[0, 0] = 1e5
    (links,) = half_chains(cf.optimize(model, dtype=torch.float16))
    assert not links.multiplies_half


def test_copies_and_new_weights() -> None:
    image = dense_image(1, 16, 9, 9)
    (links,) = half_chains(cf.optimize(small(), dtype=torch.float16))
    for twin in (copy.deepcopy(links), pickle.loads(pickle.dumps(links))):
        assert twin.multiplies_half and torch.equal(twin(image), links(image))
    other = copy.deepcopy(links)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(links.state_dict())
    assert torch.equal(other(image), links(image))
    assert set(links.state_dict()) == set(half_chains(cf.optimize(small()))[0].state_dict())


def test_the_compile_backend() -> None:
    torch.compiler.reset()
    model = small().half()
    image = torch.randn(1, 16, 9, 9).half()
    (links,) = half_chains(cf.optimize(model))
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="convfirst")(image), links(image))


def test_export() -> None:
    fast = cf.optimize(network("mobilenetv3_small_100"), dtype=torch.float16)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exported = torch.export.export(fast, (image,)).module()
        assert torch.equal(exported(image), fast(image))


# What does not fit


def test_wrong_calls() -> None:
    module = PackedConv2d("pointwise", torch.randn(8, 8, 1, 1), None, POINT, 1)
    program = chain.program_of([module.step()], [(0, -1)])
    weights = chain.join_weights([module.step()], half=True)
    image = dense_image(1, 8, 4, 4)
    with pytest.raises(RuntimeError, match="input must have dtype float16"):
        chain.run(image.float(), weights, program, False)
    with pytest.raises(RuntimeError, match="weights must have dtype float32 or float16"):
        chain.run(image, weights.bfloat16(), program, False)
    with pytest.raises(RuntimeError, match="weights must have as many elements .* too few"):
        chain.run(image, weights[:-1], program, False)
    wide = PackedConv2d(
        "depthwise", torch.randn(8, 1, 11, 11), None, FusedWindow((11, 11), (1, 1), (1, 1), (5, 5, 5, 5)), 8
    )
    with pytest.raises(RuntimeError, match="weight must have at most 96 products"):
        program = chain.program_of([wide.step()], [(0, -1)])
        chain.run(image, chain.join_weights([wide.step()], half=True), program, False)
