"""Facts about this CPU, the microkernels and the tile planner, and how a signal ends a long call."""

from typing import TypedDict

class CpuInfo(TypedDict):
    isa: str
    available: list[str]
    known: list[str]
    multiplies_half: bool
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int

class Timing(TypedDict):
    ns_per_call: float
    flops_per_call: float
    bytes_per_call: float

class ConvPlan(TypedDict, total=False):
    run_pixels: int
    parts: int
    band_rows: int

class Moved(TypedDict):
    read: int
    written: int
    write_missed: int

class Plan(TypedDict):
    order: str
    row_group: int
    strip_rows: int
    hidden_channels: int

def attach(library: str) -> None: ...
def take_interrupt() -> BaseException | None: ...
def cpu_info() -> CpuInfo: ...
def list_microkernels(isa: str) -> list[str]: ...
def check_microkernel(isa: str, name: str, seed: int) -> float: ...
def time_microkernel(isa: str, name: str, seconds: float) -> Timing: ...
def plan_conv_tiles(
    in_h: int,
    in_w: int,
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    depthwise: bool = False,
    images: int = 1,
    threads: int = 1,
    l2_bytes: int = 0,
) -> ConvPlan: ...
def simulate_cache(
    trace: list[tuple[int, int, int]], bytes: int, ways: int, kept_from: int, kept_bytes: int
) -> Moved: ...
def force_tiles(
    *,
    run_pixels: int = 0,
    parts: int = 0,
    band_rows: int = 0,
    keeps_hidden: int = 0,
    row_group: int = 0,
    hidden_blocks: int = 0,
    streams: int = 0,
) -> None: ...
def time_activation(isa: str, activation: int, seconds: float) -> float: ...
def time_copy(working_set: int, seconds: float) -> float: ...
def plan_tiles(
    in_h: int,
    in_w: int,
    in_channels: int,
    hidden_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    expands: bool = True,
    squeezes: bool = False,
    images: int = 1,
    threads: int = 1,
) -> Plan: ...
