"""The emulator itself: right kernels give right results in any order of threads, and every kind of fault is found."""

import ctypes
import re

import pytest
import torch
from emulated_calls import Buffer, buffer_of
from torch import Tensor

REVERSE, EXCHANGE, COPY_LATER, MULTIPLY, COUNT, ADD_UP_CLUSTER = 0, 1, 2, 3, 7, 8
PRODUCTS = [(torch.float16, 8), (torch.float16, 16), (torch.bfloat16, 8), (torch.bfloat16, 16)]


def run(library: ctypes.CDLL, kind: int, tensors: list[Tensor], size: int, fault: int = 0) -> str | None:
    """What the emulator found, or None."""
    library.run_trial.restype = ctypes.c_char_p
    buffers = (Buffer * 3)(*map(buffer_of, tensors))
    found = library.run_trial(kind, buffers, size, fault)
    return found.decode() if found else None


def vectors(size: int) -> list[Tensor]:
    return [torch.randn(size), torch.zeros(1, dtype=torch.int32), torch.full((size,), float("nan"))]


def test_barriers_and_shared_memory(emulator: ctypes.CDLL) -> None:
    tensors = vectors(96)
    assert run(emulator, REVERSE, tensors, 96) is None
    assert torch.equal(tensors[2], tensors[0].flip(0))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (1, r"race on byte \d+ of shared memory: .* wrote it|nobody wrote it"),
        (2, r"race on byte \d+ of shared memory: .* (read|reads) it"),
        (3, r"out of bounds: thread \(95, 0, 0\).* reads bytes \[384, 388\) of a tensor of 384 bytes"),
        (4, r"out of bounds: thread \(0, 0, 0\).* reads bytes \[-4, 0\)"),
        (5, r"divergent barrier"),
        (6, r"byte \d+ of shared memory is read, but nobody wrote it"),
        (7, r"race on byte \d+ of a tensor: .* wrote it and .* writes it"),
    ],
)
def test_faults_with_barriers_and_bounds_are_found(emulator: ctypes.CDLL, fault: int, message: str) -> None:
    found = run(emulator, REVERSE, vectors(96), 96, fault)
    assert found is not None and re.search(message, found), found


def test_bounds_end_where_a_tensor_does_not_where_its_memory_does(emulator: ctypes.CDLL) -> None:
    whole, _, out = vectors(128)
    tensors = [whole[16:112], torch.zeros(1), out[16:112]]
    assert run(emulator, REVERSE, tensors, 96) is None
    for fault in (3, 4):
        assert "out of bounds" in (run(emulator, REVERSE, tensors, 96, fault) or "")


def test_lanes_of_a_warp_need_a_barrier_too(emulator: ctypes.CDLL) -> None:
    tensors = vectors(64)
    assert run(emulator, EXCHANGE, tensors, 64) is None
    assert torch.equal(tensors[2], tensors[0].view(32, 2).flip(1).flatten())
    found = run(emulator, EXCHANGE, vectors(64), 64, 1)
    assert found is not None and ("race" in found or "nobody wrote" in found)


def test_asynchronous_copies(emulator: ctypes.CDLL) -> None:
    tensors = vectors(256)
    assert run(emulator, COPY_LATER, tensors, 256) is None
    assert torch.equal(tensors[2], tensors[0])
    assert run(emulator, COPY_LATER, tensors, 256, 5) is None  # the second half is filled with zeros
    assert torch.equal(tensors[2][:128], tensors[0][:128]) and not tensors[2][128:].any()


@pytest.mark.parametrize("fault", [1, 2, 3, 4])
def test_copies_that_nobody_waited_for_are_found(emulator: ctypes.CDLL, fault: int) -> None:
    found = run(emulator, COPY_LATER, vectors(256), 256, fault)
    never = "asynchronous copy that nobody has waited for|left before its asynchronous copies arrived"
    too_early = "race|nobody wrote|nobody has waited for"
    assert found is not None and re.search(too_early if fault == 3 else never, found), found


def product(emulator: ctypes.CDLL, kind: int, fault: int) -> tuple[str | None, bool]:
    dtype, depth = PRODUCTS[kind]
    a, b = torch.randn(16, depth).to(dtype), torch.randn(depth, 8).to(dtype)
    out = torch.full((16, 8), float("nan"))
    found = run(emulator, MULTIPLY + kind, [a, b, out], depth, fault)
    return found, torch.allclose(out, a.float() @ b.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", range(4))
def test_matrix_products(emulator: ctypes.CDLL, kind: int) -> None:
    assert product(emulator, kind, 0) == (None, True)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("fault", [1, 2, 4])
def test_wrong_fragments_give_wrong_products(emulator: ctypes.CDLL, kind: int, fault: int) -> None:
    assert product(emulator, kind, fault) == (None, False)


def test_a_product_without_all_lanes_is_found(emulator: ctypes.CDLL) -> None:
    found, _ = product(emulator, 0, 3)
    assert found is not None and found.startswith("deadlock") and "mma" in found


def test_shuffles_votes_and_atomics(emulator: ctypes.CDLL) -> None:
    values, counter, out = torch.randn(32), torch.zeros(1, dtype=torch.int32), torch.full((2,), float("nan"))
    assert run(emulator, COUNT, [values, counter, out], 32) is None
    assert out[0].item() == pytest.approx(values.sum().item(), abs=1e-5)
    assert out[1].item() == counter.item() == (values > 0).sum().item()


def test_clusters_share_their_memory(emulator: ctypes.CDLL) -> None:
    tensors = vectors(8 * 64)
    assert run(emulator, ADD_UP_CLUSTER, tensors, 64) is None
    sums = tensors[0].view(2, 4, 64).sum(1, keepdim=True).expand(2, 4, 64).flatten()
    torch.testing.assert_close(tensors[2], sums)


@pytest.mark.parametrize(("fault", "messages"), [(1, ("race", "nobody wrote")), (2, ("left already",))])
def test_faults_of_clusters_are_found(emulator: ctypes.CDLL, fault: int, messages: tuple[str, ...]) -> None:
    found = run(emulator, ADD_UP_CLUSTER, vectors(8 * 64), 64, fault)
    assert found is not None and any(message in found for message in messages), found
