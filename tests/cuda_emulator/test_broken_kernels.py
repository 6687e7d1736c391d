"""Real kernels with one thing taken out or changed: the checks of the emulator must find it."""

import ctypes
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import emulated
import pytest
import torch
import torch.nn.functional as F
from emulated_calls import Buffer, buffer_of


class Break(NamedTuple):
    """What is replaced in the sources of a kernel, and what must be found: a message, or "" for a wrong result."""

    kernel: str
    file: str
    before: str
    after: str
    message: str


BREAKS = {
    "right": Break("depthwise", "depthwise_conv2d.cuh", "__syncthreads();", "__syncthreads();", "nothing"),
    "no barrier": Break("depthwise", "depthwise_conv2d.cuh", "__syncthreads();", "", "race|nobody (wrote|has waited)"),
    "no wait": Break("depthwise", "depthwise_conv2d.cuh", "wait_copies<0>();", "", "asynchronous cop(y|ies)"),
    "no edge": Break("depthwise", "row_ring.cuh", "x >= 0 && x < w", "x < w", "out of bounds"),
    "a column too far": Break(
        "depthwise", "depthwise_conv2d.cuh", "if (q < conv.q)", "if (q <= conv.q)", "race|out of"
    ),
    "a neighbour's fragment": Break(
        "grouped", "grouped_conv2d.cuh", "row = 2 * (lane % 4);", "row = 2 * ((lane + 1) % 4);", ""
    ),
    "no barrier before the results leave": Break(
        "grouped", "grouped_conv2d.cuh", "__syncthreads();  // the stage is full", "", "race|nobody wrote"
    ),
}


@pytest.fixture(scope="session")
def machine(library: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory) -> emulated.Compiler:
    """A compiler, with the emulator itself compiled."""
    return emulated.Compiler(tmp_path_factory.mktemp("machine"), "-O0")


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_kernel_is_found(machine: emulated.Compiler, name: str, tmp_path: Path) -> None:
    broken = BREAKS[name]
    shutil.copytree(emulated.CSRC / "cuda", tmp_path / "cuda")
    source = tmp_path / "cuda" / broken.file
    text = source.read_text()
    assert broken.before in text
    source.write_text(text.replace(broken.before, broken.after))
    parts = [
        *machine.emulator(),
        machine.compile(emulated.HERE / "launcher_calls.cpp", f"-D{broken.kernel.upper()}_ONLY"),
    ]
    kernel = machine.compile(tmp_path / "cuda" / f"{broken.kernel}_conv2d.cu", f"-I{tmp_path}")
    found = outcome(machine.link([*parts, kernel], tmp_path / "broken.so"), broken.kernel)
    assert re.search(broken.message or "wrong", found), found


def outcome(library: Path, kernel: str) -> str:
    """What the emulator says, "wrong" for a wrong result or "nothing"."""
    width, dtype = (1, torch.float32) if kernel == "depthwise" else (8, torch.float16)
    image, weight = torch.randint(-3, 4, (1, 9, 11, 24)).to(dtype), torch.randint(-2, 3, (24, width, 3, 3)).to(dtype)
    result = torch.full_like(image, float("nan"))
    run = getattr(ctypes.CDLL(str(library)), f"run_{kernel}")
    run.restype = ctypes.c_char_p
    buffers = (Buffer * 3)(buffer_of(image), buffer_of(weight), buffer_of(result))
    message = run(buffers, (ctypes.c_int * 5)(1, 24, 9, 11, 3))
    if message:
        return message.decode()
    wide = image.permute(0, 3, 1, 2).double()
    expected = F.conv2d(wide, weight.double(), padding=1, groups=24 // width).permute(0, 2, 3, 1)
    return "nothing" if torch.equal(result.double(), expected) else "wrong"
