"""Draws loss and accuracy over the epochs into one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .files import write_atomically
from .logs import EpochRecord
from .loop import StepRecord
from .requirements import train_extra

with train_extra():
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, distinct to every kind of colour vision and in print.
_STEP, _TRAIN, _TEST = "#BBBBBB", "#E69F00", "#0072B2"
_MOST_POINTS = 2000
_NORMAL, _LARGE = 14, 16


def draw_curves(path: Path, steps: Sequence[StepRecord], epochs: Sequence[EpochRecord], title: str) -> None:
    """Draws the training loss of steps and epochs, the test loss and the test accuracy.

    Args:
        path: the PNG.
        steps: at least one.
        epochs: at least one.
        title: what stands above.
    """
    figure = Figure(figsize=(13, 5.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=_LARGE)
    losses, accuracy = figure.subplots(1, 2)
    _draw_losses(losses, steps, epochs)
    _draw_accuracy(accuracy, epochs)
    for axes in (losses, accuracy):
        axes.set_xlabel("epoch", fontsize=_NORMAL)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=_NORMAL)
        axes.grid(color="#DDDDDD")
        axes.spines[["top", "right"]].set_visible(False)
    write_atomically(path, lambda stream: figure.savefig(stream, format="png"))


def _draw_losses(axes: Axes, steps: Sequence[StepRecord], epochs: Sequence[EpochRecord]) -> None:
    shown = steps[:: max(1, len(steps) // _MOST_POINTS)]
    per_epoch = len(steps) / len(epochs)
    axes.plot([s.step / per_epoch for s in shown], [s.loss for s in shown], color=_STEP, linewidth=1, label="step")
    numbers = [record.epoch for record in epochs]
    mark = "o" if len(epochs) < 50 else ""
    axes.plot(numbers, [r.train_loss for r in epochs], color=_TRAIN, marker=mark, label="training, mean of the epoch")
    axes.plot(numbers, [r.test_loss for r in epochs], color=_TEST, marker=mark, label="test")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("loss", fontsize=_NORMAL)
    axes.legend(fontsize=_NORMAL, frameon=False)


def _draw_accuracy(axes: Axes, epochs: Sequence[EpochRecord]) -> None:
    mark = "o" if len(epochs) < 50 else ""
    axes.plot([r.epoch for r in epochs], [100 * r.test_accuracy for r in epochs], color=_TEST, marker=mark)
    last = epochs[-1]
    axes.axhline(100 * last.test_accuracy, color=_TEST, linewidth=0.8, linestyle=":")
    text = f"{last.test_accuracy:.2%} after epoch {last.epoch}"
    axes.set_title(text, fontsize=_NORMAL)
    axes.set_ylabel("test accuracy / %", fontsize=_NORMAL)
