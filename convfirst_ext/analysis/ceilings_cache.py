"""Keeps measured ceilings and rates between processes, by CPU, instruction set and number of threads."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from convfirst_ext.analysis.ceilings import Ceilings, fp32_isa
from convfirst_ext.analysis.kernel_rates import KernelRates

_RATES = ", kernels"
_Entry = TypeVar("_Entry")


def cache_file() -> Path:
    """The file: convfirst_ext/ceilings.json in the folder of caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "convfirst_ext" / "ceilings.json"


def cached_ceilings(threads: int) -> Ceilings | None:
    """What ``keep`` kept for this CPU, or None.

    Args:
        threads: the number that the ceilings are of.

    Warns:
        UserWarning: the file is damaged; it counts as absent.
    """
    return _kept(_key(threads), lambda entry: _checked(entry, threads))


def cached_kernel_rates(threads: int) -> KernelRates | None:
    """The same of the kernels' rates."""
    return _kept(_key(threads) + _RATES, KernelRates.from_json)


def keep(ceilings: Ceilings, rates: KernelRates | None = None) -> Path:
    """Writes them in one step: who reads meanwhile finds the old file or the new one.

    Args:
        ceilings: of a number of threads.
        rates: of the same; None leaves what is kept.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    path = cache_file()
    content = {**_read(), _key(ceilings.threads): ceilings.to_json()}
    if rates is not None:
        content[_key(rates.threads) + _RATES] = rates.to_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def cpu_model() -> str:
    """The CPU as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _key(threads: int) -> str:
    return f"{cpu_model()}, {fp32_isa()}, {os.cpu_count()} cores, {threads} threads"


def _kept(key: str, made: Callable[[Any], _Entry]) -> _Entry | None:
    entry = _read().get(key)
    try:
        return None if entry is None else made(entry)
    except (TypeError, ValueError, AttributeError, KeyError):
        _warn("an entry is damaged")
        return None


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        _warn(" ".join(str(error).split()))
        return {}
    if not isinstance(content, dict):
        _warn("it holds no object")
        return {}
    return content


def _checked(entry: Any, threads: int) -> Ceilings:
    ceilings = Ceilings(**entry)
    rates = [ceilings.gflops, *ceilings.copy_gbps.values()]
    if ceilings.threads != threads or "DRAM" not in ceilings.copy_gbps or "L2" not in ceilings.copy_gbps:
        raise ValueError
    if not all(isinstance(rate, (int, float)) and 0 < rate < float("inf") for rate in rates):
        raise ValueError
    return ceilings


def _warn(reason: str) -> None:
    warnings.warn(f"{cache_file()} is not used, {reason}; `convfirst info --measure` writes it anew.", stacklevel=4)
