"""Python processes beside the one that runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python away from the sources, so that it imports what these tests import."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env=os.environ | environment,
        timeout=300,
    )


def start_python(*arguments: str) -> subprocess.Popen[str]:
    """Starts what `run_python` would run."""
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS
    )


def run_cases(*arguments: str, **environment: str) -> None:
    """Runs tests/run_cases.py and fails with the case at which it ended."""
    session = run_python(str(TESTS / "run_cases.py"), *arguments, **environment)
    lines = session.stdout.splitlines()
    assert lines, session.stderr
    ended = f"ended at {lines[-1]} with status {session.returncode}\n{session.stderr}"
    assert session.returncode == 0 and lines[-1] == "done", ended
