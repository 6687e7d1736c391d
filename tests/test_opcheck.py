"""Schemas, fake kernels, autograd registrations and compilation of every raw operator."""

from typing import Any

import pytest
import torch
from contract import DTYPES, SPATIAL_WEIGHTS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from convfirst_ext.ops import chain, packed
from convfirst_ext.testing import CASES, OpCase, assert_within, sample

CHANNELS_LAST = torch.channels_last


def _registered() -> list[str]:
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    return sorted(name.removeprefix("convfirst::") for name in names if name.startswith("convfirst::"))


def _image(channels: int, dtype: torch.dtype = torch.float32, size: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size).to(dtype).contiguous(memory_format=CHANNELS_LAST)


def _weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def _window(kernel: int) -> tuple[list[int], list[int], list[int]]:
    pad = kernel // 2
    return [1, 1], [pad, pad, pad, pad], [1, 1]


def _plain(weight: tuple[int, ...], channels: int, groups: int) -> list[tuple[Any, ...]]:
    window = _window(weight[2])
    cases: list[tuple[Any, ...]] = [
        (_image(channels, d), _weight(*weight, dtype=d), None, *window, groups) for d in DTYPES
    ]
    leaf = [
        _image(channels).requires_grad_(),
        _weight(*weight).requires_grad_(),
        torch.randn(weight[0]).requires_grad_(),
    ]
    cases.append((*leaf, *window, groups))
    cases.append((_image(channels), *leaf[1:], *window, groups))
    return cases


def _packed(weight: tuple[int, ...], channels: int, groups: int) -> list[tuple[Any, ...]]:
    bias = packed.pack_bias(torch.randn(weight[0]), weight[0])
    rest = (*_window(weight[2]), groups, weight[0])
    return [
        (_image(channels, dtype), packed.pack_weight(_weight(*weight)), bias, residual, *rest, activation)
        for dtype in DTYPES
        for residual, activation in ((None, "relu6"), (_image(weight[0], dtype), "silu"))
    ]


def _pair(out_channels: int, in_channels: int, kernel: int = 1) -> tuple[Tensor, Tensor]:
    weight = _weight(out_channels, in_channels, kernel, kernel)
    return packed.pack_weight(weight), packed.pack_bias(None, out_channels)


def _separable_packed() -> list[tuple[Any, ...]]:
    layers = (*_pair(17, 1, 3), *_pair(24, 17))
    rest = (*_window(3), 24, "relu", "identity")
    return [(_image(17), *layers, None, *rest), (_image(17), *layers, _image(24), *rest)]


def _mbconv_packed() -> list[tuple[Any, ...]]:
    layers = (*_pair(24, 8), *_pair(24, 1, 3), *_pair(12, 24))
    unexpanded = (None, None, *_pair(24, 1, 3), *_pair(12, 24))
    rest = (*_window(3), 24, 24, 12, "relu", "identity")
    no_se = (None, None, None, None, 0, "relu", "sigmoid")
    se = (*_pair(5, 24), *_pair(24, 5), 5, "silu", "hardsigmoid")
    return [
        (_image(8), *layers, None, *rest, *no_se),
        (_image(8), *layers, _image(12), *rest, *se),
        (_image(24), *unexpanded, None, *rest, *se),
    ]


def _chains() -> list[tuple[Any, ...]]:
    window = chain.window_integers((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    steps = [
        chain.convolution("pointwise", *_pair(17, 8), window, 1, 17, "gelu"),
        chain.Step(chain.LAYER_NORM, (chain.real_integer(1e-6),), (torch.ones(32), torch.zeros(32))),
        chain.convolution("pointwise", *_pair(17, 17), window, 1, 17, "identity"),
        chain.Step(chain.GLOBAL_POOL, (), ()),
    ]
    wiring = [(0, -1), (1, -1), (2, 1), (3, -1)]
    weights = chain.join_weights(steps)
    flat = [(_image(8, dtype), weights, chain.program_of(steps, wiring), True) for dtype in DTYPES]
    whole = (_image(8), chain.join_weights(steps[:3]), chain.program_of(steps[:3], wiring[:3]), False)
    return [*flat, whole]


def _winograd_weight(channels: int, tile: int) -> Tensor:
    return packed.pack_weight_for(f"winograd{tile}", _weight(20, channels, 3, 3))


def _winograd_rest(residual: Tensor | None) -> tuple[Any, ...]:
    window = ([1, 1], [1, 1, 1, 1], [1, 1])
    return packed.pack_bias(None, 20), residual, *window, 1, 20, "relu"


def _split(weight: tuple[int, ...], groups: int) -> list[tuple[Any, ...]]:
    rest = ([2, 2], [1, 1, 1, 1], [1, 0], [1, 1], groups)
    cases: list[tuple[Any, ...]] = [
        (_image(weight[0], dtype), _weight(*weight, dtype=dtype), None, *rest) for dtype in DTYPES
    ]
    leaves = _image(weight[0]).requires_grad_(), _weight(*weight).requires_grad_()
    cases.append((*leaves, torch.randn(weight[1] * groups).requires_grad_(), *rest))
    return cases


def _split_packed(weight: tuple[int, ...], groups: int) -> list[tuple[Any, ...]]:
    channels = weight[1] * groups
    packed_weight = packed.pack_transposed_weight(_weight(*weight), groups)
    rest = (packed.pack_bias(None, channels), [2, 2], [1, 0, 1, 2], [1, 0], [1, 1], groups, channels, "relu")
    return [(_image(weight[0], dtype), packed_weight, *rest) for dtype in DTYPES]


def _floats(*shape: int) -> Tensor:
    return torch.rand(shape) + 0.5


def _normed_convs() -> list[tuple[Any, ...]]:
    norm = (_floats(16), _floats(16))
    depthwise, grouped = _weight(16, 1, 3, 3), _weight(16, 8, 3, 3)
    return [
        (_image(16), *norm, _floats(2, 16), "silu", _weight(20, 16, 1, 1), *_window(1), 1),
        (_image(16), None, None, None, "identity", depthwise, [2, 2], [1, 0, 1, 1], [1, 1], 16),
        (_image(16), *norm, None, "relu", grouped, *_window(3), 2),
    ]


def _normed_gradients() -> list[tuple[Any, ...]]:
    cases: list[tuple[Any, ...]] = []
    for image, scale, shift, gate, activation, weight, *window in _normed_convs():
        output = torch.ops.convfirst.normed_conv2d(image, scale, shift, gate, activation, weight, *window)[0]
        mean = None if scale is None else _floats(16)
        rest = (image, scale, shift, mean, gate, activation, weight, *window)
        cases.append((output, output, _floats(3, weight.shape[0]), *rest, True))
        cases.append((output, None, None, *rest, False))
    return cases


def _normed(*rest: Any) -> tuple[Any, ...]:
    return (_image(6), _floats(6), _floats(6), *rest)


ARGUMENTS: dict[str, list[tuple[Any, ...]]] = {
    "chain_packed": _chains(),
    "profile_chain_packed": _chains(),
    "pack_winograd_weight": [(_weight(17, 3, 3, 3, dtype=dtype), tile) for dtype in DTYPES for tile in (2, 4)],
    "pack_weight": [(_weight(17, 3, 3, 3, dtype=dtype),) for dtype in DTYPES],
    "depthwise_conv2d": _plain((34, 1, 3, 3), 17, 17),
    "depthwise_conv2d_packed": _packed((34, 1, 3, 3), 17, 17),
    "grouped_conv2d": _plain((24, 8, 3, 3), 24, 3),
    "grouped_conv2d_packed": _packed((24, 8, 3, 3), 24, 3),
    "pointwise_conv2d": _plain((20, 13, 1, 1), 13, 1),
    "pointwise_conv2d_packed": _packed((20, 13, 1, 1), 13, 1),
    "dense_conv2d": _plain((20, 3, 3, 3), 3, 1),
    "trimmed_conv2d": _plain((20, 5, 3, 3), 5, 1),
    "trimmed_conv2d_packed": _packed((20, 5, 3, 3), 5, 1),
    "winograd_conv2d": [
        (_image(17, size=30), _weight(20, 17, 3, 3), None, *_window(3), 1),
        *_plain((20, 17, 3, 3), 17, 1),
    ],
    "winograd_conv2d_packed": [
        (
            _image(c, dtype),
            _winograd_weight(c, tile),
            *_winograd_rest(residual),
        )
        for c, tile, residual in ((5, 2, None), (17, 4, _image(20)))
        for dtype in (DTYPES if residual is None else DTYPES[:1])
    ],
    "split_conv_transpose2d": _split((5, 20, 3, 3), 1) + _split((17, 2, 3, 3), 17),
    "split_conv_transpose2d_packed": _split_packed((5, 20, 3, 3), 1) + _split_packed((17, 1, 3, 3), 17),
    "strided_weight_grad": [
        (_image(c).requires_grad_(), _image(o, size=3).requires_grad_(), [3, 3], [2, 2], [1, 1, 1, 1], [1, 1], g)
        for c, o, g in ((5, 20, 1), (17, 17, 17), (6, 4, 2))
    ],
    "channel_moments": [(_image(17),)],
    "channel_sums": [(_image(17),)],
    "normed_activation": [_normed("silu", None), _normed("relu", _image(6))],
    "normed_activation_mean": [_normed("silu")],
    "normed_activation_backward": [
        (_image(6), *_normed(_floats(6), "silu", None, None, True)),
        (_image(6), *_normed(_floats(6), "relu", _floats(2, 6), _floats(2, 6), False)),
    ],
    "normed_activation_input_grad": [(_image(6), *_normed("gelu", _floats(3, 6)))],
    "normed_conv2d": _normed_convs(),
    "normed_conv2d_backward": _normed_gradients(),
    "pack_transposed_weight": [(_weight(6, 17, 3, 3, dtype=dtype), groups) for dtype in DTYPES for groups in (1, 3)],
    "dense_conv2d_packed": _packed((20, 3, 3, 3), 3, 1),
    "depthwise_separable_packed": _separable_packed(),
    "mbconv_packed": _mbconv_packed(),
}
COMPILED = [cases[index] for cases in CASES.values() for index in (0, len(cases) // 2)]
FAKED = [*sample(4), *(case for case in CASES["mbconv"] if "squeeze" in case.name)]


def test_every_registered_operator_is_checked() -> None:
    assert sorted(ARGUMENTS) == _registered()


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_opcheck(name: str) -> None:
    for arguments in ARGUMENTS[name]:
        operator = getattr(torch.ops.convfirst, name).default
        if name.startswith("profile_"):  # the times are other ones in every call
            torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_autograd_registration"))
            continue
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("case", FAKED, ids=str)
def test_fake_tensors_have_the_shape_strides_and_dtype_of_real_ones(case: OpCase) -> None:
    for dtype in DTYPES[:2]:
        for layout in (torch.contiguous_format, CHANNELS_LAST):
            tensors = case.make(dtype)
            tensors["input"] = tensors["input"].contiguous(memory_format=layout)
            real = case.run(tensors)
            with FakeTensorMode() as mode:
                fake = case.run({name: mode.from_tensor(tensor) for name, tensor in tensors.items()})
            assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)
            if real.numel():
                assert fake.stride() == real.stride()


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_compiles_in_one_graph(case: OpCase) -> None:
    torch._dynamo.reset()
    tensors = case.make(values="normal")
    compiled = torch.compile(case.run, fullgraph=True, backend="aot_eager")
    actual = compiled(tensors)
    assert actual.stride() == case.run(tensors).stride()
    assert_within(actual, case.reference(tensors))


@pytest.mark.parametrize("op", list(CASES))
def test_compiles_with_gradients(op: str) -> None:
    torch._dynamo.reset()
    case = _growable(op)
    leaves = {name: tensor.requires_grad_() for name, tensor in case.make(values="normal").items()}
    compiled = torch.compile(case.run, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(case.run(leaves).square().sum(), list(leaves.values()))
    actual = torch.autograd.grad(compiled(leaves).square().sum(), list(leaves.values()))
    for ours, eager in zip(actual, expected, strict=True):  # blocks are one operator in eager mode only
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5 * eager.abs().max().item())


@pytest.mark.parametrize("op", list(CASES))
def test_compiles_once_for_all_image_sizes(op: str) -> None:
    torch._dynamo.reset()
    case = _growable(op)
    tensors = {name: t for name, t in case.make(values="normal").items() if name != "residual"}
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(case.run, fullgraph=True, backend=counter, dynamic=True)
    for batch, height, width in ((2, 9, 11), (3, 12, 10), (5, 31, 40)):
        given = tensors | {"input": torch.randn(batch, tensors["input"].shape[1], height, width)}
        assert_within(compiled(given), case.reference(given))
    assert counter.frame_count == 1


@pytest.mark.parametrize("op", list(CASES))
def test_exports_with_a_free_batch_and_image_size(op: str) -> None:
    case = _growable(op)
    tensors = {name: t for name, t in case.make(values="normal").items() if name not in ("input", "residual")}

    class Layer(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return case.run(tensors | {"input": image})

    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=4), 3: torch.export.Dim("width", min=4)}
    example = torch.randn(2, case.shapes["input"][1], 9, 11)
    program = torch.export.export(Layer(), (example,), dynamic_shapes=({**free},))
    for shape in ((2, 9, 11), (3, 12, 10)):
        image = torch.randn(shape[0], case.shapes["input"][1], *shape[1:])
        assert_within(program.module()(image), case.reference(tensors | {"input": image}))


@pytest.mark.slow
@pytest.mark.parametrize("op", list(CASES))
def test_inductor(op: str) -> None:
    torch._dynamo.reset()
    case = _growable(op)
    tensors = case.make(values="normal")
    compiled = torch.compile(lambda given: case.run(given) * 2 + 1, fullgraph=True)
    torch.testing.assert_close(compiled(tensors), case.run(tensors) * 2 + 1)


def _growable(op: str) -> OpCase:
    """A case that takes an image of any size: 3x3 with padding 1 where there is a window."""

    def grows(case: OpCase) -> bool:
        kernel = next(shape[2:] for name, shape in case.shapes.items() if name in SPATIAL_WEIGHTS)
        window = {key: case.options.get(key, 1) for key in ("stride", "dilation")}
        return kernel == (3, 3) and case.options.get("padding") in (1, (1, 1)) and set(window.values()) == {1}

    return next(case for case in CASES[op] if op == "pointwise_conv2d" or grows(case))
