"""Theories, found by the registry; each says as data what it reads of a problem."""

from ..choose import find, names
from ..problem import Refusal
from .base import Theory

__all__ = ["Refusal", "Theory", "find", "names"]
