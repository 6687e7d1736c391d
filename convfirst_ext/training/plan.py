"""What a run is to do, settled and checked before it starts: its settings, its folder, where it goes on from."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint
from .config import TrainingConfig, make_config, read_recipe
from .data import DIGITS
from .errors import CheckpointError, ConfigError
from .logs import EPOCHS, STEPS

CHECKPOINT, SETTINGS, WEIGHTS, CURVES = "checkpoint.pt", "settings.json", "weights.pt", "curves.png"
RUNS = Path("runs")
AUTO = "auto"

# How the work is carried out, not what is computed, but for rounding.
_FREE = ("device", "threads", "workers", "data")


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        recipe: a TOML file; None for `default_recipe`.
        default_recipe: what holds where the user named none.
        changes: settings that differ from the recipe's.
        output: folder for the run's files; None for a new one under runs/.
        resume: a run's folder, its checkpoint, or "auto": what is in `output`, or the newest run of the model under
            runs/, and a new run where there is none. None always starts a new run.
    """

    default_recipe: Path
    recipe: Path | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None
    resume: str | None = None


@dataclass(frozen=True)
class Plan:
    """Settings, folder (None: to be named) and what to go on from (None: start)."""

    config: TrainingConfig
    output: Path | None
    checkpoint: Checkpoint | None


def make_plan(request: Request) -> Plan:
    """Settles a request without writing anything.

    Raises:
        ConfigError: a setting is wrong, or the folder holds a run that is not to be resumed.
        CheckpointError: what is to be resumed cannot be read, or has other settings.
    """
    recipe = read_recipe(request.recipe or request.default_recipe)
    config = make_config(recipe, request.changes)
    if config.data != DIGITS:
        config = replace(config, data=str(Path(config.data).resolve()))
    path = _checkpoint_path(request, config)
    if path is None:
        _check_output(request.output, may_hold_run=request.resume is not None)
        return Plan(config, request.output, None)
    checkpoint = Checkpoint.load(path)
    asked = config.to_dict() if request.recipe else {key: getattr(config, key) for key in request.changes}
    resumed = _resumed_config(checkpoint.config, asked, path)
    if request.output is not None and request.output.resolve() != path.parent.resolve():
        raise ConfigError(
            f"output must be the resumed run's own folder {path.parent}, or left out, got {request.output}"
        )
    return Plan(resumed, path.parent, checkpoint)


def new_folder(config: TrainingConfig) -> Path:
    """A folder under runs/ in the current directory that is named after the model and the time, and not there yet."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name, number = f"{config.model}-{now}", 1
    while (RUNS / name).exists():
        number += 1
        name = f"{config.model}-{now}-{number}"
    return RUNS / name


def _checkpoint_path(request: Request, config: TrainingConfig) -> Path | None:
    if request.resume is None:
        return None
    if request.resume != AUTO:
        path = Path(request.resume)
        return path / CHECKPOINT if path.is_dir() else path
    if request.output is not None:
        path = request.output / CHECKPOINT
        return path if path.exists() else None
    return max(RUNS.glob(f"{config.model}-*/{CHECKPOINT}"), key=lambda found: found.stat().st_mtime, default=None)


def _check_output(output: Path | None, may_hold_run: bool) -> None:
    if output is None or not output.exists():
        return
    if not output.is_dir():
        raise ConfigError(f"output must be a folder, got the file {output}")
    held = [name for name in (CHECKPOINT, SETTINGS, STEPS, EPOCHS) if (output / name).exists()]
    if held and not may_hold_run:
        raise ConfigError(
            f"output must be a folder without another run, but {output} holds {held[0]}; "
            f"name another one, or resume {AUTO} to go on with that run"
        )


def _resumed_config(saved: TrainingConfig, asked: Mapping[str, Any], path: Path) -> TrainingConfig:
    """The run's own settings; of those asked for now, only ones that do not change what is computed may differ."""
    for key, value in asked.items():
        if key not in _FREE and getattr(saved, key) != value:
            kept = getattr(saved, key)
            raise CheckpointError(f"{key} must stay {kept!r}, with which {path} was written, got {value!r}")
    return replace(saved, **{key: value for key, value in asked.items() if key in _FREE})
