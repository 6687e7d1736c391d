"""Public names say what they take, give and raise, in the sections that the API reference is made from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import convfirst_ext as cf
from convfirst_ext import analysis, models, nn, ops, testing
from convfirst_ext.ops import chain, packed, selection
from convfirst_ext.training import config, plan, report, run

AREAS = (cf, ops, nn, analysis, models, testing)
PARTS = (selection, packed, config)  # without a list of names: all that they define
SINGLE = (
    *(chain.Step, chain.program_of, chain.join_weights, chain.run, chain.profile),
    *(run.train, plan.Request, report.Report),
)
HEADING = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Source):\s*$", re.MULTILINE)


def public(module: ModuleType) -> Iterator[Any]:
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield value


def described() -> list[Any]:
    found = [value for module in (*AREAS, *PARTS) for value in public(module)]
    return list({f"{value.__module__}.{value.__qualname__}": value for value in (*found, *SINGLE)}.values())


def methods(kind: type) -> Iterator[Any]:
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not name.startswith("_") and inspect.isfunction(function):
            yield function


def sections(value: Any) -> dict[str, list[str]]:
    """The names that each section of a docstring lists, or, of Returns, that it is there."""
    parts = HEADING.split(inspect.cleandoc(value.__doc__ or ""))
    return {
        heading: re.findall(r"^ {4}\*{0,2}(\w+)(?:, \w+)*:", body, re.MULTILINE)
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def parameters(value: Any) -> list[str]:
    names = [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]
    return [name for name in names if not name.startswith("_")]


FUNCTIONS = [value for value in described() if inspect.isfunction(value)]
CLASSES = [value for value in described() if inspect.isclass(value)]
# Of few arguments, all of which the first sentence tells.
SHORT = 2


@pytest.mark.parametrize("value", FUNCTIONS, ids=lambda value: f"{value.__module__}.{value.__name__}")
def test_functions_describe_every_argument_and_what_they_give(value: Any) -> None:
    listed, names = sections(value), parameters(value)
    assert value.__doc__, "no docstring"
    if "Args" in listed or len(names) > SHORT:
        assert listed.get("Args", []) == names
    if "Args" in listed and inspect.signature(value).return_annotation not in ("None", None, inspect.Signature.empty):
        assert "Returns" in listed


@pytest.mark.parametrize("value", CLASSES, ids=lambda value: f"{value.__module__}.{value.__name__}")
def test_classes_describe_their_arguments_or_fields(value: Any) -> None:
    listed = sections(value)
    assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}("), "no docstring"
    described = listed.get("Args", []) + listed.get("Attributes", [])
    own = "__init__" in vars(value) or "__new__" in vars(value) and hasattr(value, "_fields")
    if own and not issubclass(value, BaseException):
        assert not set(parameters(value)) - set(described)
    for method in methods(value):
        assert method.__doc__, f"{method.__name__} has no docstring"
