"""The tutorial's code, run from its first line to its last as a reader would."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("timm")
TUTORIAL = Path(__file__).resolve().parent.parent / "docs/tutorial.md"


def blocks(text: str) -> list[tuple[int, str]]:
    """Every block of Python, with the line on which its code begins."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def run(text: str, path: Path) -> dict[str, Any]:
    """Runs all blocks in one namespace; a failure points to its line in the file."""
    names: dict[str, Any] = {}
    for line, code in blocks(text):
        exec(compile("\n" * line + code, str(path), "exec"), names)
    return names


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.compiler.reset()
    names = run(TUTORIAL.read_text(), TUTORIAL)
    assert {"fast", "compiled", "program", "optimizer", "block"} <= set(names), "a part of the tutorial is gone"
    assert {path.name for path in tmp_path.iterdir()} == {"weights.pt", "packed.pt", "fast.pt", "fast.pt2"}


def test_a_block_that_fails_is_found_at_its_line(tmp_path: Path) -> None:
    text = "words\n\n```python\nx = 1\n```\n\n```text\nno code\n```\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failure:
        run(text, tmp_path / "page.md")
    assert failure.traceback[-1].lineno + 1 == 12
