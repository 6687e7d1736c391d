"""Compares networks with other runtimes on the user's machine: checks what is asked for, then leaves it to `bench`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .networks import check_network
from .photos import printable
from .requirements import models_extra

with models_extra():
    from convfirst_ext.bench.comparison import run_comparison
    from convfirst_ext.bench.network_cases import MODELS, network_cases
    from convfirst_ext.bench.options import Options
    from convfirst_ext.bench.peers import RUNTIMES, check_names

# The layout of a three-channel image is nothing beside a network, so OpenVINO runs once.
NETWORK_RUNTIMES = tuple(name for name in RUNTIMES if name != "openvino_nhwc")
_BATCHES = (1, 16)
_LEAST_SIZE = 32
_QUICK_MODEL = "mobilenetv2_100"
_QUICK_SECONDS = 20.0
# To build Inductor's takes longer than all of a quick look.
_QUICK_RUNTIMES = tuple(name for name in NETWORK_RUNTIMES if name != "inductor")


@dataclass(frozen=True)
class Request:
    """What the user asked for; what was left open is None or empty.

    Args:
        models: timm names.
        batches: batch sizes.
        size: height and width of the images.
        threads: in every runtime.
        dtypes: names of dtypes.
        runtimes: names of runtimes.
        seconds: about how long it may take.
        output: folder of the results.
        quick: one network, in 20 seconds.
    """

    models: Sequence[str] = ()
    batches: Sequence[int] = ()
    size: int = 224
    threads: int | None = None
    dtypes: Sequence[str] = ()
    runtimes: Sequence[str] = ()
    seconds: float | None = None
    output: Path = Path()
    quick: bool = False


def compare_networks(request: Request, tell: Callable[[str], None] = print) -> bool:
    """Times the networks, prints the table and writes the results file and the plot.

    Args:
        request: what to compare.
        tell: gets a line of text for the user.

    Returns:
        Whether anything could be timed.

    Raises:
        ValueError: an argument is wrong; the message is one line that names it, its value and what is allowed.
    """
    _check(request)
    runtimes = _installed(request.runtimes or (_QUICK_RUNTIMES if request.quick else NETWORK_RUNTIMES), tell)
    models = request.models or ([_QUICK_MODEL] if request.quick else MODELS)
    batches = request.batches or ([1] if request.quick else _BATCHES)
    options = Options(
        output=request.output,
        runtimes=runtimes,
        dtypes=tuple(dict.fromkeys(request.dtypes)) or ("float32",),
        threads=torch.get_num_threads() if request.threads is None else request.threads,
        seconds=_QUICK_SECONDS if request.quick and request.seconds is None else request.seconds,
        batch=tuple(dict.fromkeys(batches)),
        size=request.size,
        can_resume=False,
    )
    cases = network_cases(list(dict.fromkeys(models)), list(dict.fromkeys(batches)), request.size)
    return any(
        timing["error"] is None
        for record in run_comparison("networks", cases, options).records
        for timing in record["timings"].values()
    )


def _check(request: Request) -> None:
    for model in request.models:
        check_network(model)
    if request.quick and len(set(request.models)) > 1:
        raise ValueError(f"--quick times one MODEL, got {len(set(request.models))}: {', '.join(request.models)}")
    for batch in request.batches:
        if batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")
    if request.size < _LEAST_SIZE:
        raise ValueError(f"--size must be at least {_LEAST_SIZE}, got {request.size}")
    if request.seconds is not None and not 0 < request.seconds < float("inf"):
        raise ValueError(f"--seconds must be more than 0 and finite, got {request.seconds:g}")
    check_names("--runtime", request.runtimes, list(NETWORK_RUNTIMES))
    offered = {dtype for name in request.runtimes or NETWORK_RUNTIMES for dtype in RUNTIMES[name].dtypes}
    check_names("--dtype with these runtimes", request.dtypes, sorted(offered))
    check_output(request.output)


def check_output(output: Path) -> None:
    """Said before the work, not after it: whether the results can be written there."""
    name = f"--output {printable(output)}"
    if output.exists() and not output.is_dir():
        raise ValueError(f"{name}: a file; it must be a folder")
    existing = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: it must be a folder you may write to, and {printable(existing)} is not")


def _installed(runtimes: Sequence[str], tell: Callable[[str], None]) -> tuple[str, ...]:
    """The runtimes whose packages are there; says in one line which are not."""
    absent = {name: RUNTIMES[name].missing for name in dict.fromkeys(runtimes) if RUNTIMES[name].missing}
    present = tuple(name for name in dict.fromkeys(runtimes) if name not in absent)
    if not absent:
        return present
    packages = ", ".join(dict.fromkeys(package for missing in absent.values() for package in missing))
    remedy = f'not installed: {packages}; run: pip install "convfirst_ext[bench]"'
    if not present:
        raise ValueError(f"--runtime {', '.join(absent)} needs packages that are {remedy}")
    tell(f"left out: {', '.join(absent)} ({remedy})")
    return present
