"""What a comparison is asked to do, from a script's command line or from `convfirst bench`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from convfirst_ext.bench.peers import RUNTIMES, check_names

DTYPES = ("float32", "bfloat16", "float16")
# Kept in the results file; a run that resumes one must agree in them.
_SETTINGS = ("threads", "rounds", "turn_seconds", "seconds", "runtimes", "dtypes", "seed", "size")


@dataclass(frozen=True)
class Options:
    """How to compare.

    Args:
        output: folder of the results file and the plot.
        runtimes: names of ``RUNTIMES``.
        dtypes: of ``DTYPES``.
        threads: in every runtime.
        rounds: turns that each contestant gets at most.
        turn_seconds: length of a turn at most.
        seconds: about how long all of it may take; None is as long as the rounds take. No case starts after that.
        seed: of weights, inputs and the order of turns.
        batch: batch sizes; None where each case has its own.
        size: height and width of the images; None where each case has its own.
        resume: an interrupted results file to go on with.
        can_resume: whether the user has an option that sets ``resume``.
    """

    output: Path
    runtimes: Sequence[str]
    dtypes: Sequence[str] = ("float32",)
    threads: int = 2
    rounds: int = 8
    turn_seconds: float = 0.4
    seconds: float | None = None
    seed: int = 0
    batch: Sequence[int] | None = None
    size: int | None = None
    resume: Path | None = None
    can_resume: bool = True

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Options:
        """Returns the parsed command line of a script as options, without what only that script knows."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in vars(arguments).items() if name in names})

    @property
    def settings(self) -> dict[str, Any]:
        """What the results file says of how it was measured."""
        values = {name: getattr(self, name) for name in _SETTINGS}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: value for name, value in plain.items() if value is not None}

    def check(self) -> None:
        """Raises ValueError for the first option that is out of range, before anything is timed."""
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.turn_seconds <= 0:
            raise ValueError(f"--turn-seconds must be positive, got {self.turn_seconds}")
        if any(batch < 1 for batch in self.batch or []):
            raise ValueError(f"--batch must be at least 1, got {self.batch}")
        check_names("--runtimes", self.runtimes, list(RUNTIMES))
        check_names("--dtypes", self.dtypes, list(DTYPES))


def add_arguments(parser: argparse.ArgumentParser, batch: list[int] | None, runtimes: list[str], output: Path) -> None:
    """Adds the options that the scripts share; ``batch`` None means that each case has its own."""
    parser.add_argument("--batch", type=int, nargs="+", default=batch, help="batch sizes")
    parser.add_argument("--threads", type=int, default=2, help="threads in every runtime")
    parser.add_argument("--rounds", type=int, default=8, help="turns each contestant gets")
    parser.add_argument("--turn-seconds", type=float, default=0.4, help="length of a turn")
    parser.add_argument("--runtimes", nargs="+", default=runtimes, help=f"of {', '.join(RUNTIMES)}")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help=f"of {', '.join(DTYPES)}")
    parser.add_argument("--seed", type=int, default=0, help="of weights, inputs and the order of turns")
    parser.add_argument("--output", type=Path, default=output, help="folder for the JSON and the plot")
    parser.add_argument("--resume", type=Path, help="go on with this interrupted results file")
