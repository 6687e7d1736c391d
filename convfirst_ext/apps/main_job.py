"""The whole comparison on real photos: classify them with both networks, time both, measure both's memory."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import convfirst_ext as cf

from .classify import Comparison, class_names, compare, load_classifier
from .latency import Latency, time_in_turns
from .memory import PeakMemory, measure_peak_memory
from .photos import Photo, PhotoError, preprocess, read_photo, sample_photos
from .requirements import models_extra

with models_extra():
    from PIL import Image
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LARGEST_DIFFERENCE = 1e-3
STOCK, CHANNELS_LAST = "PyTorch eager", "PyTorch channels_last"


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        dtype: of the fused network's activations.
        top: labels to keep of each photo.
        rounds: rounds of timing.
        memory: whether to measure memory, which takes some seconds.
    """

    dtype: torch.dtype = torch.float32
    top: int = 5
    rounds: int = 10
    memory: bool = True

    @property
    def dtype_name(self) -> str:
        """For example float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def fused_name(self) -> str:
        """What reports call the fused network; stock PyTorch is always float32."""
        return "convfirst_ext" if self.dtype == torch.float32 else f"convfirst_ext {self.dtype_name}"


@dataclass(frozen=True)
class Result:
    """One photo, small, and what both networks made of it."""

    name: str
    thumbnail: Image.Image
    comparison: Comparison


@dataclass(frozen=True)
class Outcome:
    """Everything there is to report; without results nothing was timed."""

    settings: Settings
    threads: int
    results: list[Result]
    unreadable: int
    latencies: dict[str, Latency]
    memory: dict[str, PeakMemory | None]

    @property
    def largest_difference(self) -> float:
        """Of all logits of all photos, from stock float32 PyTorch; NaN if one is NaN."""
        differences = [result.comparison.largest_logit_difference for result in self.results]
        return torch.tensor(differences, dtype=torch.float64).max().item()

    @property
    def agrees(self) -> bool:
        """Whether float32 logits lie within 0.001 of stock PyTorch's; half precision is not held to it."""
        return self.settings.dtype != torch.float32 or self.largest_difference <= LARGEST_DIFFERENCE

    def write_figure(self, path: Path) -> None:
        """Draws the photos and the latencies into a PNG file."""
        from .figure import LabelledPhoto, draw_figure, write_atomically

        photos = [LabelledPhoto(r.name, r.thumbnail, r.comparison.labels) for r in self.results]
        title = f"EfficientNet-Lite0 on the CPU, {plural(self.threads, 'thread')}"
        write_atomically(path, draw_figure(photos, self.latencies, title))


def run_main_job(paths: Sequence[Path], settings: Settings, complain: Callable[[str], None]) -> Outcome:
    """Classifies the photos at paths (two sample photos if there are none) and measures both networks.

    Args:
        paths: image files.
        settings: see Settings.
        complain: gets one line for every photo that cannot be read.

    Returns:
        The outcome; its `results` are empty when no photo could be read.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        stock, fused = _load_networks(settings.dtype, progress)
        results, image, unreadable = _classify_all(paths, stock, fused, settings.top, complain, progress)
        latencies: dict[str, Latency] = {}
        memory: dict[str, PeakMemory | None] = {}
        if image is not None:
            latencies = _time_networks(stock, fused, image, settings, progress)
            memory = _measure_memory(settings, progress)
    return Outcome(settings, torch.get_num_threads(), results, unreadable, latencies, memory)


def plural(count: int, noun: str) -> str:
    """For example 1 thread, 2 threads."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _load_networks(dtype: torch.dtype, progress: Progress) -> tuple[nn.Module, nn.Module]:
    task = progress.add_task("Loading EfficientNet-Lite0", total=2)
    stock = load_classifier()
    progress.advance(task)
    fused = cf.optimize(stock, dtype=dtype)
    progress.advance(task)
    return stock, fused


def _classify_all(
    paths: Sequence[Path],
    stock: nn.Module,
    fused: nn.Module,
    top: int,
    complain: Callable[[str], None],
    progress: Progress,
) -> tuple[list[Result], Tensor | None, int]:
    from .figure import thumbnail

    names = class_names()
    results, first_image, unreadable = [], None, 0
    for photo in _read_all(paths, progress):
        if isinstance(photo, PhotoError):
            unreadable += 1
            complain(str(photo))
            continue
        image = preprocess(photo.image)
        first_image = image if first_image is None else first_image
        results.append(Result(photo.name, thumbnail(photo.image), compare(fused, stock, image, names, top)))
    return results, first_image, unreadable


def _read_all(paths: Sequence[Path], progress: Progress) -> Iterator[Photo | PhotoError]:
    """Holds one photo at a time: there may be thousands."""
    samples_or_paths: Iterable[Photo | Path] = paths or sample_photos()
    for source in progress.track(list(samples_or_paths), description="Classifying"):
        try:
            yield source if isinstance(source, Photo) else read_photo(source)
        except PhotoError as error:
            yield error


def _time_networks(
    stock: nn.Module, fused: nn.Module, image: Tensor, settings: Settings, progress: Progress
) -> dict[str, Latency]:
    nhwc_image = image.contiguous(memory_format=torch.channels_last)
    nhwc_stock: nn.Module = copy.deepcopy(stock).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    variants: dict[str, Callable[[], object]] = {
        STOCK: lambda: stock(image),
        CHANNELS_LAST: lambda: nhwc_stock(nhwc_image),
        settings.fused_name: lambda: fused(image),
    }
    task: TaskID = progress.add_task("Timing three variants in turns", total=settings.rounds * len(variants))
    with torch.inference_mode():
        return time_in_turns(variants, settings.rounds, lambda: progress.advance(task))


def _measure_memory(settings: Settings, progress: Progress) -> dict[str, PeakMemory | None]:
    if not settings.memory:
        return {}
    memory: dict[str, PeakMemory | None] = {}
    task = progress.add_task("Measuring memory, each network in its own process", total=2)
    for name, variant in ((STOCK, "stock"), (settings.fused_name, "fused")):
        memory[name] = measure_peak_memory(variant, torch.get_num_threads(), settings.dtype_name)
        progress.advance(task)
    return memory
