"""Carries out a run: epochs, records, checkpoints, and the way out when something stops it."""

from __future__ import annotations

import json
import platform
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .checkpoint import Checkpoint, save_weights
from .curves import draw_curves
from .data import ImageData, open_data
from .distributed import Group, join_group, lost_another_process
from .errors import CheckpointError, ConfigError, StoppedError
from .files import write_atomically
from .loaders import Batches, TrainingBatches, evaluation_batches
from .logs import EPOCHS, EVENTS, STEPS, EpochRecord, RunLog
from .loop import StepRecord, evaluate, train_epoch
from .plan import CHECKPOINT, CURVES, SETTINGS, WEIGHTS, Plan, Request, make_plan, new_folder
from .progress import EpochProgress
from .randomness import random_states, restore_random_states, seed_all
from .report import Report
from .trainer import Trainer

_SECONDS_BETWEEN_DRAWINGS = 30.0


def train(request: Request, tell: Callable[[str], None] = print) -> Report:
    """Trains a network as asked and writes records, plot, checkpoints and weights into the run's folder.

    Args:
        request: what the user asked for.
        tell: gets a line of text for the user, in the first process only.

    Returns:
        What it came to.

    Raises:
        TrainingError: it cannot start or go on; the message is one sentence. The last checkpoint is whole.
    """
    plan = make_plan(request)
    if plan.config.threads:
        torch.set_num_threads(plan.config.threads)
    with _stops_are_exceptions(), join_group(plan.config.device) as group:
        folder = group.from_first(plan.output or new_folder(plan.config))
        try:
            return _Run(plan, folder, group, tell if group.is_first else _say_nothing).carry_out()
        except KeyboardInterrupt:
            _ignore_further_stops()
            reason = "stopped from outside, as torchrun does when another process of the run has ended"
            raise StoppedError(_way_on(folder, reason if group.size > 1 else "interrupted")) from None
        except RuntimeError as error:
            if group.size == 1 or not lost_another_process(error):
                raise
            _ignore_further_stops()
            raise StoppedError(_way_on(folder, f"process {group.rank} lost another process of the run")) from error


class _Run:
    """One session of a run, in one of its processes."""

    def __init__(self, plan: Plan, folder: Path, group: Group, tell: Callable[[str], None]) -> None:
        self.config, self.folder, self.group, self.tell = plan.config, folder, group, tell
        data = open_data(self.config.data)
        self.data_description = data.describe()
        self.test_images = len(data.test)
        # Every process starts with the same weights, and draws its own dropout masks.
        seed_all(self.config.seed)
        self.training = TrainingBatches(data, self.config, group)
        self.testing: Batches = evaluation_batches(data, self.config, group)
        self.trainer = Trainer(self.config, len(data.classes), len(self.training), group)
        seed_all(self.config.seed + group.rank)
        self.done = 0
        if plan.checkpoint is not None:
            self._restore(plan.checkpoint, data)

    def _restore(self, checkpoint: Checkpoint, data: ImageData) -> None:
        if checkpoint.data != self.data_description:
            raise CheckpointError(f"data must be the images that the run began with, got others in {self.config.data}")
        has_states = len(checkpoint.random_states) == self.group.size
        try:
            self.trainer.load_state_dict(checkpoint.trainer)
            if has_states:
                restore_random_states(checkpoint.random_states[self.group.rank], self.group.device)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint does not hold the state of this run's network: {reason}") from error
        self.done = checkpoint.epoch
        if not has_states:
            before = len(checkpoint.random_states)
            self.tell(f"The run had {before} processes and now has {self.group.size}: its losses will not be the same.")

    def carry_out(self) -> Report:
        """Trains the epochs that are left."""
        log = self._open_folder() if self.group.is_first else None
        steps, epochs = len(self.training), self.config.epochs
        drawn = time.monotonic()
        with EpochProgress(epochs, steps, self.done, self.tell, self.group.is_first) as progress:
            for epoch in range(self.done + 1, epochs + 1):
                progress.start_epoch(epoch)
                step_records, record = self._one_epoch(epoch, progress)
                states = self.group.gather(random_states(self.group.device))
                if log is not None:
                    # Records first: what they hold beyond the checkpoint is dropped when the run goes on.
                    log.add(step_records, record)
                    state = self.trainer.state_dict()
                    Checkpoint(epoch, self.config, self.data_description, state, states).save(self.folder / CHECKPOINT)
                    if time.monotonic() - drawn > _SECONDS_BETWEEN_DRAWINGS:
                        self._draw(log)
                        drawn = time.monotonic()
                progress.end_epoch(record)
        return self._finish(log)

    def _one_epoch(self, epoch: int, progress: EpochProgress) -> tuple[list[StepRecord], EpochRecord]:
        started = time.monotonic()
        steps = train_epoch(self.trainer, self.training.of_epoch(epoch), epoch, progress.step)
        trained = time.monotonic() - started
        test = evaluate(self.trainer, self.testing)
        loss = statistics.fmean(record.loss for record in steps)
        speed = len(steps) * self.config.batch_size / trained
        seconds = time.monotonic() - started
        return steps, EpochRecord(epoch, steps[-1].lr, loss, test.loss, test.accuracy, seconds, speed)

    def _open_folder(self) -> RunLog:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            settings = {
                "settings": self.config.to_dict(),
                "processes": self.group.size,
                "versions": {"python": platform.python_version(), "torch": torch.__version__},
            }
            text = json.dumps(settings, indent=1) + "\n"
            write_atomically(self.folder / SETTINGS, lambda stream: stream.write(text.encode()))
        except OSError as error:
            raise ConfigError(f"output must be a folder that can be written to, got {self.folder}: {error}") from None
        if self.done:
            self.tell(f"Going on behind epoch {self.done} of {self.config.epochs}.")
        self.tell(f"Files of the run: {self.folder}")
        return RunLog(self.folder, self.done, self.tell)

    def _draw(self, log: RunLog) -> None:
        title = f"{self.config.model} on {Path(self.config.data).name}"
        draw_curves(self.folder / CURVES, log.steps.read(), log.epochs.read(), title)

    def _finish(self, log: RunLog | None) -> Report:
        records: list[EpochRecord] = []
        files = {"checkpoint": CHECKPOINT, "weights": WEIGHTS, "losses": STEPS, "epochs": EPOCHS, "plot": CURVES}
        if log is not None:
            save_weights(self.folder / WEIGHTS, self.trainer.tested_model.state_dict())
            self._draw(log)
            records = log.epochs.read()
            log.close()
        if (self.folder / EVENTS).exists():
            files["TensorBoard"] = EVENTS
        records = self.group.from_first(records)
        return Report(
            model=self.config.model,
            parameters=sum(parameter.numel() for parameter in self.trainer.model.parameters()),
            accuracy=records[-1].test_accuracy,
            loss=records[-1].test_loss,
            test_images=self.test_images,
            epochs=len(records),
            seconds=sum(record.seconds for record in records),
            images_per_second=statistics.median(record.images_per_second for record in records),
            processes=self.group.size,
            threads=torch.get_num_threads(),
            device=str(self.group.device),
            files={name: self.folder / file for name, file in files.items()},
        )


def _way_on(folder: Path, reason: str) -> str:
    path = folder / CHECKPOINT
    if not path.exists():
        return f"{reason}; no epoch was finished, so there is no checkpoint yet in {folder}"
    epoch = Checkpoint.load(path).epoch
    return f"{reason}; {path} holds the run after epoch {epoch}, go on with --resume {folder}"


@contextmanager
def _stops_are_exceptions() -> Iterator[None]:
    """SIGTERM, with which torchrun and batch systems end a process, is taken as Ctrl-C is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ignore_further_stops() -> None:
    """Lets a process that ends say its last sentence: torchrun may ask it to end while it does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _say_nothing(line: str) -> None:
    """What the other processes tell."""
