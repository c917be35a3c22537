"""Labelled results with provenance: `LearningCurve`, `Measurement`, `PhaseDiagram`."""

from .container import LearningCurve, Measurement, PhaseDiagram, Result, open_result, prime
from .files import claim_folder, write_atomically, write_text

__all__ = [
    "LearningCurve", "Measurement", "PhaseDiagram", "Result", "claim_folder", "open_result", "prime",
    "write_atomically", "write_text",
]  # fmt: skip
