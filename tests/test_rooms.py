"""The architecture: what a room may include or import, where an operator's files lie, and how long a file may be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "convfirst_ext"
CXX = (".cpp", ".h", ".inl", ".inc", ".cu", ".cuh")
SKIPPED = {"build", "dist", ".git", ".venv"}

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)
STABLE_TORCH = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/")
# What a target region may include: nothing whose inline functions other translation units share.
IN_TARGET_REGION = {"cstdint", "immintrin.h"}

# The first match holds. Of the package's rooms ("" is the package itself) and the watched libraries, a room may import
# those that are named.
WATCHED = ("torch", "timm", "torchvision", "pybind11")
ROOMS: list[tuple[str, set[str]]] = [
    ("convfirst_ext/__init__.py", {"torch", "_loading", "ops", "nn", "fusion", "analysis"}),
    ("convfirst_ext/_loading.py", {"torch", "_native"}),
    ("convfirst_ext/_extras.py", set()),
    ("convfirst_ext/cli.py", {"apps"}),
    (
        "convfirst_ext/apps/",
        {
            *("torch", "timm", "torchvision", "apps", "nn", "fusion", "bench", "analysis"),
            *("_native", "_extras", "models", "", "cli"),
        },
    ),
    ("convfirst_ext/ops/interrupts.py", {"_native"}),
    ("convfirst_ext/ops/", {"torch", "ops"}),
    ("convfirst_ext/nn/", {"torch", "ops", "nn"}),
    ("convfirst_ext/fusion/", {"torch", "ops", "nn", "fusion", "analysis", "_native"}),
    ("convfirst_ext/analysis/", {"analysis", "_native"}),
    ("convfirst_ext/bench/", {"torch", "timm", "bench", "models", "analysis", "", "_native"}),
    ("convfirst_ext/testing/", {"torch", "ops", "testing"}),
    ("convfirst_ext/models/", {"torch", "timm", "nn", "models"}),
    (
        "convfirst_ext/training/",
        {"torch", "timm", "torchvision", "training", "models", "nn", "fusion", "_extras"},
    ),
]


def files(folder: str, *suffixes: str) -> list[Path]:
    found = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return sorted(path for path in found if not SKIPPED & set(path.relative_to(ROOT).parts))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def includes(path: Path) -> Iterator[tuple[str, str]]:
    """Every include of a C++ file: ``<`` and the name, or ``"`` and the path from the root."""
    for quote, name in INCLUDE.findall(path.read_text()):
        yield (quote, name) if quote == "<" else (quote, _resolve(path, name))


def _resolve(path: Path, name: str) -> str:
    for folder in (path.parent, ROOT / "csrc"):
        if (folder / name).exists():
            return relative((folder / name).resolve())
    return name


def imports(path: Path) -> Iterator[str]:
    """Every module a Python file imports, by its full name; ``from a import b`` counts as a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = _package_of(path, node.level) if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _package_of(path: Path, level: int) -> list[str]:
    parts = list(path.relative_to(ROOT).parent.parts)
    return parts[: len(parts) - level + 1]


def attributes(path: Path) -> Iterator[str]:
    """Every dotted name that a Python file reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


# C++


@pytest.mark.parametrize("path", files("csrc/cpu/microkernels", *CXX), ids=relative)
def test_microkernels_know_neither_torch_nor_threads(path: Path) -> None:
    for quote, name in includes(path):
        assert quote == "<" or name.startswith("csrc/cpu/microkernels/"), name
        assert not name.startswith(("torch/", "ATen/", "c10/", "pybind11/", "Python.h", "omp.h", "thread", "mutex")), (
            name
        )
    assert not re.search(r"\bomp\b|\bstd::(thread|mutex|async)\b", path.read_text())


@pytest.mark.parametrize(
    "path", files("csrc/cpu/microkernels", ".inl") + files("csrc/cpu/microkernels/simd", *CXX), ids=relative
)
def test_nothing_of_std_inside_a_target_region(path: Path) -> None:
    text = re.sub(r"//.*", "", path.read_text())
    assert not re.search(r"\bstd::|\bnew\b|\bmalloc\b|\bfree\(", text)
    assert {name for quote, name in includes(path) if quote == "<"} <= IN_TARGET_REGION


@pytest.mark.parametrize(
    "path", [p for p in files("csrc/cpu/microkernels", ".cpp") if "TARGET" in p.read_text()], ids=relative
)
def test_headers_come_before_the_target_region(path: Path) -> None:
    before, _, inside = path.read_text().partition("CONVFIRST_BEGIN_TARGET")
    assert not [name for quote, name in INCLUDE.findall(inside) if quote == "<"]
    assert {name for quote, name in INCLUDE.findall(before) if quote == "<"} <= IN_TARGET_REGION


@pytest.mark.parametrize("path", files("csrc/tiling", *CXX), ids=relative)
def test_tiling_is_plain_cxx(path: Path) -> None:
    for quote, name in includes(path):
        assert (quote == "<" and "/" not in name) or name.startswith("csrc/tiling/"), name


def test_device_code_knows_no_torch() -> None:
    for path in files("csrc", ".cu", ".cuh") + files("csrc/cuda/device", *CXX):
        for _, name in includes(path):
            host = ("torch/", "ATen/", "c10/", "pybind11/", "csrc/cpu/", "csrc/checks.h")
            assert not name.startswith(host), f"{relative(path)} includes {name}"


@pytest.mark.parametrize("path", files("csrc", *CXX), ids=relative)
def test_only_stable_torch_headers_and_no_python_beside_native(path: Path) -> None:
    text = relative(path)
    for _, name in includes(path):
        if name.startswith(("torch/", "ATen/", "c10/")):
            assert name.startswith(STABLE_TORCH), name
            assert text != "csrc/native.cpp", "_native handles no tensors"
        if name.startswith(("pybind11/", "Python.h")):
            assert text == "csrc/native.cpp", name
        if text.startswith("csrc/cpu/"):
            assert not name.startswith("csrc/cuda/"), name
        if text.startswith("csrc/cuda/"):
            assert not name.startswith("csrc/cpu/"), name


def test_inline_assembly_for_gpus_stays_in_device() -> None:
    for path in files("csrc", ".cu", ".cuh"):
        if not relative(path).startswith("csrc/cuda/device/"):
            assert "asm" not in re.sub(r"//.*", "", path.read_text()).split(), relative(path)


@pytest.mark.parametrize(
    "path", [p for p in files("csrc/cuda", ".cu", ".cuh") if p.parent.name != "device"], ids=relative
)
def test_kernels_reach_memory_through_checked_pointers_only(path: Path) -> None:
    """What the emulator cannot check is left to csrc/cuda/device."""
    text = re.sub(r"//.*", "", path.read_text())
    assert not re.search(r"\.raw\(|\breinterpret_cast\b|\b__shared__\b|\batomic[A-Z]|\b__\w+_sync\b|#\s*if", text)


@pytest.mark.parametrize("op", re.findall(r'"(\w+)\(', (ROOT / "csrc/cuda/ops.cpp").read_text()))
def test_an_operator_that_only_cuda_has_has_one_stem_too(op: str) -> None:
    for path in (f"csrc/cuda/{op}.cu", f"csrc/cuda/{op}_op.cpp", f"{PACKAGE}/ops/{op}.py"):
        assert (ROOT / path).exists(), path
    assert (ROOT / f"tests/cuda_emulator/test_emulated_{op}.py").exists()


# Python


def room_of(path: Path) -> set[str] | None:
    return next((allowed for prefix, allowed in ROOMS if relative(path).startswith(prefix)), None)


@pytest.mark.parametrize("path", files(PACKAGE, ".py"), ids=relative)
def test_imports_follow_the_rooms(path: Path) -> None:
    allowed = room_of(path)
    assert allowed is not None, f"{relative(path)} lies in no room that tests/test_rooms.py knows"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == PACKAGE:
            room = parts[1] if len(parts) > 1 else ""
            is_room = (
                (ROOT / PACKAGE / room).is_dir() or (ROOT / PACKAGE / f"{room}.py").exists() or room.startswith("_")
            )
            assert (room if is_room else "") in allowed, f"imports {name}"
        elif parts[0] in WATCHED:
            assert parts[0] in allowed, f"imports {name}"


@pytest.mark.parametrize("path", files(PACKAGE, ".py"), ids=relative)
def test_raw_operators_are_called_in_ops_only(path: Path) -> None:
    if relative(path).startswith(f"{PACKAGE}/ops/"):
        return
    raw = [name for name in attributes(path) if name.startswith("torch.ops.convfirst")]
    assert not raw


# What they test or measure has no public name.
READERS_OF_PRIVATE_NAMES = {
    "tests/run_cases.py",
    "tests/test_isa.py",
    "tests/test_rooms.py",
    "tests/test_guard_page.py",
    "tests/test_tiling.py",
    "tests/test_abi.py",
    "tests/test_other_machines.py",
}


@pytest.mark.parametrize(
    "path", [p for room in ("tests", "benchmarks", "examples") for p in files(room, ".py")], ids=relative
)
def test_users_of_the_package_need_no_private_name(path: Path) -> None:
    if relative(path) in READERS_OF_PRIVATE_NAMES:
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == PACKAGE:
            assert not [part for part in parts if part.startswith("_") and not part.endswith("__")], f"imports {name}"


# Operators


# Operators that prepare weights or memory for the others.
PARTS_OF_OTHERS = ("empty_weights", "multiplies_half", "release_kept_memory")
PARTS_OF_OTHERS += ("pack_transposed_weight", "pack_weight", "pack_winograd_weight")


def operators() -> list[str]:
    schemas = re.findall(r'\bm\.def\(\s*"(\w+)\(', (ROOT / "csrc/ops.cpp").read_text())
    names = {re.sub(r"^profile_|(_packed|_backward|_input_grad|_mean)$", "", name) for name in schemas}
    return sorted(names - set(PARTS_OF_OTHERS))


@pytest.mark.parametrize("op", operators())
def test_an_operator_has_one_stem_in_every_room(op: str) -> None:
    for path in (f"csrc/cpu/{op}.cpp", f"{PACKAGE}/ops/{op}.py", f"tests/test_{op}.py"):
        assert (ROOT / path).exists(), path


def test_every_schema_is_in_the_table_of_contents() -> None:
    for path in files("csrc", ".cpp", ".cu"):
        if path.name != "ops.cpp":
            assert "m.def(" not in path.read_text() or path.name == "native.cpp", relative(path)
    assert operators()


# Sizes and names


LIMITS = {".cu": 450, ".cuh": 450}
TREES = ("csrc", PACKAGE, "tests", "benchmarks", "examples")


@pytest.mark.parametrize("path", [path for tree in TREES for path in files(tree, *CXX, ".py")], ids=relative)
def test_files_are_short_and_their_names_tell(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LIMITS.get(path.suffix, 350)
    assert not set(path.stem.split("_")) & {"utils", "util", "common", "helpers", "helper", "misc", "v2", "new"}
