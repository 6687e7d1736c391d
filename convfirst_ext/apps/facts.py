"""What the kernels found on this machine."""

from __future__ import annotations

import os
import platform

import torch

import convfirst_ext as cf
from convfirst_ext import _native
from convfirst_ext.analysis.ceilings_cache import cached_ceilings, cpu_model

_CPU_FACTS = {
    "isa": "instruction set in use",
    "available": "instruction sets available",
    "known": "instruction sets known",
    "l1_bytes": "L1 data cache, bytes",
    "l2_bytes": "L2 cache, bytes",
    "l3_bytes": "L3 cache, bytes",
}


def machine_facts() -> dict[str, object]:
    """Names and values: CPU, caches, threads, GPU, versions, and the ceilings of this number of threads if kept."""
    facts: dict[str, object] = {"CPU": cpu_model(), "cores": os.cpu_count()}
    facts |= {_CPU_FACTS.get(key, key): value for key, value in _native.cpu_info().items()}
    facts |= {"threads of PyTorch": torch.get_num_threads(), "GPU": _gpus()}
    facts |= {"convfirst_ext": cf.__version__, "PyTorch": torch.__version__, "Python": platform.python_version()}
    ceilings = cached_ceilings(torch.get_num_threads())
    if ceilings is None:
        return facts | {"ceilings": "not measured for this number of threads; run: convfirst info --measure"}
    facts["peak arithmetic"] = f"{ceilings.gflops:.0f} GFLOP/s in float32 ({ceilings.source})"
    for level, rate in ceilings.copy_gbps.items():
        facts[f"copies in {level.replace('DRAM', 'memory')}"] = f"{rate:.0f} GB/s"
    return facts


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch can use"
    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in names)
