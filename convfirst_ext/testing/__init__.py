"""Operator cases that tests and benchmarks share: shapes, data, the torch equivalent and a bound on the error."""

from convfirst_ext.testing.bounded import Bounded, assert_exact, assert_within, rounding
from convfirst_ext.testing.cases import CASES, OPERATORS, sample
from convfirst_ext.testing.op_case import OpCase, padding_sides

__all__ = [
    "CASES",
    "OPERATORS",
    "Bounded",
    "OpCase",
    "assert_exact",
    "assert_within",
    "padding_sides",
    "rounding",
    "sample",
]
