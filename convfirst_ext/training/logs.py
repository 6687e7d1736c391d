"""The records of a run: steps.csv and epochs.csv, and TensorBoard's files where it is installed."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .files import write_atomically
from .loop import StepRecord

STEPS, EPOCHS, EVENTS = "steps.csv", "epochs.csv", "tensorboard"


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: its number, from 1.
        lr: learning rate of its last step.
        train_loss: mean over its steps.
        test_loss: cross entropy of the test images.
        test_accuracy: share of them, 0 to 1.
        seconds: of training and testing.
        images_per_second: in training.
    """

    epoch: int
    lr: float
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float
    images_per_second: float


class Table:
    """A CSV file of records of one dataclass, whole at every moment; numbers keep all their digits."""

    def __init__(self, path: Path, kind: type[Any]) -> None:
        self.path = path
        self._fields = dataclasses.fields(kind)
        self._kind = kind

    def read(self) -> list[Any]:
        """The records; an empty list where there is no file. Lines that are not whole are left out."""
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as stream:
            return [record for row in list(csv.reader(stream))[1:] if (record := self._parse(row)) is not None]

    def append(self, records: Iterable[Any]) -> None:
        """Adds records at the end."""
        old = self.path.read_bytes() if self.path.exists() else self._header()
        added = _lines(dataclasses.astuple(record) for record in records)
        write_atomically(self.path, lambda stream: stream.write(old + added))

    def keep(self, epochs: int) -> None:
        """Drops what is later than the first `epochs` epochs."""
        kept = _lines(dataclasses.astuple(record) for record in self.read() if record.epoch <= epochs)
        write_atomically(self.path, lambda stream: stream.write(self._header() + kept))

    def _header(self) -> bytes:
        return _lines([[field.name for field in self._fields]])

    def _parse(self, row: Sequence[str]) -> Any | None:
        convert: dict[str, Callable[[str], int | float]] = {"int": int, "float": float}
        try:
            values = zip(self._fields, row, strict=True)
            return self._kind(*(convert[str(field.type)](text) for field, text in values))
        except ValueError:
            return None


class RunLog:
    """All records of the run in a folder; starts behind the first `epochs` epochs and drops what is later."""

    def __init__(self, folder: Path, epochs: int, tell: Callable[[str], None]) -> None:
        self.steps = Table(folder / STEPS, StepRecord)
        self.epochs = Table(folder / EPOCHS, EpochRecord)
        for table in (self.steps, self.epochs):
            table.keep(epochs)
        if len(self.epochs.read()) != epochs:
            raise CheckpointError(f"{self.epochs.path} must hold the {epochs} epochs of the checkpoint, but does not")
        last = self.steps.read()[-1:]
        self._events = _open_events(folder / EVENTS, last[0].step if last else 0, tell)

    def add(self, steps: Sequence[StepRecord], epoch: EpochRecord) -> None:
        """Writes the records of one more epoch."""
        self.steps.append(steps)
        self.epochs.append([epoch])
        if self._events is None:
            return
        for record in steps:
            self._events.add_scalar("train/loss", record.loss, record.step)
            self._events.add_scalar("train/lr", record.lr, record.step)
        self._events.add_scalar("test/loss", epoch.test_loss, steps[-1].step)
        self._events.add_scalar("test/accuracy", epoch.test_accuracy, steps[-1].step)
        self._events.flush()

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._events is not None:
            self._events.close()


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _open_events(folder: Path, last_step: int, tell: Callable[[str], None]) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        tell("TensorBoard is not installed (pip install tensorboard): the records are in the CSV files only.")
        return None
    # TensorBoard itself leaves out what an interrupted run wrote behind its last checkpoint.
    return SummaryWriter(str(folder), purge_step=last_step + 1 if last_step else None)
