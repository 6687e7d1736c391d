"""Wrong calls of optimize, patch, explain, analyze and the compile backend, and wrong inputs of what they give."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from wrong_calls import assert_one_sentence, assert_refused, assert_state, state_of

import convfirst_ext as cf
import convfirst_ext.models as models

IMAGE = torch.randn(2, 3, 12, 12)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 24, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.pointwise(torch.relu(self.depthwise(self.stem(image))))


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False))


MODEL = Network()
FAST = cf.optimize(MODEL)
CALLS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: cf.optimize(None), TypeError, "model must be a torch.nn.Module, but is NoneType"),
    (lambda: cf.optimize(Network), TypeError, "model must be a torch.nn.Module, but is type"),
    (lambda: cf.optimize({"model": MODEL}), TypeError, "model must be a torch.nn.Module, but is dict"),
    (lambda: cf.optimize(MODEL, "bfloat16"), TypeError, "dtype must be None, .*, but is 'bfloat16'"),
    (lambda: cf.optimize(MODEL, torch.float64), TypeError, "dtype must be None, .*, but is torch.float64"),
    (lambda: cf.optimize(MODEL, torch.int8), TypeError, "dtype must be None, .*, but is torch.int8"),
    (lambda: cf.optimize(without_statistics()), ValueError, "model must keep running statistics .* '1' has none"),
    (lambda: cf.patch(None), TypeError, "model must be a torch.nn.Module, but is NoneType"),
    (lambda: cf.patch(Network), TypeError, "model must be a torch.nn.Module, but is type"),
    (lambda: cf.patch([MODEL]), TypeError, "model must be a torch.nn.Module, but is list"),
    (lambda: cf.explain(None, IMAGE), TypeError, "model must be a torch.nn.Module, but is NoneType"),
    (lambda: cf.explain(MODEL, None), TypeError, "example must be a tensor or a tuple of arguments, but is NoneType"),
    (lambda: cf.explain(MODEL, [IMAGE]), TypeError, "example must be a tensor or a tuple of arguments, but is list"),
    (lambda: cf.explain(MODEL, IMAGE, 1), TypeError, "time must be True or False, but is 1"),
    (lambda: cf.explain(MODEL, IMAGE, False, "yes"), TypeError, "predict must be True or False, but is 'yes'"),
    (lambda: cf.explain(FAST, IMAGE[:, :2], False), ValueError, "input must have 3 channels"),
    (lambda: cf.analyze(None, IMAGE), TypeError, "model must be a torch.nn.Module, but is NoneType"),
    (lambda: cf.analyze(MODEL, None), TypeError, "example must be a tensor .*, but is NoneType"),
    (lambda: cf.analyze(MODEL, [IMAGE]), TypeError, "example must be a tensor .*, but is list"),
    (lambda: cf.analyze(MODEL, ()), TypeError, "example must be a tensor .*, but is tuple"),
    (lambda: cf.analyze(MODEL, torch.tensor(1.0)), TypeError, "example must be a tensor .*, but is Tensor"),
    (lambda: cf.analyze(MODEL, IMAGE, None), TypeError, "machine must be a Machine, a name .*, but is NoneType"),
    (lambda: cf.analyze(MODEL, IMAGE, 3), TypeError, "machine must be a Machine, a name .*, but is int"),
    (lambda: cf.analyze(MODEL, IMAGE, "cray"), ValueError, "machine 'cray' is not known"),
    (lambda: cf.analyze(FAST, IMAGE, "a5000"), ValueError, "model must be .*, but is optimized"),
    (lambda: cf.analyze(MODEL, IMAGE[:, :2], "a5000"), ValueError, "model must run on the meta device"),
    (lambda: cf.analyze(MODEL, (IMAGE, IMAGE), "a5000"), ValueError, "model must run on the meta device"),
    (lambda: cf.analyze(MODEL, IMAGE[:0], "a5000"), ValueError, "batch must be positive, but is 0"),
    (lambda: cf.analyze(nn.Identity(), IMAGE, "a5000"), ValueError, "flow must hold at least one operation"),
    (lambda: FAST(None), TypeError, "input must be a Tensor, but is NoneType"),
    (lambda: FAST([1.0]), TypeError, "input must be a Tensor, but is list"),
    (lambda: FAST(IMAGE[0, 0]), ValueError, r"input must have 3 or 4 dimensions, but has shape \(12, 12\)"),
    (lambda: FAST(IMAGE[:, :2]), ValueError, r"input must have 3 channels, but has shape \(2, 2, 12, 12\)"),
    (lambda: FAST(torch.randn(2, 16, 12, 12)), ValueError, "input must have 3 channels"),
    (lambda: FAST(IMAGE.int()), TypeError, "input must have dtype float32, bfloat16 or float16, but has torch.int32"),
    (lambda: FAST(IMAGE.double()), TypeError, "input must have dtype .*, but has torch.float64"),
    (lambda: models.ConvFirstNet((16, 32), (1, 1)), ValueError, "channels must be 5 positive numbers"),
    (lambda: models.ConvFirstNet((16, 32, 64, 96, 0), (1,) * 5), ValueError, "channels must be 5 positive numbers"),
    (lambda: models.ConvFirstNet((16,) * 5, (1, 1, 1, 1, 0)), ValueError, "depths must be 5 positive numbers"),
    (lambda: models.ConvFirstNet((16,) * 5, None), TypeError, "depths must be 5 ints, but is None"),
    (lambda: models.ConvFirstNet(16, (1,) * 5), TypeError, "channels must be 5 ints, but is 16"),
    (lambda: models.ConvFirstNet((16.0,) * 5, (1,) * 5), TypeError, "channels must be 5 ints"),
    (lambda: models.ConvFirstNet((12,) * 5, (1,) * 5), ValueError, "in_channels must be a multiple of group_width 8"),
    (lambda: models.ConvFirstNet((16,) * 5, (1,) * 5, group_width=0), ValueError, "group_width must be positive"),
    (lambda: models.ConvFirstNet((16,) * 5, (1,) * 5, drop_path_rate=1.0), ValueError, "drop_path must be"),
]


@pytest.mark.parametrize(("call", "error", "pattern"), CALLS)
def test_wrong_call(call: Callable[[], object], error: type[Exception], pattern: str) -> None:
    before = state_of(MODEL), state_of(FAST)
    assert_refused(call, error, pattern)
    assert_state(MODEL, before[0])
    assert_state(FAST, before[1])


@pytest.mark.parametrize("example", [IMAGE[:, :2], (IMAGE, IMAGE), (None,), ()])
def test_what_the_model_itself_refuses_leaves_it_as_it_was(example: object) -> None:
    before = state_of(MODEL)
    with pytest.raises((RuntimeError, TypeError)):
        cf.explain(MODEL, example)
    assert_state(MODEL, before)


def test_an_input_that_wants_a_gradient_is_told_of_patch() -> None:
    with pytest.raises(RuntimeError, match="use convfirst_ext.patch to train") as caught:
        FAST(IMAGE.clone().requires_grad_())
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused_and_change_nothing() -> None:
    expected = FAST(IMAGE)
    packed = FAST.state_dict()
    for wrong in (
        MODEL.state_dict(),
        {},
        {name: tensor[:1, :1] for name, tensor in packed.items() if tensor.dim() > 1},
    ):
        with pytest.raises(RuntimeError, match="state_dict"):
            FAST.load_state_dict(wrong)
        assert torch.equal(FAST(IMAGE), expected)


def test_names_that_timm_does_not_know() -> None:
    with pytest.raises(RuntimeError, match="convfirstnet_huge"):
        timm.create_model("convfirstnet_huge")
    with pytest.raises(TypeError, match="spin"):
        timm.create_model("convfirstnet_pico", spin=1)


# The compile backend


@pytest.mark.parametrize("options", [{"mode": "max-autotune"}, {"options": {"tiles": 3}}])
def test_the_backend_has_no_modes_and_options(options: dict[str, object]) -> None:
    torch.compiler.reset()
    with torch.no_grad(), pytest.raises(Exception, match="mode|options") as caught:
        torch.compile(MODEL.eval(), backend="convfirst", **options)(IMAGE)
    assert "convfirst" in str(caught.value)
    MODEL.train()


def test_a_compiled_model_refuses_what_the_model_refuses() -> None:
    torch.compiler.reset()
    model = Network().eval()
    compiled = torch.compile(model, backend="convfirst")
    with torch.no_grad():
        expected = compiled(IMAGE)
        for wrong in (IMAGE[:, :2], IMAGE.int(), None):
            with pytest.raises((RuntimeError, TypeError)):
                model(wrong)
            with pytest.raises((RuntimeError, TypeError)):
                compiled(wrong)
        assert torch.equal(compiled(IMAGE), expected)


# What is right for the model is right for what is made of it.


@pytest.mark.parametrize("make", [cf.optimize, cf.patch, lambda model: torch.compile(model, backend="convfirst")])
def test_a_single_image_without_a_batch(make: Callable[[nn.Module], nn.Module]) -> None:
    torch.compiler.reset()
    layers = [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 24, 1)]
    for stock in (
        nn.Sequential(*layers),
        nn.Sequential(layers[2]),
        nn.Sequential(*layers[:2], nn.AdaptiveAvgPool2d(1)),
    ):
        image = torch.randn(16, 9, 8)
        with torch.no_grad():
            expected = stock.eval()(image)
            actual = make(stock)(image)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        assert actual.is_contiguous() == expected.is_contiguous()


def test_a_model_in_double_precision_stays_torchs() -> None:
    torch.compiler.reset()
    model, image = Network().double().eval(), IMAGE.double()
    with torch.no_grad():
        expected = model(image)
        torch.testing.assert_close(cf.optimize(model)(image), expected)
        torch.testing.assert_close(torch.compile(model, backend="convfirst")(image), expected)
        torch.testing.assert_close(cf.optimize(model, torch.float32)(image), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(cf.patch(model)(image), expected)


def test_sentences_are_told_from_others() -> None:
    for wrong in ("no full stop", "two. sentences.", "two\nlines."):
        with pytest.raises(AssertionError):
            assert_one_sentence(wrong)
