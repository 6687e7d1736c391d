"""Measures how much memory inference needs on top of the loaded network, in a process of its own.

The process loads the network, gives unused memory back, resets the kernel's high-water mark of resident
memory (Linux: "5" written to /proc/self/clear_refs), runs an inference and reads the mark again (VmHWM). The
C library is told to map every block of 64 KiB or more by itself, so that a freed activation leaves the
resident memory at once and the mark shows what was alive at the same time. The first inference's growth holds
all that the network needs: activations, scratch memory, cached kernels, library code it touches. What of
this stays is not in a later inference's growth, which shows activations and passing scratch memory alone.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .classify import load_classifier
from .photos import IMAGE_SIZE

VARIANTS = ("stock", "fused")
_INFERENCES = 3
_RESET_TOLERANCE = 1 << 20
# What the environment of a measured process must have when it starts.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# The child must find the modules this process found, wherever it was started.
_CHILD = """
import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
from convfirst_ext.apps.memory import main
main()
"""


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of resident memory at their highest during inference.

    Attributes:
        first: in the first inference, above what the process held with the network loaded.
        later: in a later inference, above what the process held just before it.
        process: at any time, everything: Python, PyTorch's libraries, the network and its inferences.
    """

    first: int
    later: int
    process: int


def measure_peak_memory(variant: str, threads: int, dtype: str = "float32") -> PeakMemory | None:
    """Runs EfficientNet-Lite0 at batch 1 in a new process and measures its memory.

    Args:
        variant: "stock" (PyTorch eager, float32) or "fused" (convfirst_ext.optimize).
        threads: what torch.set_num_threads gets there.
        dtype: what optimize gets, by name.

    Returns:
        The peak, or None where the system does not keep count as Linux does.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; it must be one of {', '.join(VARIANTS)}")
    if not _CLEAR_REFS.exists():
        return None
    command = [sys.executable, "-c", _CHILD, "\n".join(sys.path), variant, str(threads), dtype]
    child = subprocess.run(command, env=os.environ | ALLOCATOR, stdout=subprocess.PIPE, text=True)
    if child.returncode:
        raise RuntimeError(f"measuring the memory of {variant} ended with status {child.returncode}")
    peak = json.loads(child.stdout.splitlines()[-1])
    return PeakMemory(**peak) if peak else None


def main() -> None:
    """Measures in this process and prints JSON: the child's side of measure_peak_memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("threads", type=int)
    parser.add_argument("dtype")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    peak = measure_growth(partial(_load(arguments.variant, getattr(torch, arguments.dtype)), image))
    print(json.dumps(asdict(peak) if peak else None))


def _load(variant: str, dtype: torch.dtype) -> nn.Module:
    model = load_classifier()
    if variant == "stock":
        return model
    from convfirst_ext import optimize

    return optimize(model, dtype=dtype)


@torch.inference_mode()
def measure_growth(call: Callable[[], object]) -> PeakMemory | None:
    """Calls it a few times in this process, which should have started with `ALLOCATOR` in its environment.

    Returns:
        The peak, or None where the system does not keep count as Linux does.
    """
    growths, peaks = [], []
    for _ in range(_INFERENCES):
        before = _reset_mark()
        if before is None:
            return None
        call()
        peaks.append(_resident("VmHWM"))
        growths.append(max(0, peaks[-1] - before))
    return PeakMemory(first=growths[0], later=max(growths[1:]), process=max(peaks))


def _reset_mark() -> int | None:
    """Gives unused memory back and makes what is resident now, which it returns, the high-water mark."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return None
    resident = _resident("VmRSS")
    # Some sandboxes accept the write and leave the mark where it was.
    return resident if _resident("VmHWM") <= resident + _RESET_TOLERANCE else None


def _resident(field: str) -> int:
    """One of the kernel's counts of this process's resident memory, which it gives in KiB, as bytes."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{_STATUS} has no {field}")
