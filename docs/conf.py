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
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinxcontrib.bibtex",
    "sphinx_gallery.gen_gallery",
]  # fmt: skip
myst_enable_extensions = ["dollarmath", "amsmath"]
bibtex_bibfiles = ["../theory/dimladder/theories/references.bib"]
exclude_patterns = ["_build", "_templates", "gallery/*.rst", "auto_gallery/**/*.ipynb", "auto_gallery/**/*.py"]
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    # Simulations take minutes: the pictures kept beside the scripts are shown, and no script is run.
    "plot_gallery": "False",
    "remove_config_comments": True,
    "show_memory": False,
    "download_all_examples": True,
    "ignore_pattern": "make_figures",
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
}
html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = "dimladder"
html_show_copyright = False
default_role = "py:obj"  # a name that can be found becomes a link
numpydoc_show_class_members = False
autodoc_typehints = "signature"
autosummary_generate = True
# Names that differ in case only need files that differ on every disk.
autosummary_filename_map = {"dimladder.Fit": "dimladder.Fit-class", "dimladder.Problem": "dimladder.Problem-class"}
templates_path = ["_templates"]
python_maximum_signature_line_length = 88
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
