"""Analyses the model that a user names: least times on a machine, and what the fused network takes on this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

import convfirst_ext as cf
from convfirst_ext.analysis import NetworkAnalysis
from convfirst_ext.fusion import Explanation, Record
from convfirst_ext.fusion.explanation_table import short_name
from convfirst_ext.fusion.kernel_rates import rates_for
from convfirst_ext.fusion.stopwatch import Stopwatch

from .benchmark import check_output
from .models import NamedModel, make_model
from .steps import Tell

THIS = "this"
STEPS = 5
_LEAST_SIZE = 8


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        model: a name that ``make_model`` takes.
        machine: "this", or a name or file that ``analysis.find_machine`` takes.
        batch: images.
        size: height and width of them, None for what the model is made for.
        time: whether to run the fused network, where the machine is this one.
        output: folder of report and plots.
    """

    model: str
    machine: str = THIS
    batch: int = 1
    size: int | None = None
    time: bool = True
    output: Path = Path()


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        request: as given.
        size: height and width of the images.
        network: layers and blocks of the stock model.
        fused: blocks of the optimized network; None where the machine is another.
        seconds: median time of the optimized network, None where it was not run.
    """

    request: Request
    size: int
    network: NetworkAnalysis
    fused: Explanation | None = None
    seconds: float | None = None

    @property
    def title(self) -> str:
        """Model and images."""
        images = "1 image" if self.request.batch == 1 else f"{self.request.batch} images"
        return f"{self.request.model}, {images} of {self.size}x{self.size}"

    @property
    def timing(self) -> list[str]:
        """Sentences on the optimized network's time."""
        if self.fused is None:
            return []
        predicted, lines = self.fused.totals.predicted_seconds, []
        if predicted is None:
            others = sum(record.predicted_seconds is None for record in self.fused)
            lines.append(f"No prediction for the optimized network: {others} of its layers run in torch.")
        else:
            lines.append(f"Predicted for the optimized network from its kernels' rates: {1e3 * predicted:.4g} ms.")
        if self.seconds is not None:
            ideal = self.network.ideal_seconds / self.seconds
            lines.append(
                f"Measured: the optimized network takes {1e3 * self.seconds:.4g} ms, {ideal:.0%} of peak, "
                f"{self.seconds / self.network.block_seconds:.2f} times the least time with fused blocks."
            )
        return lines

    @property
    def curves(self) -> dict[str, list[float]]:
        """Predicted and measured seconds up to every block of ``network``, where blocks correspond."""
        if self.fused is None:
            return {}
        records = list(self.fused)
        found = {
            "optimized, predicted": _by_block(self.network, records, [record.predicted_seconds for record in records]),
            "optimized, measured": _by_block(self.network, records, [record.seconds for record in records]),
        }
        return {name: list(accumulate(seconds)) for name, seconds in found.items() if seconds is not None}

    @property
    def points(self) -> dict[str, tuple[float, float]]:
        """Predicted and measured seconds of the optimized network's blocks."""
        return {
            short_name(record.name): (record.predicted_seconds, record.seconds)
            for record in self.fused or ()
            if record.predicted_seconds is not None and record.seconds is not None
        }


def analyze_model(request: Request, tell: Tell = lambda step: None) -> Outcome:
    """Analyses one model; writes nothing.

    Args:
        request: what to analyse.
        tell: gets the name of each of the ``STEPS`` that begins, "" where times are measured.

    Raises:
        ValueError: an argument is wrong; the message is one line that names it and what is allowed.
        OSError: a file of machines cannot be read.
    """
    if request.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {request.batch}")
    if request.size is not None and request.size < _LEAST_SIZE:
        raise ValueError(f"--size must be at least {_LEAST_SIZE}, got {request.size}")
    check_output(request.output)
    if request.machine != THIS:
        cf.analysis.find_machine(request.machine)  # said before a model is made
    tell("Making the model")
    made = make_model(request.model)
    tell("Tracing its layers")
    size = request.size or made.size
    shape = (request.batch, made.channels, size, size)
    network = cf.analyze(made.model, _without_data(shape), request.machine)
    if request.machine != THIS:
        return Outcome(request, size, network)
    tell("Fusing its blocks")
    fused, seconds = _run(made, torch.rand(shape), request.time, tell)
    return Outcome(request, size, network, fused, seconds)


def _without_data(shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.empty(shape, device="meta")
    except (RuntimeError, TypeError):  # more elements, or images, than torch can count
        raise ValueError(f"--batch and --size must make images that torch can count, got {shape}") from None


def _by_block(network: NetworkAnalysis, records: Sequence[Record], times: Sequence[float | None]) -> list[float] | None:
    """Seconds of the optimized network's blocks, added up for each block of the stock one."""
    places = {block.name: index for index, block in reversed(list(enumerate(network.blocks)))}
    seconds = [0.0] * len(network.blocks)
    for record, time in zip(records, times, strict=True):
        name = record.name.split(" ")[0]
        while name and name not in places:
            name = name.rpartition(".")[0]
        if time is None or name not in places:
            return None
        seconds[places[name]] += time
    return seconds


def _run(made: NamedModel, example: Tensor, time: bool, tell: Tell) -> tuple[Explanation, float | None]:
    model = cf.optimize(made.model)
    tell("Timing kernels")
    rates_for(torch.get_num_threads())
    tell("")
    explanation = cf.explain(model, example, time=time, predict=True)
    if not time:
        return explanation, None
    with torch.no_grad(), Stopwatch(1) as watch:
        # Two turns: what disturbed the first has often passed at the second.
        seconds = [watch.median_seconds(lambda: model(example), 20) for _ in range(2)]
    return explanation, min(seconds)
