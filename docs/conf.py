"""How Sphinx makes the documentation from the installed package: sphinx-build -W -n docs FOLDER."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.util.docutils import SphinxDirective
from typer.testing import CliRunner

import convfirst_ext
from convfirst_ext.apps.commands import app as commands

project = "convfirst_ext"
author = "the authors of convfirst_ext"
release = version = convfirst_ext.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "myst_parser"]
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
smartquotes = False  # prose names options such as --no-time

default_role = "literal"  # docstrings write names between single backticks too
add_module_names = False
python_maximum_signature_line_length = 100

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autosummary_generate = False  # tables of names; what they name is described on the same page
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # what a class lists under Attributes is not described a second time
napoleon_use_rtype = False

nitpicky = True
# Other packages' names: their documentation is not read, so that building needs no network.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|matplotlib|collections|pathlib|typing|dataclasses|rich|timm|PIL)\b.*"),
    (r"py:class", r"(Path|Tensor|Figure|optional|ModuleType)"),
]

_WIDTH = "100"


class CommandHelp(SphinxDirective):
    """``.. command-help:: NAME``: what ``convfirst NAME --help`` prints; without a name, ``convfirst --help``."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The text as the terminal shows it."""
        arguments = [*self.arguments, "--help"]
        runner = CliRunner(env={"COLUMNS": _WIDTH, "TERMINAL_WIDTH": _WIDTH, "NO_COLOR": "1", "TERM": "dumb"})
        shown = runner.invoke(commands, arguments, prog_name="convfirst")
        if shown.exit_code:
            raise self.error(f"convfirst {' '.join(arguments)} failed: {shown.output}")
        return [nodes.literal_block(shown.output, "\n".join(line.rstrip() for line in shown.output.splitlines()))]


def _leave_out_fields(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples are described by their class, whose docstring lists them; None leaves the choice."""
    return True if type(member).__name__ == "_tuplegetter" else None


def _keep_letters(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Escapes descriptions such as "C.", a number of channels, which otherwise begin an enumerated list."""
    lines[:] = [re.sub(r"^(\s+|:ivar [^:]+: )(\w\.)", r"\1\\\2", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Adds what is above to Sphinx."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-skip-member", _leave_out_fields)
    app.connect("autodoc-process-docstring", _keep_letters, priority=900)  # after napoleon, which makes the fields
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
