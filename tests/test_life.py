"""What happens to models around their calls: copies, other threads and processes, memory, and Ctrl-C."""

import copy
import gc
import io
import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from sessions import start_python
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import convfirst_ext as cf

IMAGE = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """An inverted residual, so that networks of these become one chain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()),
            *(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()),
            *(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, input: Tensor) -> Tensor:
        return input + self.layers(input)


def network() -> nn.Module:
    """All of it becomes one chain."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*stem, Block(16), Block(16), *head)


@cache
def fast() -> nn.Module:
    return cf.optimize(network().eval())


def operators() -> list[Tensor]:
    """An operator of every family on torch's threads."""
    generator = torch.Generator().manual_seed(0)
    image, dense = torch.randn(2, 16, 24, 24, generator=generator), torch.randn(16, 16, 3, 3, generator=generator)
    return [
        cf.ops.depthwise_conv2d(image, dense[:, :1], padding=1),
        cf.ops.trimmed_conv2d(image, dense, padding=1),
        cf.ops.conv_transpose2d(image, dense, stride=2),
        cf.ops.strided_weight_grad(image, (16, 16, 3, 3), image, padding=1),
    ]


def everything() -> list[Tensor]:
    return [fast()(IMAGE), *operators()]


def same(results: list[Tensor], expected: list[Tensor]) -> bool:
    return all(map(torch.equal, results, expected))


# Threads


def test_threads_that_call_one_optimized_model_get_equal_results() -> None:
    images = [IMAGE.roll(shift, 3) for shift in range(8)]
    expected = [fast()(image) for image in images]

    def call(index: int) -> bool:
        torch.set_num_threads(1 + index % 3)
        return torch.equal(fast()(images[index % 8]), expected[index % 8])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(200)))


def test_the_number_of_threads_may_change_between_calls() -> None:
    expected = everything()
    for threads in (1, 4, 2, 7, 1, 3):
        torch.set_num_threads(threads)
        assert same(everything(), expected)


def test_a_patched_model_is_called_by_several_threads() -> None:
    model = cf.patch(network()).eval()
    with torch.no_grad():
        expected = model(IMAGE)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(out, expected) for out in pool.map(torch.no_grad()(lambda _: model(IMAGE)), range(50)))


# Processes


class Results(Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> list[Tensor]:
        return everything()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_after_the_parent_has_called(method: str) -> None:
    """Spawned workers get the model by pickling; forked ones find the parent's threads gone."""
    expected = everything()
    workers = DataLoader(Results(), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=60)
    for results in workers:
        assert same(results, expected)
    assert same(everything(), expected)


def _call_in_child(queue: "multiprocessing.SimpleQueue[bool]", expected: Tensor) -> None:
    assert torch.get_num_threads() == 2
    queue.put(torch.equal(fast()(IMAGE), expected))


def test_a_forked_process_may_call_a_chain_with_several_threads() -> None:
    """Where torch's own operators hang: OpenMP's threads do not come along, and nobody starts new ones."""
    torch.set_num_threads(2)
    expected = fast()(IMAGE)
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        queue = context.SimpleQueue()
        child = context.Process(target=_call_in_child, args=(queue, expected))
        child.start()
        child.join(30)
        if child.is_alive():
            child.kill()
        assert child.exitcode == 0 and queue.get()
        assert torch.equal(fast()(IMAGE), expected)


# Copies


def modules() -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {
        "optimized": fast(),
        "patched": cf.patch(network()).eval(),
        "optimized stock without chain": cf.optimize(nn.Sequential(nn.Conv2d(3, 8, 1)).eval()),
        "ConvFirst": nn.Sequential(nn.Conv2d(3, 16, 1), cf.nn.ConvFirst(16, 16), cf.nn.ConvFirst(16, 24, stride=2)),
        "MBConv": nn.Sequential(nn.Conv2d(3, 16, 1), cf.nn.MBConv(16, 16), cf.nn.MBConv(16, 24, stride=2)),
        "DepthwiseSeparableConv2d": cf.nn.DepthwiseSeparableConv2d(3, 8, 3),
        "Conv2d": cf.nn.Conv2d(3, 8, 3),
        "ConvTranspose2d": cf.nn.ConvTranspose2d(3, 8, 3, stride=2),
        "BlurPool": cf.nn.BlurPool(3),
        "DropPath": cf.nn.DropPath(0.5),
        "SqueezeExcite": cf.nn.SqueezeExcite(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 1), nn.Sigmoid()),
    }
    made["optimized blocks"] = cf.optimize(nn.Sequential(made["ConvFirst"], cf.nn.MBConv(24, 24)).eval())
    made["optimized ConvTranspose2d"] = cf.optimize(nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU()).eval())
    return {name: module.eval() for name, module in made.items()}


@pytest.mark.parametrize("name", list(modules()))
def test_copies_compute_the_same_and_are_apart(name: str) -> None:
    original = modules()[name]
    stream = io.BytesIO()
    with torch.no_grad():
        expected = original(IMAGE)
        torch.save(original, stream)
        stream.seek(0)
        for copied in (
            copy.deepcopy(original),
            pickle.loads(pickle.dumps(original)),
            torch.load(stream, weights_only=False),
        ):
            assert type(copied) is type(original) or isinstance(original, torch.fx.GraphModule)
            assert torch.equal(copied(IMAGE), expected)
            for tensor in [*copied.parameters(), *copied.buffers()]:
                tensor.zero_()
            assert torch.equal(original(IMAGE), expected)


# Memory


counts_memory = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's count of memory")


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_deleted_model_is_freed() -> None:
    model = cf.optimize(network().eval())
    chains = [part for part in model.modules() if isinstance(part, cf.nn.PackedChain)]
    model(IMAGE)
    watched = [weakref.ref(model), *(weakref.ref(chain.weights) for chain in chains)]
    assert len(watched) == 2
    del model, chains
    gc.collect()
    assert [reference() for reference in watched] == [None, None]


@counts_memory
def test_loading_and_deleting_large_models_keeps_no_memory() -> None:
    def once() -> None:
        cf.optimize(nn.Sequential(nn.Conv2d(3, 512, 1), nn.Conv2d(512, 4096, 1), nn.Conv2d(4096, 64, 1)).eval())(IMAGE)
        gc.collect()

    for _ in range(3):
        once()
    before = resident_bytes()
    for _ in range(8):
        once()
    assert resident_bytes() - before < 16 << 20  # one model holds nine megabytes, its values 38


@counts_memory
def test_ten_thousand_calls_keep_no_memory() -> None:
    torch.set_num_threads(2)
    weight = torch.randn(8, 1, 3, 3)
    images = [torch.randn(1, 3, size, size) for size in (8, 16, 12, 20, 9)]
    small = torch.randn(1, 8, 6, 6)

    def call(times: int) -> None:
        for index in range(times):
            cf.ops.depthwise_conv2d(small, weight)
            fast()(images[index % len(images)])

    call(1000)
    before = resident_bytes()
    call(10_000)
    assert resident_bytes() - before < 4 << 20


# Signals


@pytest.fixture
def control_c() -> Iterator[None]:
    """Python's handler of Ctrl-C, which is not there where the tests run in the background of a shell script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@cache
def long_batch() -> tuple[Tensor, float]:
    """Images on which the network takes more than a second, and how long it takes."""
    images, seconds = IMAGE.repeat(64, 1, 4, 4), 0.0
    while seconds < 1.0:
        images = torch.cat([images, images])
        start = time.perf_counter()
        fast()(images)
        seconds = time.perf_counter() - start
    return images, seconds


@pytest.mark.usefixtures("control_c")
def test_control_c_ends_a_long_call_of_an_optimized_model() -> None:
    images, whole = long_batch()
    start = time.perf_counter()
    timer = interrupt_after(0.2)
    with pytest.raises(KeyboardInterrupt):
        fast()(images)
    assert time.perf_counter() - start < 0.2 + max(0.4, whole / 3)
    timer.join()
    assert torch.equal(fast()(IMAGE), fast()(IMAGE))


def test_a_handler_that_raises_nothing_is_run_and_the_call_goes_on() -> None:
    images, whole = long_batch()
    expected, seen = fast()(images), []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(time.perf_counter()))
    try:
        start = time.perf_counter()
        timer = interrupt_after(0.1)
        result = fast()(images)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.equal(result, expected) and seen[0] - start < 0.1 + max(0.4, whole / 3)


@pytest.mark.usefixtures("control_c")
def test_another_threads_call_goes_on_when_the_main_thread_is_interrupted() -> None:
    images, _ = long_batch()
    expected = fast()(images)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fast(), images)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        assert torch.equal(running.result(), expected)


def test_a_script_ends_by_control_c_with_pythons_message() -> None:
    script = (
        "import signal, torch, convfirst_ext as cf\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "fast = cf.optimize(torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 64, 1)).eval())\n"
        "images = torch.zeros(64, 3, 128, 128)\n"
        "print('ready', flush=True)\n"
        "while True: fast(images)\n"
    )
    process = start_python("-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors.strip().endswith("KeyboardInterrupt") and "interrupted by a signal" not in errors
