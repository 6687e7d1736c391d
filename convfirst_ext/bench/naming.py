"""Names of contestants: the runtime, and the precision where it is not float32."""

from __future__ import annotations

OURS = "convfirst"


def contestant_name(runtime: str, dtype: str) -> str:
    """Returns what tables call a runtime at a precision; float32 goes without saying."""
    return runtime if dtype == "float32" else f"{runtime} {dtype}"


def split_name(name: str) -> tuple[str, str]:
    """Returns the runtime and the precision of a contestant's name."""
    runtime, _, dtype = name.partition(" ")
    return runtime, dtype or "float32"


def is_ours(name: str) -> bool:
    """Returns whether a contestant is this package rather than a peer."""
    return split_name(name)[0] == OURS
