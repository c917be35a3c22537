"""Theories, one file each, found by the entry point group ``dimladder.theories``."""

from .base import Theory, find, names, problem_type

__all__ = ["Theory", "find", "names", "problem_type"]
