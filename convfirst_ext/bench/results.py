"""Results files: one JSON a run, flushed after every record, never half written, and resumable."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from convfirst_ext.bench.machine import commit, cpu_slug, describe_machine, versions


class ResultFile:
    """A JSON object: a header (machine, versions, commit, settings, ceilings) and a list of records."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content

    @classmethod
    def create(cls, directory: Path, benchmark: str, **header: Any) -> ResultFile:
        """Starts a file with a name that is not taken yet under ``directory`` and writes its header."""
        content = {"benchmark": benchmark, **describe_run(), **header, "records": []}
        file = cls(free_path(directory, benchmark), content)
        file.flush()
        return file

    @classmethod
    def resume(cls, path: Path, benchmark: str, settings: dict[str, Any]) -> ResultFile:
        """Opens an interrupted file to go on with it.

        Raises:
            ValueError: the file is not JSON, of another benchmark, or measured on another machine, with other
                settings, versions or code, so that its records could not stand in one table with new ones.
        """
        content = read_results(path)
        now = {"benchmark": benchmark, "settings": settings, **describe_run()}
        del now["started"]
        for key, value in now.items():
            if content.get(key) != json.loads(json.dumps(value)):
                raise ValueError(f"{path} has another '{key}' than this run, start a new file instead")
        return cls(path, content)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records so far, in the order they were added."""
        records: list[dict[str, Any]] = self.content["records"]
        return records

    def has(self, **key: Any) -> bool:
        """Returns whether a record with these values is there already."""
        return any(all(record.get(name) == value for name, value in key.items()) for record in self.records)

    def add(self, record: dict[str, Any]) -> None:
        """Appends a record and writes the file."""
        self.records.append(record)
        self.flush()

    def flush(self) -> None:
        """Writes the file."""
        write_json(self.path, self.content)


def read_results(path: Path) -> dict[str, Any]:
    """What a results file holds.

    Raises:
        ValueError: it cannot be read, is no JSON, or not what ``ResultFile`` writes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a results file: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a results file: it holds no object")
    records = content.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} is not a results file: it holds no list of records")
    return content


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that ``path`` holds the whole old or the whole new content, even if power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def free_path(directory: Path, benchmark: str) -> Path:
    """Returns ``<benchmark>-<cpu>-<date>.json`` under ``directory``, numbered from the second on."""
    stem = f"{benchmark}-{cpu_slug()}-{datetime.date.today().isoformat()}"
    number = 1
    path = directory / f"{stem}.json"
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}.json"
    return path


def describe_run() -> dict[str, Any]:
    """Returns the header every results file has."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"machine": describe_machine(), "versions": versions(), "commit": commit(), "started": now}
