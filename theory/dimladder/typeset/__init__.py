"""Formulas as text: LaTeX read into a tree, broken to the width of a column, or written plainly for a terminal."""

from .breaking import COLUMNS, displayed
from .plain import plain

__all__ = ["COLUMNS", "displayed", "plain"]
