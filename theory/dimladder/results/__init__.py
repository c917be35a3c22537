"""Labelled results with provenance: `LearningCurve`, `Measurement`, `PhaseDiagram`."""

from .container import LearningCurve, Measurement, PhaseDiagram, Result, open_result, prime
from .files import claim_folder, write_atomically, write_text
from .table import columns, main_axis, text_table

__all__ = [
    "LearningCurve", "Measurement", "PhaseDiagram", "Result", "claim_folder", "columns", "main_axis", "open_result",
    "prime",
    "text_table", "write_atomically", "write_text",
]  # fmt: skip
