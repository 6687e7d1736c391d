"""Cases of transposed convolutions: every stride phase, with and without taps, cut off or extended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convfirst_ext.testing.convolution_cases import KERNELS
from convfirst_ext.testing.op_case import OpCase

Pair = tuple[int, int]


def transposed(
    name: str, channels: int, out_channels: int, size: Pair, kernel: Pair, groups: int, **options: Any
) -> OpCase:
    """A transposed convolution of a (batch, channels, *size) input; ``options`` go to the operator."""
    batch, bias = options.pop("batch", 1), options.pop("bias", True)
    shapes: dict[str, tuple[int, ...]] = {
        "input": (batch, channels, *size),
        "weight": (channels, out_channels // groups, *kernel),
    }
    if bias:
        shapes["bias"] = (out_channels,)
    return OpCase("split_conv_transpose2d", name, shapes, options | ({"groups": groups} if groups > 1 else {}))


def _windows() -> Iterator[tuple[str, Pair, Pair, dict[str, Any]]]:
    """Name, image size, kernel and options."""
    for rows, columns in KERNELS:
        for stride in (1, 2, 3):
            options: dict[str, Any] = {"stride": stride, "padding": (rows // 2, columns // 2)}
            if stride > 1:
                options["output_padding"] = (stride - 1, 0)
            yield f"k{rows}x{columns}-s{stride}", (4, 5), (rows, columns), options
    for size, dilation in ((3, 2), (3, 3), (2, 3), (5, 2)):
        for stride in (1, 2, 4):
            name = f"k{size}-d{dilation}-s{stride}"
            yield name, (5, 4), (size, size), {"stride": stride, "dilation": dilation, "padding": 2}
    yield "stride-above-kernel", (4, 3), (2, 3), {"stride": (4, 5), "output_padding": (3, 2)}
    yield "phases-without-taps", (3, 4), (1, 1), {"stride": 3, "output_padding": 2}
    yield "dilated-phases-without-taps", (3, 4), (3, 3), {"stride": 2, "dilation": 2, "padding": 2, "output_padding": 1}
    yield "strides-differ", (5, 4), (3, 2), {"stride": (1, 3), "padding": (1, 0)}
    yield "dilations-differ", (5, 4), (3, 2), {"stride": 2, "dilation": (3, 2), "padding": (3, 1)}
    yield "padding-above-kernel", (10, 12), (3, 3), {"padding": 5}
    yield "one-pixel", (1, 1), (4, 4), {}
    yield "one-pixel-s2", (1, 1), (5, 5), {"stride": 2, "padding": 1}
    yield "one-row", (1, 17), (3, 3), {"stride": 2, "padding": 1}
    yield "one-column", (17, 1), (4, 3), {"stride": 2, "padding": 1}
    yield "huge-stride", (2, 3), (3, 3), {"stride": 40}


def split_conv_transpose2d_cases() -> list[OpCase]:
    """Every case of ``split_conv_transpose2d``: one group, depthwise, groups of whole blocks, few output channels."""
    cases = []

    def add(
        name: str, channels: int, out_channels: int, size: Pair, kernel: Pair, groups: int = 1, **rest: Any
    ) -> None:
        cases.append(transposed(name, channels, out_channels, size, kernel, groups, **rest))

    for name, size, kernel, options in _windows():
        add(name, 5, 20, size, kernel, **options)
        add(f"{name}-depthwise", 20, 20, size, kernel, 20, **options)
        add(f"{name}-few", 19, 3, size, kernel, **options)
    for name, size, kernel, options in list(_windows())[::3]:
        add(f"{name}-groups", 6, 32, size, kernel, 2, **options)
        add(f"{name}-multiplier", 12, 36, size, kernel, 12, **options)
    for batch in (0, 1, 2, 17):
        add(f"batch{batch}", 24, 40, (4, 4), (4, 4), batch=batch, stride=2, padding=1)
        add(f"batch{batch}-depthwise", 24, 24, (5, 6), (3, 3), 24, batch=batch, stride=2)
    for channels, out_channels in ((1, 1), (3, 8), (16, 16), (33, 40), (64, 3), (48, 5), (17, 130)):
        add(f"c{channels}to{out_channels}", channels, out_channels, (5, 7), (4, 4), stride=2, padding=1)
    for channels in (2, 8, 13, 16, 33, 55):
        add(
            f"c{channels}-depthwise",
            channels,
            channels,
            (5, 7),
            (5, 5),
            channels,
            stride=2,
            padding=2,
            output_padding=1,
        )
    add("no-bias", 31, 42, (6, 6), (4, 4), stride=2, padding=1, bias=False)
    add("large-few", 32, 3, (40, 30), (4, 4), stride=2, padding=1)
    add("large-depthwise", 24, 24, (40, 50), (4, 4), 24, stride=2, padding=1)
    return cases
