"""Training in several processes: torchrun starts them, torch.distributed connects them (gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them.

    Attributes:
        device: where this process computes.
        rank: its number.
        size: how many there are; collectives do nothing where it is 1.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every process's tensor."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """The first process's value."""
        values: list[Any] = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training: it averages gradients over the processes."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def share_of(self, batch_size: int) -> int:
        """The images of a step that this process takes.

        Raises:
            ConfigError: they do not divide evenly.
        """
        if batch_size % self.size:
            raise ConfigError(f"batch_size must be a multiple of the {self.size} processes, got {batch_size}")
        return batch_size // self.size


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """Connects with the other processes where torchrun started this one; alone otherwise.

    Raises:
        ConfigError: the device does not exist here.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)) if "LOCAL_RANK" in os.environ else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield Group(chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    yield Group(chosen, rank, size)
    # Not after an exception: NCCL could wait here for a process that is gone.
    dist.destroy_process_group()


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of that name; of plain "cuda", the process's own GPU.

    Raises:
        ConfigError: there is no such device here.
    """
    count = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and count == 0):
        return torch.device("cpu")
    if name in ("auto", "cuda"):
        index = local_rank or 0
    elif name.startswith("cuda:") and name[5:].isdecimal() and not local_rank:
        index = int(name[5:])
    else:
        raise ConfigError(f"device must be auto, cpu, cuda or (for one process) cuda:N, got {name!r}")
    if index >= count:
        raise ConfigError(f"device must be one of the {count} CUDA devices that PyTorch sees, or cpu, got {name!r}")
    return torch.device("cuda", index)


def lost_another_process(error: RuntimeError) -> bool:
    """Whether a collective failed because another process of the run is gone."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    signs = ("gloo", "closed by peer", "reset by peer", "broken pipe", "nccl")
    return any(sign in str(error).lower() for sign in signs)
