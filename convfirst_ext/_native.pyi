"""Facts about this CPU, the microkernels and the tile planner."""

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

class Plan(TypedDict):
    order: str
    row_group: int
    strip_rows: int
    hidden_channels: int

def attach(library: str) -> None: ...
def cpu_info() -> CpuInfo: ...
def list_microkernels(isa: str) -> list[str]: ...
def check_microkernel(isa: str, name: str, seed: int) -> float: ...
def time_microkernel(isa: str, name: str, seconds: float) -> Timing: ...
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
