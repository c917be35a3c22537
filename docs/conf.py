"""Sphinx configuration: ``pip install '.[docs]' && sphinx-build docs docs/_build``."""

from importlib.metadata import version as _version

project = "dimladder"
author = "The dimladder developers"
release = _version("dimladder")
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.autodoc", "numpydoc"]
source_suffix = {".md": "myst-nb"}
myst_enable_extensions = ["dollarmath", "amsmath"]
nb_execution_mode = "off"
exclude_patterns = ["_build", "benchmarks"]
html_theme = "furo"
html_title = "dimladder"
numpydoc_show_class_members = False
