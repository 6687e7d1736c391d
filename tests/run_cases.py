"""A process of its own that runs operator cases: for settings read at load time, and for tests that may crash.

Every case is named on stdout before it runs, so that a crash tells where it happened.
"""

import argparse
import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from convfirst_ext import _native
from convfirst_ext.ops import packed
from convfirst_ext.testing import OpCase, assert_exact, assert_within, sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PAGE = mmap.PAGESIZE
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class GuardedMemory:
    """Tensors whose memory touches a page that must not be accessed, at its ``end`` or at its ``begin``."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._regions: list[mmap.mmap] = []

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy with the same dense strides."""
        size = tensor.numel() * tensor.element_size()
        if size == 0:
            return tensor
        pages = -(-size // PAGE)
        region = mmap.mmap(-1, (pages + 2) * PAGE)
        self._regions.append(region)
        view = (ctypes.c_char * len(region)).from_buffer(region)
        address = ctypes.addressof(view)
        for guard in (address, address + (pages + 1) * PAGE):
            if _libc.mprotect(guard, PAGE, PROT_NONE) != 0:
                raise OSError(ctypes.get_errno(), "mprotect failed")
        offset = PAGE if self._side == "begin" else (pages + 1) * PAGE - size
        flat = torch.frombuffer(view, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
        copied = flat.as_strided(tensor.shape, tensor.stride())
        return copied.copy_(tensor)

    def forget(self) -> None:
        """Makes the pages accessible again, for whoever looks at the memory last."""
        for region in self._regions:
            view = (ctypes.c_char * len(region)).from_buffer(region)
            _libc.mprotect(ctypes.addressof(view), len(region), mmap.PROT_READ | mmap.PROT_WRITE)
        self._regions.clear()


@contextmanager
def packing_into(memory: GuardedMemory) -> Iterator[None]:
    """Packed weights and biases lie in guarded memory too."""
    pack_weight, pack_bias = packed.pack_weight, packed.pack_bias
    packed.pack_weight = lambda weight: memory.copy(pack_weight(weight))
    packed.pack_bias = lambda bias, channels: memory.copy(pack_bias(bias, channels))
    try:
        yield
    finally:
        packed.pack_weight, packed.pack_bias = pack_weight, pack_bias


def run_guarded(case: OpCase, dtype: torch.dtype, side: str) -> None:
    tensors = case.make(dtype)
    reference = case.reference(tensors)
    memory = GuardedMemory(side)
    with packing_into(memory):
        for layout in (torch.contiguous_format, torch.channels_last):
            given = {
                name: memory.copy(t.contiguous(memory_format=layout) if t.dim() == 4 else t)
                for name, t in tensors.items()
            }
            check(case, case.run(given), reference)
    memory.forget()


def check(case: OpCase, actual: Tensor, reference) -> None:
    (assert_exact if case.is_exact else assert_within)(actual, reference)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="take every n-th case")
    parser.add_argument("--guard", choices=("begin", "end"))
    parser.add_argument("--stream", action="store_true", help="results pass the caches")
    options = parser.parse_args()
    if options.stream:
        _native.force_tiles(streams=1)
    torch.set_num_threads(2)
    for case in sample(options.every):
        for dtype in DTYPES:
            print(case, dtype, flush=True)
            if options.guard:
                run_guarded(case, dtype, options.guard)
            else:
                tensors = case.make(dtype)
                check(case, case.run(tensors), case.reference(tensors))
    print("done", flush=True)


if __name__ == "__main__":
    main()
