"""Rates of a machine that reaches its peak with every kernel: a quarter nanosecond for 16 multiply-adds."""

from convfirst_ext.analysis.ceilings import fp32_isa, load_native
from convfirst_ext.analysis.kernel_rates import ACTIVATIONS, KernelRates

FMA = 0.25
PASS = 0.1


def flat_rates(threads: int) -> KernelRates:
    """Memory gives 100 GB/s up to 1 MiB and 10 GB/s from 100 MiB on; a meeting takes a microsecond."""
    calls = {}
    for name in load_native().list_microkernels(fp32_isa()):
        if name.startswith("gemm_narrow_"):
            calls[name] = 96 * FMA * max(8, int(name.removeprefix("gemm_narrow_")))
        elif name.startswith("gemm_"):
            rows, width = map(int, name.removeprefix("gemm_").split("x"))
            calls[name] = 96 * FMA * rows * width
        elif name.startswith(("depthwise_", "grouped8_")):
            tile = int(name.rpartition("_t")[2])
            taps = 9 if "_any" in name else int(name.partition("_k")[2][0]) ** 2
            calls[name] = 4 * FMA * tile * taps * (8 if name.startswith("grouped8") else 1)
        elif name.startswith("winograd_"):
            calls[name] = 64 * PASS
    passes = ("sum", "rescale", "scale", "gather_float", "normalize", *ACTIVATIONS)
    return KernelRates(threads, calls, dict.fromkeys(passes, PASS), {2**20: 100e9, 100 * 2**20: 10e9}, 1e-6)
