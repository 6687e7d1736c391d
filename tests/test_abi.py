"""The operator library uses torch's stable ABI only, so that one build serves every torch from 2.11 on."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import convfirst_ext

FOLDER = Path(convfirst_ext.__file__).parent
OPERATORS = next(FOLDER.glob("_ops.*so"))
CUDA_OPERATORS = sorted(FOLDER.glob("_ops_cuda.*so"))  # where the kernels were built
NATIVE = next(FOLDER.glob("_native*.so"))
UNSTABLE = re.compile(r"_ZN?K?(St\w+?I)?N?(3c10|2at|5torch)\d|_ZT[ISV]N?(3c10|2at|5torch)\d|PyObject|^Py|_Py")

has_binutils = pytest.mark.skipif(not shutil.which("nm") or not shutil.which("readelf"), reason="needs binutils")

CALL = """
import sys, torch
import torch.nn.functional as F
torch.ops.load_library(sys.argv[1])
channels_last = torch.channels_last
image = torch.randint(-3, 4, (2, 24, 9, 11)).float().contiguous(memory_format=channels_last)
weight = torch.randint(-2, 3, (24, 1, 3, 3)).float()
bias = torch.randint(-3, 4, (24,)).float()
actual = torch.ops.convfirst.depthwise_conv2d(image, weight, bias, [2, 1], [1, 1, 1, 1], [1, 1], 24)
assert torch.equal(actual, F.conv2d(image, weight, bias, (2, 1), 1, 1, 24))
packed = torch.ops.convfirst.pack_weight(torch.ones(8, 24, 1, 1))
actual = torch.ops.convfirst.pointwise_conv2d_packed(
    image, packed, torch.zeros(16), None, [1, 1], [0, 0, 0, 0], [1, 1], 1, 8, "relu6"
)
assert torch.equal(actual, F.relu6(F.conv2d(image, torch.ones(8, 24, 1, 1))))
try:
    torch.ops.convfirst.pack_weight(torch.ones(3))
except RuntimeError as error:
    assert "weight must have 4 dimensions" in str(error)
else:
    raise AssertionError("a wrong weight was accepted")
print(torch.__version__)
"""


def undefined_symbols(library: Path) -> list[str]:
    listing = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    return [line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()]


def needed_libraries(library: Path) -> set[str]:
    listing = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True)
    return set(re.findall(r"\(NEEDED\).*\[([\w+-]+)\.so", listing.stdout))


@has_binutils
@pytest.mark.parametrize("library", [OPERATORS, *CUDA_OPERATORS], ids=lambda path: path.name)
def test_operators_use_no_symbol_that_another_torch_may_lack(library: Path) -> None:
    symbols = undefined_symbols(library)
    assert not [symbol for symbol in symbols if UNSTABLE.search(symbol)]
    assert any(symbol.startswith(("aoti_torch_", "torch_")) for symbol in symbols), "nothing of torch is used at all"


def test_the_pattern_knows_unstable_symbols() -> None:
    for symbol in (
        "_ZN3c105ErrorD1Ev",
        "_ZN2at6Tensor3mulE",
        "_ZNK2at10TensorBase8is_emptyEv",
        "_ZTIN3c105ErrorE",
        "PyErr_Occurred",
    ):
        assert UNSTABLE.search(symbol), symbol
    for symbol in ("aoti_torch_empty_strided", "_ZNSt6vectorIlSaIlEED1Ev", "torch_parallel_for", "_Znwm"):
        assert not UNSTABLE.search(symbol), symbol


@has_binutils
def test_operators_need_no_library_beside_torch_and_the_system() -> None:
    system = {
        "libstdc++",
        "libm",
        "libgcc_s",
        "libc",
        "libdl",
        "libpthread",
        "librt",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }
    assert needed_libraries(OPERATORS) <= system | {"libtorch_cpu", "libtorch", "libc10"}
    assert needed_libraries(NATIVE) <= system
    for library in CUDA_OPERATORS:
        assert needed_libraries(library) <= system | {"libtorch_cpu", "libtorch_cuda", "libtorch", "libc10"}


@has_binutils
def test_native_knows_nothing_of_torch() -> None:
    assert not [symbol for symbol in undefined_symbols(NATIVE) if re.search(r"torch|3c10\d|2at\d", symbol)]


@pytest.mark.slow
@pytest.mark.skipif("CONVFIRST_OTHER_PYTHON" not in os.environ, reason="CONVFIRST_OTHER_PYTHON names no interpreter")
def test_the_library_runs_under_another_torch(tmp_path: Path) -> None:
    other = os.environ["CONVFIRST_OTHER_PYTHON"]
    session = subprocess.run([other, "-c", CALL, OPERATORS], capture_output=True, text=True, cwd=tmp_path)
    assert session.returncode == 0, session.stderr
    assert session.stdout.strip() != torch.__version__, "both interpreters have the same torch"
