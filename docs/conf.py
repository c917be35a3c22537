"""Sphinx configuration: ``pip install '.[docs]' && sphinx-build -W docs docs/_build``."""

import re
from importlib.metadata import version as _version
from typing import Any

project = "dimladder"
author = "The dimladder developers"
release = _version("dimladder")
extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx.ext.autodoc", "numpydoc", "sphinxcontrib.bibtex"]
myst_enable_extensions = ["dollarmath", "amsmath"]
bibtex_bibfiles = ["../theory/dimladder/theories/references.bib"]
exclude_patterns = ["_build"]
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


def setup(app: Any) -> None:
    """Register the hook above, before numpydoc's own."""
    app.connect("autodoc-process-docstring", _keep_bars, priority=100)
