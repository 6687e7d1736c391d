"""Cases of the fused blocks: depthwise-separable and inverted residuals in every form."""

from __future__ import annotations

from typing import Any

from convfirst_ext import ops
from convfirst_ext.testing.convolution_cases import CHANNELS, Pair, windows
from convfirst_ext.testing.op_case import OpCase, padding_sides


def separable(
    name: str,
    channels: int,
    out_channels: int,
    size: Pair,
    kernel: Pair = 3,
    *,
    batch: int = 1,
    bias: bool = True,
    residual: bool = False,
    **options: Any,
) -> OpCase:
    """A depthwise convolution and a pointwise one."""
    shapes: dict[str, tuple[int, ...]] = {
        "input": (batch, channels, *_pair(size)),
        "depthwise_weight": (channels, 1, *_pair(kernel)),
        "pointwise_weight": (out_channels, channels, 1, 1),
    }
    if bias:
        shapes |= {"depthwise_bias": (channels,), "pointwise_bias": (out_channels,)}
    if residual:
        shapes["residual"] = _output_shape(shapes["input"], out_channels, _pair(kernel), options)
    return OpCase("depthwise_separable", name, shapes, options)


def inverted_residual(
    name: str,
    in_channels: int,
    hidden: int,
    out_channels: int,
    size: Pair,
    kernel: Pair = 3,
    *,
    width: int = 1,
    squeeze: int = 0,
    expands: bool = True,
    batch: int = 1,
    bias: bool = True,
    residual: bool = False,
    **options: Any,
) -> OpCase:
    """An MBConv; width 8 groups the hidden channels by eight, squeeze is the width of squeeze-excite's bottleneck."""
    shapes: dict[str, tuple[int, ...]] = {
        "input": (batch, in_channels, *_pair(size)),
        "conv_weight": (hidden, width, *_pair(kernel)),
        "project_weight": (out_channels, hidden, 1, 1),
    }
    if expands:
        shapes["expand_weight"] = (hidden, in_channels, 1, 1)
    if squeeze:
        shapes["squeeze_excite.reduce_weight"] = (squeeze, hidden, 1, 1)
        shapes["squeeze_excite.expand_weight"] = (hidden, squeeze, 1, 1)
        options.setdefault("squeeze_excite", ("relu", "sigmoid"))
    if bias:
        shapes |= {key.replace("weight", "bias"): shape[:1] for key, shape in shapes.items() if key.endswith("weight")}
    if residual:
        shapes["residual"] = _output_shape(shapes["input"], out_channels, _pair(kernel), options)
    if width == 8:
        options["groups"] = hidden // 8
    return OpCase("mbconv", name, shapes, options)


def depthwise_separable_cases() -> list[OpCase]:
    """Every case of ``depthwise_separable``."""
    cases = [separable(name, 20, 13, size, kernel, **options) for name, size, kernel, options in windows()]
    for index, channels in enumerate(CHANNELS):
        out_channels = CHANNELS[(index + 7) % len(CHANNELS)]
        name = f"c{channels}to{out_channels}"
        cases.append(separable(name, channels, out_channels, (7, 9), padding=1, residual=True, batch=2))
    for width in range(1, 31):
        cases.append(separable(f"width{width}", 17, 24, (4, width), padding=1, stride=1 + width % 2))
    for activation in ops.ACTIVATIONS:
        both: dict[str, Any] = {"depthwise_activation": activation, "pointwise_activation": activation}
        cases.append(separable(activation, 24, 20, (6, 7), padding=1, residual=True, **both))
        cases.append(separable(f"{activation}-inside", 17, 16, (6, 7), padding=1, depthwise_activation=activation))
    for batch in (0, 2, 5):
        cases.append(separable(f"batch{batch}", 17, 20, (6, 5), padding=1, batch=batch, residual=True))
    relus: dict[str, Any] = {"depthwise_activation": "relu6", "pointwise_activation": "relu6"}
    cases += [
        separable("no-bias", 32, 17, 8, padding=1, bias=False),
        separable("cs267", 3, 64, 40, padding=1),
        separable("large", 136, 24, 48, padding=1, **relus),
        separable("large-s2", 330, 40, (61, 59), 5, padding=2, stride=2, residual=True, **relus),
        separable("larger-than-caches", 520, 17, 50, padding=1, batch=2, **relus),
    ]
    return cases


def mbconv_cases() -> list[OpCase]:
    """Every case of ``mbconv``."""
    make = inverted_residual
    cases = [make(name, 7, 24, 10, size, kernel, **options) for name, size, kernel, options in windows()]
    for index, channels in enumerate(CHANNELS):
        hidden, out_channels = CHANNELS[(index + 5) % len(CHANNELS)], CHANNELS[(index + 11) % len(CHANNELS)]
        name = f"c{channels}-h{hidden}-c{out_channels}"
        cases.append(make(name, channels, hidden, out_channels, (6, 7), padding=1, batch=2))
        cases.append(
            make(f"{name}-k5", channels, 6 * channels, channels, (5, 9), 5, padding=2, residual=True, activation="relu")
        )
    for width in range(1, 31):
        cases.append(make(f"width{width}", 9, 40, 17, (5, width), padding=1, stride=1 + width % 2))
    for activation in ops.ACTIVATIONS:
        cases.append(make(activation, 16, 50, 20, (6, 7), padding=1, activation=activation))
        outer: dict[str, Any] = {"activation": "relu", "output_activation": activation}
        cases.append(make(f"output-{activation}", 20, 48, 20, (6, 7), padding=1, residual=True, **outer))
    cases += [make(f"batch{n}", 13, 40, 13, (6, 5), padding=1, batch=n, residual=True) for n in (0, 2, 5)]
    cases += _grouped_blocks() + _squeezed_blocks()
    cases += [
        make("no-expansion", 24, 24, 16, 9, padding=1, expands=False),
        make("no-expansion-residual", 17, 17, 17, (9, 8), padding=1, expands=False, residual=True),
        make("no-bias", 16, 48, 24, 8, padding=1, bias=False),
        # Hidden tensors that no L2 cache keeps: strips of rows, hidden channels in chunks.
        make("strips", 8, 336, 17, (44, 42), padding=1),
        make("strips-residual", 24, 520, 24, (41, 42), 5, padding=2, residual=True, batch=2),
        make("strips-s2", 16, 400, 24, (90, 84), padding=1, stride=2, activation="silu"),
        make("strips-dilated", 8, 336, 16, 44, padding=3, dilation=3),
        make("strips-tail", 5, 325, 130, (50, 40), 7, padding=3, activation="hardswish"),
    ]
    return cases


def _grouped_blocks() -> list[OpCase]:
    make = inverted_residual
    cases = []
    for hidden in (8, 16, 24, 40, 64, 72, 136):
        cases.append(make(f"groups{hidden // 8}", 12, hidden, 20, (6, 9), width=8, padding=1, batch=2))
        cases.append(make(f"groups{hidden // 8}-s2", 8, hidden, 8, (7, 9), 5, width=8, padding=2, stride=2))
    for name, size, kernel, options in list(windows())[::4]:
        cases.append(make(f"{name}-groups", 8, 24, 12, size, kernel, width=8, **options))
    return [
        *cases,
        make("groups-no-expansion", 24, 24, 16, 9, width=8, padding=1, expands=False),
        make("groups-residual", 16, 64, 16, 9, width=8, padding=1, residual=True, activation="silu"),
        make("groups-strips", 8, 336, 17, (44, 42), width=8, padding=1),
        make("groups-squeezed", 16, 64, 16, 14, width=8, padding=1, squeeze=8, batch=2, residual=True),
    ]


def _squeezed_blocks() -> list[OpCase]:
    make = inverted_residual
    cases = []
    for squeeze in (1, 4, 15, 16, 17, 33):
        cases.append(make(f"squeeze{squeeze}", 12, 48, 20, (7, 8), padding=1, squeeze=squeeze, activation="silu"))
    for activation in ("relu", "silu", "hardswish", "gelu"):
        for gate in ("sigmoid", "hardsigmoid"):
            name = f"squeeze-{activation}-{gate}"
            options: dict[str, Any] = {"squeeze_excite": (activation, gate), "activation": activation}
            cases.append(make(name, 10, 37, 17, (9, 6), 5, padding=2, squeeze=9, batch=2, **options))
    for batch in (0, 2, 3, 5, 8):
        cases.append(make(f"squeeze-batch{batch}", 9, 40, 9, (8, 7), padding=1, squeeze=8, batch=batch, residual=True))
    return [
        *cases,
        make("squeeze-s2", 16, 72, 24, (15, 14), 5, padding=2, stride=2, squeeze=18, activation="hardswish"),
        make("squeeze-one-pixel", 16, 72, 24, 1, padding=1, squeeze=4),
        make("squeeze-no-expansion", 32, 32, 16, 9, padding=1, squeeze=8, expands=False, activation="silu"),
        make("squeeze-no-bias", 16, 48, 16, 9, padding=1, squeeze=8, bias=False),
        make("squeeze-large", 24, 144, 40, (56, 50), 5, padding=2, squeeze=6, activation="silu"),
        make("squeeze-larger", 8, 400, 24, (64, 60), padding=1, stride=2, squeeze=6, batch=2, activation="silu"),
    ]


def _output_shape(
    input: tuple[int, ...], out_channels: int, kernel: tuple[int, int], options: dict[str, Any]
) -> tuple[int, ...]:
    stride, dilation = _pair(options.get("stride", 1)), _pair(options.get("dilation", 1))
    left, right, top, bottom = padding_sides(options.get("padding", 0), kernel, dilation)
    height = (input[2] + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (input[3] + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return input[0], out_channels, height, width


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
