"""Draws the photos with their labels, and the latency of each variant, into one PNG."""

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .classify import Label
from .latency import Latency
from .requirements import models_extra

with models_extra():
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

MOST_PHOTOS = 8
THUMBNAIL = 480
_COLUMNS = 4
_LABELS = 3
_DPI = 100
_WIDTH = 13  # inches, as are the heights
# Okabe and Ito's palette, distinct to every kind of colour vision and in print; the last variant is ours.
_COLOURS = ("#999999", "#E69F00", "#0072B2")
_NORMAL, _LARGE = 17, 20


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo small enough to keep and what the network saw in it, best class first."""

    name: str
    thumbnail: Image.Image
    labels: Sequence[Label]


def thumbnail(image: Image.Image) -> Image.Image:
    """A copy no larger than the figure needs, whatever the size of the photo."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def draw_figure(photos: Sequence[LabelledPhoto], latencies: Mapping[str, Latency], title: str) -> bytes:
    """Draws up to 8 photos above a bar chart of the latencies.

    Args:
        photos: the photos; at least one.
        latencies: name of the variant -> its latency; the first is what the others are compared with.
        title: what stands above it all.

    Returns:
        The PNG's bytes.
    """
    shown = photos[:MOST_PHOTOS]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    lines = min(_LABELS, max(len(photo.labels) for photo in shown))
    photos_height = rows * (min(3.3, 10 / columns) + 0.35 * lines + 0.4)
    bars_height = 0.75 * len(latencies) + 1.6
    figure = Figure(figsize=(_WIDTH, 0.6 + photos_height + bars_height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left_out = f" ({len(shown)} of {len(photos)} photos)" if len(shown) < len(photos) else ""
    figure.suptitle(title + left_out, fontsize=_LARGE)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[photos_height, bars_height]).flat
    grid: list[Axes] = list(above.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, photo in zip(grid, shown, strict=False):
        _draw_photo(axes, photo)
    _draw_latencies(below.subplots(), latencies)
    with warnings.catch_warnings():
        # Of a file name in a script that the font lacks, boxes are good enough.
        warnings.simplefilter("ignore", UserWarning)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that, whatever happens, there is the whole new file or the old one."""
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _draw_photo(axes: Axes, photo: LabelledPhoto) -> None:
    axes.imshow(photo.thumbnail)
    axes.set_anchor("N")
    axes.set_title(_shorten(photo.name, 24), fontsize=_NORMAL, parse_math=False)
    text = "\n".join(f"{label.probability:.0%}  {_first_name(label)}" for label in photo.labels[:_LABELS])
    placed = axes.text(0.5, -0.04, text, transform=axes.transAxes, fontsize=_NORMAL, parse_math=False)
    placed.set(horizontalalignment="center", verticalalignment="top")


def _draw_latencies(axes: Axes, latencies: Mapping[str, Latency]) -> None:
    names = list(latencies)
    medians = [latency.median for latency in latencies.values()]
    axes.barh(names, medians, color=[*_COLOURS[: len(names) - 1], _COLOURS[-1]], height=0.62)
    for position, latency in enumerate(latencies.values()):
        faster = latencies[names[0]].median / latency.median
        text = f" {latency.median:.1f} ms" + (f", {faster:.1f}x as fast" if position else "")
        axes.text(latency.median, position, text, va="center", fontsize=_NORMAL)
    minima = [latency.minimum for latency in latencies.values()]
    axes.plot(minima, names, "|", color="black", markersize=26, markeredgewidth=2.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(medians))
    axis_name = "time of one inference at batch 1 (ms); bar: median, black mark: fastest call"
    axes.set_xlabel(axis_name, fontsize=_NORMAL)
    axes.tick_params(labelsize=_NORMAL)
    axes.spines[["top", "right"]].set_visible(False)


def _first_name(label: Label) -> str:
    return _shorten(label.name.partition(",")[0], 20)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
