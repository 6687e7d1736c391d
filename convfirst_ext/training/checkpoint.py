"""Checkpoints: all that a run needs to go on as if it had never stopped, in one file that is always whole."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .config import TrainingConfig
from .errors import CheckpointError, ConfigError
from .files import write_atomically

_FORMAT = "convfirst_ext.training"
_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A run after a whole number of epochs.

    Attributes:
        epoch: how many are done.
        config: the settings it runs with.
        data: what `ImageData.describe` said.
        trainer: what `Trainer.state_dict` returned.
        random_states: of every process, by rank.
    """

    epoch: int
    config: TrainingConfig
    data: dict[str, Any]
    trainer: dict[str, Any]
    random_states: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """Writes it in place of an older one; a crash leaves the one or the other."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "epoch": self.epoch,
            "config": self.config.to_dict(),
            "data": self.data,
            "trainer": self.trainer,
            "random_states": self.random_states,
        }
        write_atomically(path, lambda stream: torch.save(content, stream))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Reads one, onto the CPU; no code that the file could hold is run.

        Raises:
            CheckpointError: there is none, it is damaged, or of another program or version.
        """
        content = _read(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CheckpointError(f"{path} is no checkpoint of a training run of this package")
        if content.get("version") != _VERSION:
            raise CheckpointError(f"{path} is a checkpoint of version {content.get('version')}, this is {_VERSION}")
        try:
            config = TrainingConfig(**content["config"])
            kinds = {"epoch": int, "data": dict, "trainer": dict, "random_states": list}
            for name, kind in kinds.items():
                if not isinstance(content[name], kind):
                    raise TypeError(f"{name} must be {kind.__name__}, but is {type(content[name]).__name__}")
            parts = (content[name] for name in ("data", "trainer", "random_states"))
            return cls(content["epoch"], config, *parts)
        except (KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(f"{path} is a checkpoint of another release of this package: {error}") from None


def save_weights(path: Path, weights: dict[str, Any]) -> None:
    """Writes a state_dict that ``timm.create_model(..., checkpoint_path=path)`` loads."""
    write_atomically(path, lambda stream: torch.save(weights, stream))


def _read(path: Path) -> Any:
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    with stream:
        try:
            # torch.load does not compare checksums: a damaged weight would go unnoticed.
            with zipfile.ZipFile(stream) as archive:
                damaged = archive.testzip()
            stream.seek(0)
            content = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # of a damaged file torch's unpickler lets nearly every kind of exception out
            raise CheckpointError(f"{path} is damaged or no checkpoint: torch.load cannot read it") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged or no checkpoint: the checksum of its part {damaged} is wrong")
    return content
