"""Batches of images: which process gets which, and in which order."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data.distributed import DistributedSampler

from .augmentation import evaluation_transform, training_transform
from .config import TrainingConfig
from .data import ImageData, Samples
from .distributed import Group
from .errors import ConfigError

Batches = Iterable[tuple[Tensor, Tensor]]


class TrainingBatches:
    """Whole batches in an order that depends on (seed, epoch) only.

    Process r of n takes images r, r+n, r+2n, ... of that order: together the processes' batches of a step are the batch
    that one process would take. What does not fill a batch waits for another epoch's order.
    """

    def __init__(self, data: ImageData, config: TrainingConfig, group: Group) -> None:
        self._samples = Samples(data.train, training_transform(config), config.seed)
        self._sampler: DistributedSampler[int] = DistributedSampler(
            self._samples, group.size, group.rank, shuffle=True, seed=config.seed, drop_last=True
        )
        self._loader = _loader(self._samples, self._sampler, config, group, drop_last=True)
        if not len(self._loader):
            limit = f"at most the {len(data.train)} training images"
            raise ConfigError(f"batch_size must be {limit}, got {config.batch_size}")

    def __len__(self) -> int:
        return len(self._loader)

    def of_epoch(self, epoch: int) -> Batches:
        """The batches of an epoch; workers start anew for it and so see its number."""
        self._samples.epoch = epoch
        self._sampler.set_epoch(epoch)
        return self._loader


def evaluation_batches(data: ImageData, config: TrainingConfig, group: Group) -> Batches:
    """Every test image in exactly one process: DistributedSampler would count some twice."""
    share = range(group.rank, len(data.test), group.size)
    return _loader(Samples(data.test, evaluation_transform(config), config.seed), share, config, group, drop_last=False)


def _loader(
    samples: Samples, order: Sampler[int] | range, config: TrainingConfig, group: Group, drop_last: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        samples,  # type: ignore[arg-type]  # the type of a batch is not that of a sample
        batch_size=group.share_of(config.batch_size),
        sampler=order,
        num_workers=config.workers,
        drop_last=drop_last,
        pin_memory=group.device.type == "cuda",
        # Its own generator: the loader draws a seed for its workers, which they do not use.
        generator=torch.Generator(),
    )
