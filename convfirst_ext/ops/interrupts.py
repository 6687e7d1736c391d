"""What a signal's handler raised in the middle of a long call comes out of that call, as out of Python code."""

from __future__ import annotations

from convfirst_ext import _native


def raise_interrupt(error: RuntimeError) -> None:
    """Raises what a signal's handler raised, KeyboardInterrupt after Ctrl-C, if that is what ended a call.

    Args:
        error: what the call raised.
    """
    if "interrupted by a signal" not in str(error):
        return
    interrupt = _native.take_interrupt()
    if interrupt is not None:
        raise interrupt from None
