"""The ceilings that times are compared with: kept ones, or measured when first asked for."""

from __future__ import annotations

from functools import cache

from convfirst_ext.analysis.ceilings import Ceilings, measure_ceilings
from convfirst_ext.analysis.ceilings_cache import cached_ceilings

_HASTY_SECONDS = 0.03


@cache
def ceilings_for(threads: int) -> Ceilings:
    """Of this CPU on a number of threads: those that `convfirst info --measure` kept, else measured in half a second.

    The hasty ones last as long as the process: another program may have been running.
    """
    kept = cached_ceilings(threads)
    return measure_ceilings(threads, _HASTY_SECONDS) if kept is None else kept
