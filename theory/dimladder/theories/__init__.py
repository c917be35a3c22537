"""Theories, found by the registry; each says as data what it reads of a problem."""

from .base import Refusal, Theory, find, names
from .choose import Candidate, candidates, choose, finder

__all__ = ["Candidate", "Refusal", "Theory", "candidates", "choose", "find", "finder", "names"]
