"""The ceilings that times are compared with, measured when first asked for."""

from __future__ import annotations

from functools import cache

from convfirst_ext.analysis.ceilings import Ceilings, measure_ceilings

_HASTY_SECONDS = 0.03


@cache
def ceilings_for(threads: int) -> Ceilings:
    """Of this CPU on a number of threads, measured once a process in half a second."""
    return measure_ceilings(threads, _HASTY_SECONDS)
