"""Benchmarks of convfirst_ext against its peers: one script a question, one shared timer."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
