"""What a machine can do at best: peak arithmetic and peak memory bandwidth, read from TOML."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

BUILT_IN = Path(__file__).with_name("machines.toml")


@dataclass(frozen=True)
class Machine:
    """The two ceilings of the roofline model.

    Attributes:
        name: as the figures print it.
        flops_per_second: peak arithmetic throughput R, a multiply-add counting as two operations.
        bytes_per_second: peak bandwidth B of the memory that holds the tensors.
        bytes_per_element: of an activation or a weight.

    Raises:
        ValueError: a number is not positive and finite.
    """

    name: str
    flops_per_second: float
    bytes_per_second: float
    bytes_per_element: float = 2.0

    def __post_init__(self) -> None:
        for key in NUMBERS:
            value = getattr(self, key)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise ValueError(f"{key} of machine {self.name!r} must be a positive number, but is {value!r}.")

    @property
    def op_byte(self) -> float:
        """R / B in operations per byte, the waterline; kernels of less intensity are memory-bound."""
        return self.flops_per_second / self.bytes_per_second


NUMBERS = tuple(field.name for field in fields(Machine) if field.name != "name")
REQUIRED = ("flops_per_second", "bytes_per_second")


def load_machines(path: str | Path | None = None) -> dict[str, Machine]:
    """The machines that come with the package and those of a file.

    Args:
        path: a TOML file with a table ``[name]`` for every machine, whose keys are Machine's attributes; a machine
            with a name that the package knows replaces it. None: only the package's.

    Returns:
        Machines by name, the package's first.

    Raises:
        ValueError: the file is no TOML, or a key is missing, unknown or no positive number.
        OSError: the file cannot be read.
        ModuleNotFoundError: Python 3.10 without tomli.
    """
    if path is not None and not isinstance(path, (str, Path)):
        raise TypeError(f"path must be a str, a Path or None, but is {type(path).__name__}.")
    machines = _read(BUILT_IN)
    return machines if path is None else machines | _read(Path(path))


def user_machines() -> Path:
    """Where the user's own machines are looked for: convfirst_ext/machines.toml in the folder of configurations."""
    configuration = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(configuration).expanduser() / "convfirst_ext" / "machines.toml"


def find_machine(text: str) -> Machine:
    """The machine that a user means.

    Args:
        text: a name in the package's file or in ``user_machines()``; or ``FILE.toml`` with one machine; or
            ``FILE.toml:NAME``.

    Returns:
        The machine with its peak, bandwidth and element size.

    Raises:
        ValueError: there is none of that name, the file holds several and none is named, or it is wrong.
        OSError: the file cannot be read.
    """
    if not isinstance(text, str):
        raise TypeError(f"machine must be a name or a FILE.toml, but is {type(text).__name__}.")
    path, suffix, name = text.partition(".toml")
    if suffix and name[:1] in ("", ":"):
        found = _read(Path(path + suffix))
        if not found:
            raise ValueError(f"machine {text!r} must hold a table [NAME] for every machine, but is empty.")
        if not name and len(found) == 1:
            return next(iter(found.values()))
        wanted = f"; name one of {', '.join(found)} as {path}.toml:NAME"
    else:
        own = user_machines()
        found = load_machines(own if own.exists() else None)
        name = f":{text}"
        wanted = f"; it must be one of {', '.join(found)} or FILE.toml"
    if name[1:] not in found:
        raise ValueError(f"machine {text!r} is not known{wanted}.")
    return found[name[1:]]


def _read(path: Path) -> dict[str, Machine]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a TOML file of machines, but {error}.") from None
    return {name: _machine(path, name, table) for name, table in tables.items()}


def _machine(path: Path, name: str, table: Any) -> Machine:
    if not isinstance(table, Mapping):
        raise ValueError(f"{path}: {name} must be a table [{name}] with {_listed(NUMBERS)}, but is {table!r}.")
    for key, value in table.items():
        if key not in NUMBERS:
            raise ValueError(f"{path}: [{name}] may have the keys {_listed(NUMBERS)}, but has {key} = {value!r}.")
    for key in REQUIRED:
        if key not in table:
            raise ValueError(f"{path}: [{name}] must have the key {key}, a positive number, but has only {[*table]}.")
    try:
        return Machine(name, **table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]
