"""Labelled results with provenance: `LearningCurve`, `Measurement`, `PhaseDiagram`."""

from .container import LearningCurve, Measurement, PhaseDiagram, Result, labelled, open_result, prime
from .files import run_folder, write_atomically, write_text
from .gather import Source, gather
from .jsonable import jsonable
from .records import Record, RecordWriter, read_records
from .table import columns, main_axis, short, text_table

__all__ = [
    "LearningCurve", "Measurement", "PhaseDiagram", "Record", "RecordWriter", "Result", "Source", "columns", "gather",
    "jsonable", "labelled", "main_axis", "open_result", "prime", "read_records", "run_folder", "short", "text_table",
    "write_atomically", "write_text",
]  # fmt: skip
