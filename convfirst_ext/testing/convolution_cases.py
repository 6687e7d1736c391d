"""Cases of the single convolutions: channel tails, kernels, windows, edges, and shapes that broke other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convfirst_ext import ops
from convfirst_ext.testing.op_case import OpCase

Pair = int | tuple[int, int]

# Below, at and above blocks of 16 lanes.
CHANNELS = (1, 3, 7, 8, 13, 16, 17, 20, 24, 31, 32, 42, 48, 55, 64, 72, 96, 130)
KERNELS = (
    *((size, size) for size in range(1, 8)),
    *((1, 7), (7, 1), (1, 9), (9, 1), (2, 3), (4, 1), (1, 6), (11, 11)),
)


def convolution(
    op: str,
    name: str,
    in_channels: int,
    out_channels: int,
    size: Pair,
    kernel: Pair = 3,
    *,
    group_in: int | None = None,
    batch: int = 1,
    bias: bool = True,
    **options: Any,
) -> OpCase:
    """A single convolution of a (batch, in_channels, *size) input; ``options`` go to the operator."""
    height, width = _pair(size)
    group_in = in_channels if group_in is None else group_in
    shapes: dict[str, tuple[int, ...]] = {
        "input": (batch, in_channels, height, width),
        "weight": (out_channels, group_in, *_pair(kernel)),
    }
    if bias:
        shapes["bias"] = (out_channels,)
    return OpCase(op, name, shapes, options)


def depthwise(name: str, channels: int, size: Pair, kernel: Pair = 3, multiplier: int = 1, **rest: Any) -> OpCase:
    """A depthwise convolution."""
    out_channels = channels * multiplier
    return convolution("depthwise_conv2d", name, channels, out_channels, size, kernel, group_in=1, **rest)


def grouped(name: str, groups: int, size: Pair, kernel: Pair = 3, width: int = 8, **rest: Any) -> OpCase:
    """A convolution in groups of ``width`` channels."""
    channels = groups * width
    return convolution("grouped_conv2d", name, channels, channels, size, kernel, group_in=width, groups=groups, **rest)


def dense(name: str, in_channels: int, out_channels: int, size: Pair, kernel: Pair = 3, **rest: Any) -> OpCase:
    """A convolution over all channels."""
    return convolution("dense_conv2d", name, in_channels, out_channels, size, kernel, **rest)


def pointwise(
    name: str, in_channels: int, out_channels: int, size: Pair, *, residual: bool = False, **rest: Any
) -> OpCase:
    """A 1x1 convolution, with a residual or not."""
    case = convolution("pointwise_conv2d", name, in_channels, out_channels, size, 1, **rest)
    if residual:
        batch, _, height, width = case.shapes["input"]
        case.shapes["residual"] = (batch, out_channels, height, width)
    return case


def windows() -> Iterator[tuple[str, Pair, Pair, dict[str, Any]]]:
    """Name, image size, kernel and window of everything a window can be."""
    for rows, columns in KERNELS:
        for stride in (1, 2, 3, 5):
            window = {"stride": stride, "padding": (rows // 2, columns // 2)}
            yield f"k{rows}x{columns}-s{stride}", (12, 13), (rows, columns), window
    for kernel, dilation in ((3, 2), (3, 3), (5, 2), (2, 3), (3, (1, 2)), (3, (3, 1)), (7, (2, 1))):
        for stride in (1, 2):
            name = f"k{kernel}-d{dilation}-s{stride}"
            yield name, (17, 15), kernel, {"dilation": dilation, "padding": 2, "stride": stride}
    for sides in ((0, 1, 0, 1), (2, 0, 1, 3), (0, 3, 2, 0), (1, 0, 0, 0)):
        for size, stride in ((3, 2), (4, 1), (2, 2), (5, 1)):
            yield f"k{size}-s{stride}-sides{sides}", (9, 10), size, {"stride": stride, "padding": sides}
    yield "strides-differ", (11, 14), 3, {"stride": (2, 1), "padding": (0, 1)}
    yield "strides-differ-too", (11, 14), (5, 3), {"stride": (1, 3), "padding": (2, 1)}
    yield "stride-above-kernel", (9, 13), 1, {"stride": 3}
    yield "stride-above-kernel-padded", (9, 13), 2, {"stride": 5, "padding": 1}
    yield "huge-stride", (9, 13), 3, {"stride": 100, "padding": 1}
    yield "padding-is-kernel", (6, 5), 3, {"padding": 3}
    yield "padding-above-kernel", (4, 5), 3, {"padding": 5, "stride": 2}
    yield "padding-of-1x1", (4, 5), 1, {"padding": (1, 2)}
    yield "output-below-padding", (2, 1), 7, {"padding": 3}
    yield "output-below-padding-s2", (1, 2), 7, {"padding": 3, "stride": 2}
    yield "only-padding-seen", (2, 2), 2, {"padding": 4, "dilation": 5}
    yield "one-pixel", (1, 1), 3, {"padding": 1}
    yield "one-pixel-5x5", (1, 1), 5, {"padding": 2, "stride": 2}
    yield "one-row", (1, 19), 3, {"padding": 1}
    yield "one-column", (19, 1), 3, {"padding": 1}
    yield "whole-image-kernel", (7, 7), 7, {}
    yield "even-kernel-even-padding", (8, 8), 6, {"padding": 2, "stride": 2}


def _spatial_cases(make: Any, tail: Any, blocks: Any) -> list[OpCase]:
    """What depthwise and group width 8 share; ``tail`` channels end in a part of a block, ``blocks`` do not."""
    cases = [make(name, tail, size, kernel, **options) for name, size, kernel, options in windows()]
    for width in (*range(1, 31), 31, 32, 33, 40, 47, 57, 64):
        stride = 1 + width % 2
        cases.append(make(f"width{width}", blocks, (3, width), padding=1, stride=stride))
        cases.append(make(f"width{width}-tail", tail, (2, width), 3 + 2 * (width % 3), padding=3, stride=3 - stride))
    for activation in ops.ACTIVATIONS:
        cases.append(make(activation, tail, (5, 31), padding=1, activation=activation))
        cases.append(make(f"{activation}-narrow", blocks, 6, padding=1, activation=activation, batch=2))
    for batch in (0, 2, 5):
        cases.append(make(f"batch{batch}", tail, (6, 7), padding=1, batch=batch))
    # Long rows are read in place between their edges.
    cases += [
        make("long-row-padded-far", blocks, (3, 40), 3, padding=9),
        make("long-output-of-short-row", blocks, (2, 5), 3, padding=(16, 15, 1, 1)),
        make("long-row-left-only", blocks, (3, 40), 5, padding=(4, 0, 2, 2)),
        make("long-row-dilated", blocks, (5, 50), 3, padding=3, dilation=3),
        make("long-row-s2", blocks, (5, 70), 7, padding=3, stride=2, batch=2),
        make("long-row-no-bias", tail, (4, 36), 3, padding=1, bias=False),
        make("tall", blocks, (70, 4), 3, padding=1),
    ]
    return cases


def depthwise_conv2d_cases() -> list[OpCase]:
    """Every case of ``depthwise_conv2d``."""
    cases = _spatial_cases(depthwise, 20, 32)
    for channels in CHANNELS:
        cases.append(depthwise(f"c{channels}", channels, (9, 11), padding=1, batch=2))
        cases.append(depthwise(f"c{channels}-k5-s2", channels, (9, 30), 5, padding=2, stride=2))
    for multiplier in (2, 3, 4):
        for channels in (1, 3, 8, 11, 16, 17):
            name = f"c{channels}x{multiplier}"
            cases.append(depthwise(name, channels, (7, 8), 3, multiplier, padding=1, batch=2))
    cases += [
        depthwise("c5x7", 5, (7, 8), 3, 7, padding=1, stride=2),
        depthwise("c2x40", 2, (7, 8), 3, 40, padding=1),
        depthwise("c24x2-long-row", 24, (3, 33), 5, 2, padding=2),
        depthwise("c24-6x6-s2", 24, 6, 3, padding=1, stride=2, batch=2),
        depthwise("k5-s3-p1", 16, 14, 5, padding=1, stride=3),
        depthwise("7x7-x2", 24, 14, 7, 2, padding=3),
        depthwise("large", 48, 56, 3, padding=1),
    ]
    return cases


def grouped_conv2d_cases() -> list[OpCase]:
    """Every case of ``grouped_conv2d``: width 8, then multiples of 16."""
    cases = _spatial_cases(grouped, 3, 4)
    cases += [grouped(f"groups{n}", n, (9, 11), padding=1, batch=2) for n in (1, 2, 4, 5, 9, 17)]
    for width in (16, 32, 48):
        for groups in (1, 2, 3):
            cases.append(grouped(f"groups{groups}-of-{width}", groups, (6, 9), 3, width, padding=1, batch=2))
    for name, size, kernel, options in windows():
        if options.get("stride", 1) in (1, 2):
            cases.append(grouped(f"{name}-of-16", 2, size, kernel, 16, **options))
    for activation in ("relu6", "hardswish", "gelu"):
        cases.append(grouped(f"{activation}-of-16", 3, (5, 8), 3, 16, padding=1, activation=activation))
    cases.append(grouped("batch0-of-16", 2, 5, 3, 16, padding=1, batch=0))
    return cases


def dense_conv2d_cases() -> list[OpCase]:
    """Every case of ``dense_conv2d``."""
    cases = [dense(name, 3, 20, size, kernel, **options) for name, size, kernel, options in windows()]
    for in_channels in (1, 2, 3, 4, 5, 8, 16, 17):
        for out_channels in (1, 8, 16, 17, 32, 55):
            name = f"c{in_channels}to{out_channels}"
            cases.append(dense(name, in_channels, out_channels, (8, 9), padding=1, stride=1 + out_channels % 2))
    cases += [dense(f"width{width}", 3, 32, (5, width), padding=1, stride=2) for width in range(1, 31)]
    cases += [dense(name, 3, 24, (9, 15), padding=1, stride=2, activation=name) for name in ops.ACTIVATIONS]
    cases += [dense(f"batch{batch}", 3, 17, (8, 6), padding=1, stride=2, batch=batch) for batch in (0, 2, 5)]
    cases += [
        dense("stem", 3, 32, 65, padding=1, stride=2),
        dense("patches", 3, 48, 16, 4, stride=4),
        dense("large-patches", 3, 24, 48, 16, stride=16),
        dense("two-channels-of-ones", 2, 2, 2, 2),
        dense("no-bias", 3, 130, 7, padding=1, bias=False),
    ]
    return cases


def trimmed_conv2d_cases() -> list[OpCase]:
    """Every case of ``trimmed_conv2d``: one group, depthwise, groups of whole blocks, few output channels."""

    def trimmed(name: str, in_channels: int, out_channels: int, *args: Any, **rest: Any) -> OpCase:
        return convolution("trimmed_conv2d", name, in_channels, out_channels, *args, **rest)

    cases = []
    for name, size, kernel, options in windows():
        cases.append(trimmed(name, 5, 20, size, kernel, **options))
        cases.append(trimmed(f"{name}-depthwise", 20, 20, size, kernel, group_in=1, groups=20, **options))
    for name, size, kernel, options in list(windows())[::3]:
        cases.append(trimmed(f"{name}-groups", 6, 32, size, kernel, group_in=3, groups=2, **options))
        cases.append(trimmed(f"{name}-few", 19, 3, size, kernel, batch=2, **options))
        cases.append(trimmed(f"{name}-batch", 17, 24, (2, 3), kernel, batch=9, **{**options, "padding": 6}))
    for batch in (0, 1, 2, 16, 17):
        for size in (1, 2, 4, 7):
            cases.append(trimmed(f"batch{batch}-map{size}", 24, 40, size, padding=1, batch=batch))
    for out_channels in (1, 2, 3, 4, 5, 8, 9):
        cases.append(trimmed(f"64to{out_channels}", 64, out_channels, (11, 13), 3, padding=1, batch=2))
        cases.append(trimmed(f"40to{out_channels}-k7", 40, out_channels, (9, 40), 7, padding=3))
    for activation in ops.ACTIVATIONS:
        cases.append(trimmed(activation, 20, 33, (5, 6), padding=1, activation=activation))
        cases.append(trimmed(f"{activation}-few", 40, 3, (5, 6), padding=1, activation=activation))
        cases.append(
            trimmed(f"{activation}-depthwise", 20, 20, (5, 6), group_in=1, groups=20, padding=1, activation=activation)
        )
    cases += [
        trimmed("multiplier", 12, 36, (6, 7), group_in=1, groups=12, padding=2),
        trimmed("large-depthwise", 24, 24, (60, 90), 5, group_in=1, groups=24, padding=2, stride=2),
        trimmed("tall-image-few", 32, 3, (150, 40), 3, padding=1),
        trimmed("no-bias", 31, 42, 6, padding=1, bias=False),
    ]
    return cases


def winograd_conv2d_cases() -> list[OpCase]:
    """Every case of ``winograd_conv2d``: tiles that are cut at either edge, channel tails, both tiles."""

    def winograd(name: str, in_channels: int, out_channels: int, size: Pair, tile: int, **rest: Any) -> OpCase:
        case = convolution("winograd_conv2d", f"{name}-tile{tile}", in_channels, out_channels, size, tile=tile, **rest)
        if rest.get("padding") == 1 and out_channels % 3 == 0:
            case.shapes["residual"] = (rest.get("batch", 1), out_channels, *_pair(size))
        return case

    cases = []
    for tile in (2, 4):
        for size in (*range(3, 12), (1, 9), (9, 2), (16, 5)):
            cases.append(winograd(f"map{size}", 20, 24, size, tile, padding=1))
        for index, in_channels in enumerate(CHANNELS):
            out_channels = CHANNELS[(index + 7) % len(CHANNELS)]
            cases.append(
                winograd(f"c{in_channels}to{out_channels}", in_channels, out_channels, (5, 7), tile, padding=1)
            )
        for batch in (0, 2, 5, 33):
            cases.append(winograd(f"batch{batch}", 13, 20, (6, 7), tile, batch=batch))
        for padding in (0, 2, (1, 0), (0, 2, 3, 1), (5, 5, 5, 5)):
            cases.append(winograd(f"padding{padding}", 17, 33, (4, 6), tile, padding=padding))
        for activation in ops.ACTIVATIONS:
            cases.append(winograd(activation, 20, 33, (5, 6), tile, activation=activation, padding=1))
            cases.append(winograd(f"{activation}-whole", 20, 48, (5, 6), tile, activation=activation, padding=1))
        cases.append(winograd("no-bias", 31, 42, 6, tile, bias=False))
        cases.append(winograd("large", 48, 48, 30, tile, padding=1, batch=2))
    return cases


def pointwise_conv2d_cases() -> list[OpCase]:
    """Every case of ``pointwise_conv2d``."""
    cases = []
    for index, in_channels in enumerate(CHANNELS):
        for step in (1, 5, 11):
            out_channels = CHANNELS[(index + step) % len(CHANNELS)]
            cases.append(pointwise(f"c{in_channels}to{out_channels}", in_channels, out_channels, (5, 1 + index)))
    for pixels in (*range(1, 31), 49, 111, 112, 113, 225):
        cases.append(pointwise(f"pixels{pixels}", 24, 40, (1, pixels), residual=pixels % 2 == 0))
    for activation in ops.ACTIVATIONS:
        cases.append(pointwise(activation, 20, 33, (5, 6), activation=activation, batch=2))
        cases.append(pointwise(f"{activation}-residual", 17, 24, (4, 7), activation=activation, residual=True))
    for batch in (0, 2, 5):
        cases.append(pointwise(f"batch{batch}", 13, 20, (3, 4), batch=batch, residual=batch > 0))
    cases += [
        pointwise("no-bias", 31, 42, 6, bias=False),
        pointwise("deep", 960, 160, 7, residual=True),
        pointwise("wide", 16, 640, 2),
        pointwise("classifier", 1280, 100, 1),
        pointwise("large", 64, 24, 56, activation="relu"),
    ]
    return cases


def conv2d_cases() -> list[OpCase]:
    """The front door: every kernel behind it, torch's own included."""
    sources = [*depthwise_conv2d_cases()[::5], *grouped_conv2d_cases()[::5], *dense_conv2d_cases()[::4]]
    sources += pointwise_conv2d_cases()[::5]
    cases = []
    for source in sources:
        is_plain = "activation" not in source.options and "residual" not in source.shapes
        if is_plain and not _has_sides(source):
            options = dict(source.options)
            if source.op == "depthwise_conv2d":
                options["groups"] = source.shapes["input"][1]
            cases.append(OpCase("conv2d", str(source).replace("_conv2d", ""), dict(source.shapes), options))
    for padding in ("same", "valid"):
        for kernel, dilation in ((3, 1), (4, 1), ((2, 5), 1), (3, (1, 2)), (1, 1)):
            window: dict[str, Any] = {"padding": padding, "dilation": dilation}
            name = f"{padding}-k{kernel}-d{dilation}"
            cases.append(convolution("conv2d", f"{name}-depthwise", 17, 17, 9, kernel, group_in=1, groups=17, **window))
            cases.append(convolution("conv2d", f"{name}-dense", 3, 20, 9, kernel, **window))
            cases.append(convolution("conv2d", f"{name}-torch", 12, 10, 9, kernel, **window))
    for groups, group_in, group_out in ((2, 2, 8), (4, 3, 3), (3, 8, 16), (2, 12, 12), (5, 16, 8)):
        channels, out_channels = groups * group_in, groups * group_out
        name = f"torch-groups{groups}-{group_in}to{group_out}"
        cases.append(
            convolution("conv2d", name, channels, out_channels, 7, group_in=group_in, groups=groups, padding=1)
        )
    cases += [
        convolution("conv2d", "4to16-groups2-1x1", 4, 16, 5, 1, group_in=2, groups=2),
        convolution("conv2d", "pairs", 8, 8, 7, group_in=1, groups=8, stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        convolution("conv2d", "1x1-padded", 12, 10, 5, 1, padding=1),
        convolution("conv2d", "1x1-strided", 12, 10, 6, 1, stride=2),
        convolution("conv2d", "tall-kernel", 1, 1, (140, 3), (130, 1)),
    ]
    return cases


def _has_sides(case: OpCase) -> bool:
    padding = case.options.get("padding", 0)
    return isinstance(padding, tuple) and len(padding) == 4


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
