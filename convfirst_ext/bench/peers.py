"""The contestants: stock PyTorch three ways, ONNX Runtime, OpenVINO, and ours, all on the same prepared case.

Every builder runs in the contestant's own process, sets its number of threads explicitly, and proves before
it is timed that its output agrees with stock eager PyTorch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convfirst_ext.bench.cases import PreparedCase
from convfirst_ext.bench.naming import OURS, contestant_name
from convfirst_ext.bench.timer import Contestant, Workload

# Largest difference from eager fp32 over its largest value. At half precision a deep network with random weights
# loses a few percent in any runtime: this tells a wrong result, the results file says how good a right one is.
_TOLERANCE = {"float32": 1e-3, "float16": 1e-1, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Setup:
    """What a builder gets: the model in eval mode, its NCHW input, and how to run it."""

    model: nn.Module
    image: torch.Tensor
    threads: int
    dtype: torch.dtype
    channels_last_input: bool

    @property
    def model_channels_last(self) -> nn.Module:
        """The model in the dtype, its weights in channels_last."""
        model: nn.Module = self.model.to(self.dtype)
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    @property
    def image_channels_last(self) -> torch.Tensor:
        """The input in the dtype and memory format of a runtime that works in channels_last."""
        return self.image.to(self.dtype).contiguous(memory_format=torch.channels_last)


Runner = Callable[[], Any]


def contestants_for(
    prepared: PreparedCase, runtimes: Sequence[str], dtypes: Sequence[str], threads: int
) -> list[Contestant]:
    """Returns the contestants of one case: every runtime at every precision it offers.

    Raises:
        ValueError: a runtime or dtype is not known.
    """
    check_names("runtime", runtimes, list(RUNTIMES))
    check_names("dtype", dtypes, list(_TOLERANCE))
    return [
        Contestant(contestant_name(runtime, dtype), partial(build, prepared, runtime, dtype, threads))
        for dtype in dtypes
        for runtime in runtimes
        if dtype in RUNTIMES[runtime].dtypes
    ]


def check_names(kind: str, names: Sequence[str], allowed: list[str]) -> None:
    """Raises ValueError for the first of ``names`` that is not allowed."""
    for name in names:
        if name not in allowed:
            raise ValueError(f"{kind} must be one of {', '.join(allowed)}, got '{name}'")


def build(prepared: PreparedCase, runtime: str, dtype: str, threads: int) -> Workload:
    """Builds a runtime's workload and checks its output; raises ValueError where it differs from eager."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    model, image, reference = prepared.load()
    setup = Setup(model, image, threads, getattr(torch, dtype), prepared.case.channels_last_input)
    run = RUNTIMES[runtime].build(setup)
    error = relative_error(torch.as_tensor(run()), reference)
    if not error <= _TOLERANCE[dtype]:
        raise ValueError(f"the output differs from eager by {error:.1e} of its maximum, {_TOLERANCE[dtype]:g} allowed")
    return Workload(run, {"relative_error": error, "runtime": runtime, "dtype": dtype})


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """Returns the largest absolute difference over the largest absolute reference value."""
    if output.shape != reference.shape:
        raise ValueError(f"output has shape {tuple(output.shape)}, eager {tuple(reference.shape)}")
    return float((output.float() - reference).abs().max() / reference.abs().max())


def build_eager(setup: Setup) -> Runner:
    """Stock PyTorch, contiguous NCHW."""
    return partial(setup.model.to(setup.dtype), setup.image.to(setup.dtype))


def build_channels_last(setup: Setup) -> Runner:
    """Stock PyTorch with weights and input in channels_last."""
    return partial(setup.model_channels_last, setup.image_channels_last)


def build_inductor(setup: Setup) -> Runner:
    """torch.compile with frozen (folded and prepacked) weights, in channels_last."""
    import torch._inductor.config as inductor_config

    inductor_config.freezing = True
    inductor_config.compile_threads = 1
    return partial(torch.compile(setup.model_channels_last, dynamic=False), setup.image_channels_last)


def build_onnxruntime(setup: Setup) -> Runner:
    """ONNX Runtime's CPU provider at its highest optimisation level, static shapes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory(prefix="convfirst-onnx-") as directory:
        path = export_onnx(setup.model, setup.image, Path(directory))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: setup.image.numpy()}
    return lambda: session.run(None, feed)[0]


def export_onnx(model: nn.Module, image: torch.Tensor, directory: Path) -> Path:
    """Writes ``model`` as ONNX, shapes fixed to those of ``image``, by the older exporter if it must."""
    path = directory / "model.onnx"
    try:
        torch.onnx.export(model, (image,), path, dynamo=True, external_data=False, verbose=False)
    except Exception:
        torch.onnx.export(model, (image,), path, dynamo=False, opset_version=18)
    return path


def build_openvino(setup: Setup) -> Runner:
    """OpenVINO's CPU plugin, one latency stream, inference precision as asked for, NCHW in and out."""
    return _compile_openvino(setup, _convert_openvino(setup), setup.image)


def build_openvino_nhwc(setup: Setup) -> Runner:
    """The same with NHWC tensors in and out, which saves it reordering a single layer's input and output."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    converted = _convert_openvino(setup)
    processor = PrePostProcessor(converted)
    processor.input().tensor().set_layout(Layout("NHWC"))
    processor.input().model().set_layout(Layout("NCHW"))
    gives_image = len(converted.output(0).partial_shape) == 4
    if gives_image:
        processor.output().tensor().set_layout(Layout("NHWC"))
        processor.output().model().set_layout(Layout("NCHW"))
    run = _compile_openvino(setup, processor.build(), setup.image.permute(0, 2, 3, 1).contiguous())
    return (lambda: run().transpose(0, 3, 1, 2)) if gives_image else run  # a view: costs under a microsecond


def _convert_openvino(setup: Setup) -> Any:
    import openvino

    return openvino.convert_model(setup.model, example_input=setup.image, input=list(setup.image.shape))


def _compile_openvino(setup: Setup, converted: Any, image: torch.Tensor) -> Runner:
    import openvino

    precision = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[setup.dtype]
    settings = {
        "INFERENCE_NUM_THREADS": setup.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()
    pixels = image.numpy()
    request.set_input_tensor(openvino.Tensor(pixels, shared_memory=True))
    kept_alive = (pixels, setup.model)  # the request points into them without owning them

    def run(_owners: Any = kept_alive) -> Any:
        request.infer()
        return request.get_output_tensor().data

    return run


def build_convfirst(setup: Setup) -> Runner:
    """cf.optimize: batch norms folded, blocks fused, weights packed."""
    import convfirst_ext as cf

    dtype = None if setup.dtype == torch.float32 else setup.dtype
    model = cf.optimize(setup.model, dtype=dtype)
    image = setup.image_channels_last if setup.channels_last_input else setup.image.to(setup.dtype)
    return partial(model, image)


@dataclass(frozen=True)
class Runtime:
    """How to build a runtime, what to call it in text, the precisions it offers, and the packages it needs."""

    build: Callable[[Setup], Runner]
    title: str
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


RUNTIMES = {
    "eager": Runtime(build_eager, "PyTorch eager"),
    "channels_last": Runtime(build_channels_last, "PyTorch channels_last"),
    "inductor": Runtime(build_inductor, "Inductor, freezing"),
    "onnxruntime": Runtime(build_onnxruntime, "ONNX Runtime", ("float32",), ("onnxruntime", "onnx")),
    "openvino": Runtime(build_openvino, "OpenVINO", packages=("openvino",)),
    "openvino_nhwc": Runtime(build_openvino_nhwc, "OpenVINO, NHWC tensors", packages=("openvino",)),
    OURS: Runtime(build_convfirst, "convfirst_ext"),
}
