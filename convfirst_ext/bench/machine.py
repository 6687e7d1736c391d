"""What a result was measured on: the machine, the versions of everything that took part, and the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = ("convfirst_ext", "torch", "torchvision", "timm", "onnxruntime", "onnx", "openvino", "numpy")
_ISA_FLAGS = re.compile(r"^(avx|avx2|fma|f16c|avx512\w*|avx_vnni|amx_\w+|asimd\w*|sve\w*)$")


@cache
def describe_machine() -> dict[str, Any]:
    """Returns the CPU's model, cores, cache sizes in bytes, SIMD flags, memory and system."""
    facts = _cpuinfo()
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": cache_sizes(),
        "isa": sorted(flag for flag in facts.get("flags", "").split() if _ISA_FLAGS.match(flag)),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


@cache
def cache_sizes() -> dict[str, int]:
    """Returns the bytes of one core's L1d and L2 and of the L3 it shares, as the system reports them."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level = (index / "level").read_text().strip()
        kind = (index / "type").read_text().strip()
        if kind != "Instruction":
            sizes["L1d" if level == "1" else f"L{level}"] = _parse_size((index / "size").read_text())
    return sizes


def versions() -> dict[str, str]:
    """Returns the installed version of each package that takes part; absent ones are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """Returns the checkout's commit and whether tracked or new files other than results differ from it.

    An installed package has neither, even where it lies inside some other repository.
    """
    if _git("ls-files", "--error-unmatch", __file__) is None:
        return {"hash": None, "dirty": None}
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return {"hash": head, "dirty": None if changes is None else bool(changes)}


def cpu_slug() -> str:
    """Returns the CPU's model as a piece of a file name."""
    name = re.sub(r"\((r|tm)\)|cpu|processor|@.*$", " ", describe_machine()["cpu"].lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "unknown-cpu"


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first_core = path.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _parse_size(text: str) -> int:
    text = text.strip()
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(_REPOSITORY), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
