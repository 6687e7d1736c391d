"""Chains: equal to their modules one by one, on any number of threads, and no program makes them read astray."""

import copy
import io
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from contract import DTYPES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import network, relative_error, with_statistics
from test_fusion import block
from torch import Tensor, nn

import convfirst_ext as cf
from convfirst_ext.nn import PackedChain, PackedConv2d, PackedMBConv
from convfirst_ext.nn.packed_chain import Link
from convfirst_ext.ops import chain

NAMES = ("efficientnet_b0", "mobilenetv2_100", "convnext_atto", "tv:mobilenet_v3_large")


def chain_of(model: nn.Module) -> PackedChain:
    """The one chain of an optimized model."""
    (found,) = [module for module in cf.optimize(model).modules() if isinstance(module, PackedChain)]
    return found


def small(flat: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)] if flat else []
    return with_statistics(nn.Sequential(block(), nn.ReLU6(), block(), *tail)).eval()


@pytest.fixture(scope="module")
def whole() -> PackedChain:
    return chain_of(small())


@pytest.mark.parametrize("name", NAMES)
def test_equals_its_modules_one_by_one(name: str) -> None:
    links = chain_of(network(name))
    for dtype in DTYPES:
        for batch in (1, 3, 7):
            image = torch.randn(batch, 3, 65, 49).to(dtype)
            expected = links.run_stepwise(image.float()).to(dtype)  # values between the modules are float32
            shifted = torch.randn(batch, 3, 65, 60).to(dtype)[:, :, :, 5:54].copy_(image)
            for given_image in (image, image.contiguous(memory_format=torch.channels_last), shifted):
                assert torch.equal(links(given_image), expected)


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnext_atto"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    links = chain_of(network(name))
    for dtype in DTYPES:
        image = torch.randn(3, 3, 96, 64).to(dtype)
        results = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            results.append(links(image))
        assert all(torch.equal(results[0], result) for result in results[1:])


class _EarlyLayers(nn.Module):
    """What a network does to a large image: values that leave the cache, a residual, uneven strides and padding."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, (3, 5), 2, padding), nn.ReLU())
        self.separable = nn.Sequential(
            nn.Conv2d(16, 16, 5, (2, 1), (1, 3), groups=16), nn.ReLU6(), nn.Conv2d(16, 16, 1), nn.Hardswish()
        )
        self.same, self.last = block(), block(stride=2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.separable(self.stem(image))
        return self.last(x + self.same(x))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("batch", [1, 3])
def test_layers_of_a_large_image_equal_themselves_one_by_one(padding: int, batch: int) -> None:
    torch.manual_seed(0)
    model = with_statistics(_EarlyLayers(padding)).eval()
    links = chain_of(model)
    for height in (601, 67):  # the values of the larger one leave any second-level cache
        image = torch.randn(batch, 3, height, 320)
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(links(image))
        assert torch.equal(results[0], links.run_stepwise(image))
        assert torch.equal(results[0], results[1])
        with torch.inference_mode():
            assert relative_error(results[0], model(image)) < 1e-5
        for dtype in (torch.bfloat16, torch.float16):
            rounded = image.to(dtype)
            assert torch.equal(links(rounded), links.run_stepwise(rounded.float()).to(dtype))


@pytest.mark.parametrize("flat", [False, True])
def test_an_empty_batch(flat: bool) -> None:
    links = chain_of(small(flat))
    image = torch.randn(0, 16, 9, 9)
    assert links(image).shape == ((0, 5) if flat else (0, 16, 9, 9))
    assert links.profile(image)[1] == [0.0] * len(links.links)


def test_profile_gives_a_time_per_step(whole: PackedChain) -> None:
    image = torch.randn(2, 16, 9, 9)
    output, seconds = whole.profile(image)
    assert torch.equal(output, whole(image))
    assert len(seconds) == len(whole.links) == 4 and all(second > 0 for second in seconds)


# Wiring


class _Wired(nn.Module):
    """What is added has another source than the block's input, or another shape than its result."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second, self.third = block(), block(), block()
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.classifier = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.kind == "own input read again":
            return self.stem(x[:, :3]) + x[:, :3]
        a = self.first(x)
        b = self.second(a)
        if self.kind == "earlier value":
            return self.third(b) + a
        if self.kind == "chain's input":
            return self.third(b) + x
        if self.kind == "broadcast":
            return self.third(b) + b.mean((2, 3), keepdim=True)
        features = b.mean((2, 3), keepdim=True).flatten(1)
        return self.classifier(features), features


@pytest.mark.parametrize("kind", ["own input read again", "earlier value", "chain's input", "broadcast", "features"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_residual_wiring(kind: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    model = with_statistics(_Wired(kind)).eval()
    image = torch.randn(2, 16, 9, 7)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        actual, expected = cf.optimize(model)(image), model(image)
    pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
    assert all(ours.shape == stock.shape and relative_error(ours, stock) < 1e-5 for ours, stock in pairs)


def test_a_planar_input_that_others_read_too_is_converted() -> None:
    stem = cf.optimize(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)))
    (module,) = [found for found in stem.modules() if isinstance(found, PackedConv2d)]
    twin = copy.deepcopy(module)
    links = PackedChain([Link(module, 0, -1), Link(twin, 1, 0)])
    image = torch.randn(2, 3, 6, 5)
    assert not links.reads_planar and torch.equal(links(image), links.run_stepwise(image))


# Copies


def test_copies_and_files(whole: PackedChain) -> None:
    image = torch.randn(2, 16, 9, 9)
    buffer = io.BytesIO()
    torch.save(whole, buffer)
    buffer.seek(0)
    pickled = pickle.dumps(whole)
    assert len(pickled) < 2 * whole.weights.nbytes  # the weights once, and not once a module
    twins = copy.deepcopy(whole), pickle.loads(pickled), torch.load(buffer, weights_only=False)
    for twin in twins:
        assert torch.equal(twin(image), whole(image))
        twin.get_submodule("links.0").get_buffer("project_bias").add_(1)  # still a view of the chain's weights
        assert torch.equal(twin(image), twin.run_stepwise(image)) and not torch.equal(twin(image), whole(image))


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict(whole: PackedChain, assign: bool) -> None:
    image = torch.randn(2, 16, 9, 9)
    other = copy.deepcopy(whole)
    for buffer in other.buffers():
        buffer.zero_()
    assert not torch.equal(other(image), whole(image))
    assert other.load_state_dict(whole.state_dict(), assign=assign) == ([], [])
    assert torch.equal(other(image), whole(image)) and torch.equal(other.run_stepwise(image), whole(image))


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, lambda module: module.to(torch.float16)])
def test_weights_stay_float32(whole: PackedChain, convert) -> None:
    image = torch.randn(2, 16, 9, 9)
    other = convert(copy.deepcopy(whole))
    assert relative_error(other(image), whole(image)) < 0.02  # they are rounded on the way
    assert torch.equal(other(image), other.run_stepwise(image))
    assert all(buffer.dtype == torch.float32 for buffer in other.buffers())


# Callers


@pytest.mark.parametrize("threads", [1, 2])
def test_python_threads_call_at_the_same_time(whole: PackedChain, threads: int) -> None:
    torch.set_num_threads(threads)
    images = [torch.randn(1 + i % 3, 16, 9, 9 + i) for i in range(6)]
    expected = [whole(image) for image in images]
    barrier = threading.Barrier(3)

    def work(_: int) -> list[Tensor]:
        barrier.wait(timeout=20)
        return [whole(image) for _ in range(20) for image in images]

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(work, range(3)))
    assert all(
        torch.equal(given, wanted) for many in results for given, wanted in zip(many, 20 * expected, strict=True)
    )


def test_a_forked_child_and_its_parent_run_chains(whole: PackedChain) -> None:
    torch.set_num_threads(2)
    image = torch.randn(2, 16, 9, 9)
    expected = whole(image)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if torch.equal(whole(image), expected) else 2
        finally:
            os._exit(code)
    assert torch.equal(whole(image), expected)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(whole(image), expected)


# What does not fit


def _program(
    residual: int = -1,
    out_channels: int = 16,
    kind: int = chain.CONVOLUTION,
    source: int = 0,
    sum_activation: int = 0,
) -> str:
    window = chain.window_integers((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    numbers = (kind, source, residual, chain.KERNELS.index("pointwise"), out_channels, 1, *window, 0, sum_activation)
    return " ".join(map(str, numbers))


IMAGE = torch.randn(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
WEIGHTS = torch.randn(16 * 16 + 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": ""}, "program must have at least one step"),
        ({"program": "x"}, "program must be whole numbers"),
        ({"program": _program()[:-2]}, "not end inside a step"),
        ({"program": _program(kind=6)}, "program must have a kind of 0 to 5, but has 6"),
        ({"program": "5 0 0 2 1"}, "must blur two images where it takes one beside another"),
        ({"program": "5 0 -1 2 2"}, "must blur two images where it takes one beside another"),
        ({"program": _program(source=1)}, "program must have a value of 0 to 0, but has 1"),
        ({"program": _program(source=-1)}, "program must have a value"),
        ({"program": _program(residual=1)}, "program must add an earlier value, but adds 1"),
        ({"program": _program(residual=-2)}, "program must add an earlier value"),
        ({"program": _program(sum_activation=3)}, "program must have identity, relu or relu6 behind a sum"),
        ({"program": _program(out_channels=0)}, "program must have out_channels of 1 to"),
        ({"program": _program(out_channels=10**30)}, "program must have out_channels of 1 to"),
        ({"program": _program(out_channels=17)}, "weights must have as many elements .* too few"),
        ({"weights": WEIGHTS[:-1]}, "too few"),
        ({"weights": torch.randn(300)}, "has more"),
        ({"weights": WEIGHTS.double()}, "weights must"),
        ({"weights": torch.randn(544)[::2]}, "weights must"),
        ({"input": torch.randn(1, 16, 4, 4)}, "input must be dense in channels_last"),
        ({"input": torch.randn(16, 4, 4)}, "input must"),
        ({"input": IMAGE.double()}, "input must"),
        ({"flat": True}, "flat must be false for a result of 4x4"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    arguments = {"input": IMAGE, "weights": WEIGHTS, "program": _program(), "flat": False}
    chain.run(**arguments)
    for call in (chain.run, chain.profile):
        with pytest.raises(RuntimeError, match=message):
            call(**(arguments | change))


quick = settings(
    max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
FUZZED = chain_of(small())
numbers = st.integers(-2, 40) | st.sampled_from([-(2**63), 2**31, 2**32 + 1, 2**63 - 1, 2**70])


@quick
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 10**4), numbers | st.sampled_from(["", "x", "1e9", "\0", "+3"])), max_size=3
    ),
    length=st.none() | st.integers(0, 10**4),
    size=st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 15, 16, 17]), st.integers(0, 9), st.integers(0, 9)),
    floats=st.none() | st.integers(0, 10**4),
)
def test_garbled_programs_run_or_are_refused(changes, length: int | None, size, floats: int | None) -> None:
    words = FUZZED.program.split()
    for position, word in changes:
        words[position % len(words)] = str(word)
    program = " ".join(words)
    program = program if length is None else program[: length % len(program)]
    weights = FUZZED.weights if floats is None else FUZZED.weights[: floats % (FUZZED.weights.numel() + 1)].clone()
    image = torch.zeros(size).contiguous(memory_format=torch.channels_last)
    try:
        output = chain.run(image, weights, program, False)
    except RuntimeError as error:
        assert "must" in str(error), error
    else:
        assert output.shape[0] == size[0]


def test_blocks_are_found_inside_the_chain(whole: PackedChain) -> None:
    kinds = chain.kinds_of(whole.program)
    assert kinds == [chain.FUSED_BLOCK, chain.FUSED_BLOCK, chain.GLOBAL_POOL, chain.CONVOLUTION]
    assert sum(isinstance(module, PackedMBConv) for module in whole.links) == 2
