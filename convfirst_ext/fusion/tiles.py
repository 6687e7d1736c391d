"""The tile plan of a fused block and the scratch memory that it takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convfirst_ext import _native
from convfirst_ext.nn import PackedMBConv

_LANES = 16
_FLOAT = 4
# Pixels that a task of the second phase of a "kept" block projects: csrc/cpu/fused_block.cpp, project_image.
_TASK_PIXELS = 28
_LARGEST_RUN = 4 * _TASK_PIXELS


class Tiles(NamedTuple):
    """How much of a fused block's hidden tensor exists at a time.

    Attributes:
        order: "kept" (hidden tensor of an image stays in the cache), "strips" or "strips, twice".
        rows: output rows computed together.
        strip_rows: output rows that share one pass over the hidden channels.
        channels: hidden channels in flight.
        workspace_bytes: a thread's scratch in bytes, with its part of what threads share.
    """

    order: str
    rows: int
    strip_rows: int
    channels: int
    workspace_bytes: int

    def __str__(self) -> str:
        return f"{self.order.removeprefix('strips, ')} {self.rows}x{self.channels}"

    def sentence(self) -> str:
        """The plan in words."""
        return f"{self.order}: {self.rows} rows x {self.channels} hidden channels"


def tiles_of(module: PackedMBConv, input: Tensor) -> Tiles:
    """The plan for this input on torch's present number of threads."""
    threads = torch.get_num_threads()
    plan = _native.plan_tiles(
        input.shape[2],
        input.shape[3],
        module.in_channels,
        module.hidden_channels,
        module.out_channels,
        module.window.kernel[0],
        module.window.stride[0],
        module.expand_weight is not None,
        module.se_reduce_weight is not None,
        input.shape[0],
        threads,
    )
    tiles = Tiles(plan["order"], plan["row_group"], plan["strip_rows"], plan["hidden_channels"], 0)
    floats = _kept_floats if tiles.order == "kept" else _strips_floats
    return tiles._replace(workspace_bytes=_FLOAT * floats(module, input, tiles, threads))


def _kept_floats(module: PackedMBConv, input: Tensor, tiles: Tiles, threads: int) -> int:
    height, width = module.window.output_size(input)
    pixels = height * width
    blocks = -(-module.out_channels // _LANES)
    if pixels >= threads * _TASK_PIXELS:
        sums = min(_LARGEST_RUN, -(-pixels // threads)) * blocks * _LANES
    else:
        sums = pixels * -(-blocks // min(threads, blocks)) * _LANES
    own = max(_ring_floats(module, input, tiles), sums + _tap_floats(module))
    shared = _whole(module.hidden_channels) * pixels + _gate_floats(module, height)
    images = input.shape[0]
    # With enough images a thread takes whole ones and keeps a hidden tensor of its own.
    by_image = images >= 4 * threads or images % threads == 0
    return own + (shared if by_image else -(-shared // threads))


def _strips_floats(module: PackedMBConv, input: Tensor, tiles: Tiles, threads: int) -> int:
    height, width = module.window.output_size(input)
    chunked = tiles.channels < module.hidden_channels
    sum_rows = tiles.strip_rows if chunked else tiles.rows
    sums = sum_rows * width * _whole(module.out_channels)
    convolved = tiles.channels * tiles.rows * width
    shared = _gate_floats(module, height)
    return _ring_floats(module, input, tiles) + convolved + sums + _tap_floats(module) + -(-shared // threads)


def _ring_floats(module: PackedMBConv, input: Tensor, tiles: Tiles) -> int:
    """The hidden rows that a row group reaches, and the input rows in float32 where they are stored in less."""
    window = module.window
    spans = [window.dilation[axis] * (window.kernel[axis] - 1) + 1 for axis in (0, 1)]
    rows = (tiles.rows - 1) * window.stride[0] + spans[0]
    left = window.padding_for(input)[0]
    out_width = window.output_size(input)[1]
    columns = max(left + input.shape[3], (out_width - 1) * window.stride[1] + spans[1])
    widens = module.expand_weight is not None and input.dtype != torch.float32
    widened = _whole(rows * input.shape[3] * module.in_channels) if widens else 0
    return tiles.channels * rows * columns + widened


def _gate_floats(module: PackedMBConv, height: int) -> int:
    """Squeeze-excite's sums of every row, their total, the means, the bottleneck and the gate."""
    if module.se_expand_weight is None:
        return 0
    return _whole(module.hidden_channels) * (height + 3) + _whole(module.se_expand_weight.shape[3])


def _tap_floats(module: PackedMBConv) -> int:
    """Offsets of the projection's inputs: an int64 for each run of channels that divides a block of 16."""
    depth = next(size for size in (16, 8, 4, 2, 1) if module.hidden_channels % size == 0)
    return 2 * -(-_whole(module.hidden_channels) // depth)


def _whole(channels: int) -> int:
    return -(-channels // _LANES) * _LANES
