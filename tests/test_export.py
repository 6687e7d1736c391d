"""torch.export and AOTInductor of optimized models."""

import io
from pathlib import Path

import pytest
import torch
from networks import network, relative_error, with_statistics
from test_fusion import block
from torch import nn
from torch.export import Dim, ExportedProgram

import convfirst_ext as cf
from convfirst_ext.ops import chain

BATCH = ({0: Dim("batch", max=64)},)


def program(fast: nn.Module, image: torch.Tensor, shapes: tuple[dict[int, Dim], ...] | None) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(fast, (image,), dynamic_shapes=shapes)


def through_a_file(exported: ExportedProgram) -> ExportedProgram:
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    return torch.export.load(buffer)


def calls(exported: ExportedProgram, operator: str) -> int:
    return sum(operator in str(node.target) for node in exported.graph.nodes)


def fused_steps(exported: ExportedProgram) -> int:
    """Fused blocks inside the one chain of a program."""
    (call,) = [node for node in exported.graph.nodes if "chain_packed" in str(node.target)]
    kinds = chain.kinds_of(call.args[2])
    return kinds.count(chain.FUSED_BLOCK)


@pytest.mark.parametrize(
    ("name", "blocks"), [("tf_efficientnet_lite0", 16), ("mobilenetv3_small_100", 11), ("tv:mobilenet_v2", 17)]
)
@pytest.mark.parametrize("shapes", [None, BATCH], ids=["static", "batch"])
def test_exported_and_loaded_programs_give_the_same(
    name: str, blocks: int, shapes: tuple[dict[int, Dim], ...] | None
) -> None:
    fast = cf.optimize(network(name))
    exported = program(fast, torch.randn(2, 3, 64, 64), shapes)
    assert calls(exported, "chain_packed") == 1 and fused_steps(exported) == blocks
    loaded = through_a_file(exported)
    with torch.no_grad():
        for batch in (2, 1, 5) if shapes else (2,):
            image = torch.randn(batch, 3, 64, 64)
            assert torch.equal(exported.module()(image), fast(image))
            assert torch.equal(loaded.module()(image), fast(image))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_storage_types_export(dtype: torch.dtype) -> None:
    fast = cf.optimize(network("mobilenetv3_small_100"), dtype=dtype)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(program(fast, image, BATCH).module()(image), fast(image))


@pytest.mark.parametrize("channels_last", [False, True])
def test_feature_maps_keep_their_layout(channels_last: bool) -> None:
    fast = cf.optimize(with_statistics(nn.Sequential(block(), block())).eval())
    image = torch.randn(2, 16, 9, 9)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    actual = program(fast, image, BATCH).module()(image)
    assert torch.equal(actual, fast(image)) and actual.stride() == image.stride()


def test_free_image_sizes_where_the_padding_is_symmetric() -> None:
    fast = cf.optimize(network("mobilenetv3_small_100"))
    free = {0: Dim("batch", max=64), 2: Dim("height", min=33, max=512), 3: Dim("width", min=33, max=512)}
    exported = program(fast, torch.randn(2, 3, 64, 64), (free,))
    with torch.no_grad():
        for shape in ((2, 3, 64, 64), (1, 3, 97, 65)):
            image = torch.randn(shape)
            assert relative_error(exported.module()(image), fast(image)) < 1e-6


def test_an_optimized_model_compiles_whole() -> None:
    torch._dynamo.reset()
    fast = cf.optimize(network("mobilenetv3_small_100"))
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch in (2, 3):
            image = torch.randn(batch, 3, 64, 64)
            assert relative_error(compiled(image), fast(image)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [None, BATCH], ids=["static", "batch"])
def test_aot_inductor(shapes: tuple[dict[int, Dim], ...] | None, tmp_path: Path) -> None:
    fast = cf.optimize(network("mobilenetv3_small_100"))
    exported = program(fast, torch.randn(2, 3, 64, 64), shapes)
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    with torch.no_grad():
        for batch in (2, 5) if shapes else (2,):
            image = torch.randn(batch, 3, 64, 64)
            assert relative_error(loaded(image), fast(image)) < 1e-5
