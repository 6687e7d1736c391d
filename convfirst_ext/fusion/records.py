"""What ``explain`` finds: one record a block, and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One block of a model, as its first call ran.

    Attributes:
        name: the original modules it stands for, with spaces between them.
        kernel: the kernel that runs it, or None where torch does.
        shapes: input and output shape.
        detail: tiles of a fused block, or the reason for the kernel or for torch.
        tile: a fused block's order of work, output rows x hidden channels in flight; "" elsewhere.
        macs: multiply-adds of convolutions and products; taps on padding count, work done twice counts once.
        bytes_moved: bytes of input, weights, residual and output, each as often as the block goes over it, with the
            padding of packed weights and copies into another memory format.
        bytes_bound: bytes that no implementation can avoid moving: input, output, unpadded weights and biases once, and
            the residual where it is another tensor than the input. For a layer torch runs, the same as bytes_moved.
        workspace_bytes: a thread's scratch memory in bytes, with its part of what threads share; None where no tile
            plan decides it.
        seconds: median time of a call by itself, caches warm, or of the block's turn inside its chain; None where it
            was not measured.
        roofline: shortest time that the machine's ceilings allow, divided by ``seconds``; None where that is. Slightly
            above 1 is possible: a block that mostly reads outruns copies, which are the ceiling of memory.
        predicted_seconds: time that the rates of its kernels add up to; None where that was not asked for or torch
            runs it.
    """

    name: str
    kernel: str | None
    shapes: str
    detail: str
    tile: str = ""
    macs: int = 0
    bytes_moved: int = 0
    bytes_bound: int = 0
    workspace_bytes: int | None = None
    seconds: float | None = None
    roofline: float | None = None
    predicted_seconds: float | None = None


@dataclass(frozen=True)
class ChainTime:
    """A chain of blocks that run in one call.

    Attributes:
        name: the chain's module.
        blocks: how many it runs.
        seconds: median time of a call.
    """

    name: str
    blocks: int
    seconds: float


@dataclass(frozen=True)
class Totals:
    """Sums over records.

    Attributes:
        macs: multiply-adds.
        bytes_moved: bytes that the blocks move.
        bytes_bound: bytes that they cannot avoid moving.
        seconds: sum of the blocks' times, or None where one was not measured.
        roofline: shortest time that the ceilings allow, divided by ``seconds``.
        fallback_share: part of ``seconds`` spent in layers that torch runs.
        predicted_seconds: sum of the blocks' predictions, or None where one is missing.
    """

    macs: int
    bytes_moved: int
    bytes_bound: int
    seconds: float | None
    roofline: float | None
    fallback_share: float | None
    predicted_seconds: float | None = None


def totals_of(records: Sequence[Record]) -> Totals:
    """Adds records up."""
    macs = sum(record.macs for record in records)
    moved = sum(record.bytes_moved for record in records)
    bound = sum(record.bytes_bound for record in records)
    timed = [(r.seconds, r.roofline, r.kernel) for r in records if r.seconds is not None and r.roofline is not None]
    seconds = sum(second for second, _, _ in timed)
    predictions = [record.predicted_seconds for record in records if record.predicted_seconds is not None]
    predicted = sum(predictions) if predictions and len(predictions) == len(records) else None
    if len(timed) < len(records) or seconds == 0:
        return Totals(macs, moved, bound, None, None, None, predicted)
    shortest = sum(second * roofline for second, roofline, _ in timed)
    fallback = sum(second for second, _, kernel in timed if kernel is None)
    return Totals(macs, moved, bound, seconds, shortest / seconds, fallback / seconds, predicted)
