"""Formulas as text: LaTeX read into a tree, broken to a column, written for a terminal or as MathML."""

from .breaking import COLUMNS, displayed, lines, width_of
from .mathml import mathml
from .plain import plain

__all__ = ["COLUMNS", "displayed", "lines", "mathml", "plain", "width_of"]
