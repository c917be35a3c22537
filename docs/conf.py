"""Sphinx configuration: ``pip install '.[docs]' && sphinx-build -W docs docs/_build``."""

import re
from importlib.metadata import version as _version
from typing import Any

from docutils.nodes import SkipNode
from sphinx.util import logging

from dimladder.typeset import mathml

logger = logging.getLogger(__name__)
project = "dimladder"
author = "The dimladder developers"
release = _version("dimladder")
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinxcontrib.bibtex"]
myst_enable_extensions = ["dollarmath", "amsmath"]
bibtex_bibfiles = ["../theory/dimladder/theories/references.bib"]
exclude_patterns = ["_build"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "dimladder"
html_show_copyright = False
default_role = "py:obj"  # a name that can be found becomes a link
numpydoc_show_class_members = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"


def _keep_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Absolute values are no substitutions: escape the bars of docstrings outside of literals."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``[^`]*``)", line)
        lines[i] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)


def _typeset(self: Any, node: Any, display: bool) -> None:
    """Write a formula as MathML: pages need neither a script nor a network. An unknown command is a warning."""
    unknown: list[str] = []
    self.body.append(mathml(node.astext(), display, unknown))
    if unknown:
        logger.warning("commands that cannot be typeset: %s", ", ".join(unknown), location=node)
    raise SkipNode


def setup(app: Any) -> None:
    """Register the hooks above, the first before numpydoc's own."""
    app.connect("autodoc-process-docstring", _keep_bars, priority=100)
    visitors = [(lambda self, node, d=display: _typeset(self, node, d), None) for display in (False, True)]
    app.add_html_math_renderer("mathml", visitors[0], visitors[1])
