"""What a finished run says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Report:
    """A finished run.

    Attributes:
        model: timm's name.
        parameters: of the network.
        accuracy: share of the test images, 0 to 1, after the last epoch.
        loss: cross entropy of the test images.
        test_images: how many there are.
        epochs: done, those of earlier sessions included.
        seconds: of training and testing, earlier sessions included.
        images_per_second: in training, median of the epochs.
        processes: that shared the work.
        threads: of PyTorch in each.
        device: where it ran.
        files: what each file holds -> where it is.
    """

    model: str
    parameters: int
    accuracy: float
    loss: float
    test_images: int
    epochs: int
    seconds: float
    images_per_second: float
    processes: int
    threads: int
    device: str
    files: dict[str, Path]


def print_report(report: Report, console: Console) -> None:
    """Prints the report as a table."""
    minutes, seconds = divmod(round(report.seconds), 60)
    threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    where = f"{report.device}, {threads}" + (f", {report.processes} processes" if report.processes > 1 else "")
    speed = f"{report.images_per_second:,.0f} images/s"
    rows = {
        "network": f"{report.model}, {report.parameters / 1e6:.2f} M parameters",
        "test accuracy": f"{report.accuracy:.2%} of {report.test_images} images",
        "test loss": f"{report.loss:.4f}",
        "time": f"{minutes} min {seconds} s for {report.epochs} epochs, {speed} ({where})",
    }
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (rows | {name: str(path) for name, path in report.files.items()}).items():
        table.add_row(escape(name), escape(value))
    console.print(table)
