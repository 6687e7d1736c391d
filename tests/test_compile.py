"""torch.compile(backend="convfirst"): equal to stock, fused where it may, and torch's own graph where it must."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from compiled import IMAGE, Recorder, small
from networks import network, relative_error, with_statistics
from sessions import run_python
from test_fusion import NETWORKS, block, structure
from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

import convfirst_ext as cf


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.fixture
def backend() -> Recorder:
    return Recorder()


QUICK = ("convnext_atto", "tv:convnext_tiny", "efficientnet_b0", "tf_efficientnet_lite0", "tv:mobilenet_v3_large")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_finds_the_blocks_that_optimize_finds(name: str, backend: Recorder) -> None:
    model = network(name)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(compiled(image), model(image)) < 1e-4
    assert [structure(graph.fused) for graph in backend.graphs] == [NETWORKS[name]]


@pytest.mark.parametrize("options", [{"conv_mlp": True}, {"ls_init_value": None}, {"act_layer": "gelu_tanh"}])
def test_forms_of_convnext(options: dict, backend: Recorder) -> None:
    model = network("convnext_atto", **options)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(torch.compile(model, backend=backend, fullgraph=True)(image), model(image)) < 1e-4
    assert [structure(graph.fused) for graph in backend.graphs] == [NETWORKS["convnext_atto"]]


@pytest.mark.parametrize("part", ["gamma", "norm.weight", "norm.bias", "mlp.fc1.weight", "mlp.fc2.bias"])
def test_changed_weights_of_a_convnext_block_are_seen(part: str, backend: Recorder) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ConvNeXtBlock(20, ls_init_value=0.5), LayerNorm2d(20)).eval()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    image = torch.randn(1, 20, 9, 9)
    with torch.no_grad():
        before = compiled(image)
        changed = model[0].get_parameter(part)
        changed.add_(torch.rand_like(changed))
        for _ in range(3):
            assert relative_error(compiled(image), model(image)) < 1e-5
        assert relative_error(before, model(image)) > 1e-3
        model[1].bias.add_(1)
        for _ in range(3):
            assert relative_error(compiled(image), model(image)) < 1e-5
    assert {structure(graph.fused) for graph in backend.graphs} == {(0, 0, 0, 1, 1)}


class _NotABlock(nn.Module):
    """What looks like a ConvNeXt block but for one thing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.block = kind, ConvNeXtBlock(20, ls_init_value=0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block.norm(self.block.conv_dw(x).permute(0, 2, 3, 1))
        result = self.block.mlp(hidden)
        if self.kind == "permuted otherwise":
            result = result.permute(0, 3, 2, 1)
        else:
            result = result.permute(0, 3, 1, 2)
        if self.kind == "scaled by columns":
            result = result * self.block.gamma.reshape(1, 1, 1, -1)
        if self.kind == "seen inside":
            return x + result + hidden.mean()
        if self.kind == "another addend":
            return result + 2 * x
        return result + x


@pytest.mark.parametrize("kind", ["permuted otherwise", "scaled by columns", "seen inside", "another addend"])
def test_what_only_looks_like_a_convnext_block(kind: str, backend: Recorder) -> None:
    torch.manual_seed(0)
    model = _NotABlock(kind).eval()
    image = torch.randn(2, 20, 20, 20)
    with torch.no_grad():
        assert relative_error(torch.compile(model, backend=backend)(image), model(image)) < 1e-5
    assert all(structure(graph.fused)[3] == 0 for graph in backend.graphs)


def test_what_the_passes_hardly_know_still_runs(backend: Recorder) -> None:
    model = network("tv:shufflenet_v2_x0_5")
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(compiled(image), model(image)) < 1e-4


def test_the_name_is_known_after_the_import() -> None:
    model = small()
    with torch.no_grad():
        assert relative_error(torch.compile(model, backend="convfirst")(IMAGE), model(IMAGE)) < 1e-5
    assert "convfirst" in torch._dynamo.list_backends()


def test_the_name_is_known_by_the_entry_point_alone(tmp_path: Path) -> None:
    package = Path(cf.__file__).parent
    (tmp_path / package.name).symlink_to(package)
    info = tmp_path / "convfirst_ext-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: convfirst_ext\nVersion: 0.1.0\n")
    declared = "convfirst = convfirst_ext.fusion.compiling:compile_graph"
    (info / "entry_points.txt").write_text(f"[torch_dynamo_backends]\n{declared}\n")
    program = (
        "import sys, torch\n"
        "if sys.argv[1] == 'imported': import convfirst_ext; assert 'torch._dynamo' not in sys.modules\n"
        "with torch.no_grad(): print(torch.compile(torch.nn.ReLU(), backend='convfirst')(torch.ones(1)))\n"
    )
    for order in ("imported", "alone"):
        session = run_python("-c", program, order, PYTHONPATH=str(tmp_path))
        assert session.stdout.strip() == "tensor([1.])", session.stderr


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_come_back_in_the_layout_that_torch_gives(channels_last: bool, backend: Recorder) -> None:
    model = small()
    image = IMAGE.contiguous(memory_format=torch.channels_last) if channels_last else IMAGE
    with torch.no_grad():
        actual, expected = torch.compile(model, backend=backend)(image), model(image)
    assert relative_error(actual, expected) < 1e-5 and actual.stride() == expected.stride()
    assert backend.counts == [(2, 0, 0)]


# Dynamic shapes


def test_a_second_batch_size_is_the_last_compilation(backend: Recorder) -> None:
    model = small()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        for batch in (2, 3, 5, 8):
            image = torch.randn(batch, 16, 9, 9)
            assert relative_error(compiled(image), model(image)) < 1e-5
    assert backend.counts == [(2, 0, 0)] * 2


@pytest.mark.parametrize("mark", [False, True])
def test_a_batch_declared_dynamic_compiles_once(mark: bool, backend: Recorder) -> None:
    model = nn.Sequential(small(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=None if mark else True)
    with torch.no_grad():
        for batch in (2, 3, 7):
            image = torch.randn(batch, 16, 9, 9)
            if mark:
                torch._dynamo.mark_dynamic(image, 0)
            assert relative_error(compiled(image), model(image)) < 1e-5
    assert backend.counts == [(2, 0, 0)]


# Graph breaks


class _Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(), block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        print("between", end="")
        return self.second(x) if x.sum() > 0 else x + self.second(x)


def test_graph_breaks(backend: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = with_statistics(_Breaks()).eval()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for image in (IMAGE, -IMAGE):
            assert relative_error(compiled(image), model(image)) < 1e-5
    assert capsys.readouterr().out == "between" * 4
    assert sum(made == (1, 0, 0) for made in backend.counts) >= 2


# What must stay torch's


class _WritesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = block()

    def forward(self, x: Tensor) -> Tensor:
        x += self.block(x)
        return x * 2


class _WritesAHiddenTensor(_WritesItsInput):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block[:3](x)
        hidden.add_(1)
        return self.block[3:](hidden)


class _WritesThroughAView(_WritesItsInput):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block(x)
        hidden[:, 0].mul_(2)
        return hidden


class _Autocasts(_WritesItsInput):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.block(x)


class _MakesItsWeight(_WritesItsInput):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.block[0].weight
        return F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True))


@pytest.mark.parametrize("make", [_WritesItsInput, _WritesAHiddenTensor, _WritesThroughAView, _Autocasts])
def test_mutation_and_autocast_run_as_torch_would(make: type[nn.Module], backend: Recorder) -> None:
    torch.manual_seed(0)
    model = with_statistics(make()).eval()
    given, twin = IMAGE.clone(), IMAGE.clone()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=backend)(given), model(twin))
    assert torch.equal(given, twin) and backend.counts == [None]


def test_autocast_around_the_call(backend: Recorder) -> None:
    model = small()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        actual = torch.compile(model, backend=backend)(IMAGE)
        assert actual.dtype == torch.bfloat16 and torch.equal(actual, model(IMAGE))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype, backend: Recorder) -> None:
    model = small().to(dtype)
    with torch.no_grad():
        actual, expected = torch.compile(model, backend=backend)(IMAGE.to(dtype)), model(IMAGE.to(dtype))
    assert actual.dtype == dtype and relative_error(actual, expected) < (0.05 if dtype == torch.bfloat16 else 1e-12)
    assert backend.counts == [(2, 0, 0) if dtype == torch.bfloat16 else None]


class _Flattens(_WritesItsInput):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.block(x)
        return hidden.view(hidden.size(0), -1), hidden.double()


@pytest.mark.parametrize("make", [_Flattens, _MakesItsWeight])
def test_graphs_that_invite_mistakes(make: type[nn.Module], backend: Recorder) -> None:
    torch.manual_seed(0)
    model = with_statistics(make()).eval()
    with torch.no_grad():
        actual, expected = torch.compile(model, backend=backend, fullgraph=True)(IMAGE), model(IMAGE)
    pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
    assert all(a.dtype == e.dtype and relative_error(a, e) < 1e-5 for a, e in pairs)


def test_inference_mode(backend: Recorder) -> None:
    model = small()
    compiled = torch.compile(model, backend=backend)
    with torch.inference_mode():
        assert relative_error(compiled(IMAGE), model(IMAGE)) < 1e-5
    with torch.no_grad():
        assert relative_error(compiled(IMAGE), model(IMAGE)) < 1e-5
    assert set(backend.counts) == {(2, 0, 0)}


def test_modules_that_are_not_inlined_run_as_torch_would(backend: Recorder) -> None:
    model = small()
    with torch._dynamo.config.patch(inline_inbuilt_nn_modules=False), torch.no_grad():
        assert relative_error(torch.compile(model, backend=backend)(IMAGE), model(IMAGE)) < 1e-5
