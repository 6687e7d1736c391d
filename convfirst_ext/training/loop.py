"""One pass over the training images, and one over the test images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from .errors import DivergedError
from .loaders import Batches
from .trainer import Trainer

# Reading a loss from a GPU waits for it; so often is often enough for a progress bar.
_STEPS_BETWEEN_LOOKS = 20


@dataclass(frozen=True)
class StepRecord:
    """One step: its number from the start of the run, the learning rate it used, the mean loss of all its images."""

    epoch: int
    step: int
    lr: float
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """Cross entropy and the share of images whose class is the most probable one."""

    loss: float
    accuracy: float


def train_epoch(
    trainer: Trainer, batches: Batches, epoch: int, tell: Callable[[float | None], None]
) -> list[StepRecord]:
    """Takes a step a batch.

    Args:
        trainer: what takes the steps.
        batches: of this epoch and this process.
        epoch: its number, from 1, for the records and messages.
        tell: called after every step, with its loss where it is known.

    Raises:
        DivergedError: a loss is not finite; the message says where.
    """
    trainer.train_mode()
    rates: list[float] = []
    losses: list[torch.Tensor] = []
    looks_always = trainer.group.device.type == "cpu"
    first = trainer.step
    for images, labels in batches:
        rates.append(trainer.learning_rate)
        losses.append(trainer.take_step(images, labels))
        looks = looks_always or len(losses) % _STEPS_BETWEEN_LOOKS == 0
        tell(losses[-1].item() if looks else None)
    trainer.end_epoch()
    # One exchange an epoch, not one a step; in float64 so that dividing by the number of processes rounds nothing away.
    means = trainer.group.sum(torch.stack(losses).double()).div(trainer.group.size).tolist()
    for position, loss in enumerate(means):
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} in step {first + position + 1} (epoch {epoch}); "
                "a lower lr, a longer warmup_epochs or clip_grad may help"
            )
    return [
        StepRecord(epoch, first + position + 1, rate, loss)
        for position, (rate, loss) in enumerate(zip(rates, means, strict=True))
    ]


@torch.no_grad()
def evaluate(trainer: Trainer, batches: Batches) -> Evaluation:
    """Tests the network (its averaged weights where there are any) on all processes' shares of the images."""
    model = trainer.tested_model
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=trainer.group.device)
    for images, labels in batches:
        images, labels = trainer.to_device(images), labels.to(trainer.group.device, non_blocking=True)
        with trainer.autocast():
            outputs = model(images)
        outputs = outputs.float()
        totals[0] += functional.cross_entropy(outputs, labels, reduction="sum")
        totals[1] += (outputs.argmax(1) == labels).sum()
        totals[2] += len(labels)
    loss, correct, count = trainer.group.sum(totals).tolist()
    return Evaluation(loss / count, correct / count)
