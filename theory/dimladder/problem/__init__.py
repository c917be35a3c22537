"""What is asked: frozen, hashable, serialisable problems; no numerics, no algebra at import."""

from .activations import ACTIVATIONS, activation
from .config import apply_overrides, build, convert, parse_document, parse_override, read
from .expressions import Expression, HermiteConvention
from .sections import OdeSolver, Simulation, TimeGrid
from .spec import Axis, Coefficients, Problem, Range, Spec, axis_values, to_builtins
from .targets import Committee, Hierarchical, MultiIndex, SingleIndex

__all__ = [
    "ACTIVATIONS",
    "Axis",
    "Coefficients",
    "Committee",
    "Expression",
    "HermiteConvention",
    "Hierarchical",
    "MultiIndex",
    "OdeSolver",
    "Problem",
    "Range",
    "Simulation",
    "SingleIndex",
    "Spec",
    "TimeGrid",
    "activation",
    "apply_overrides",
    "axis_values",
    "build",
    "convert",
    "parse_document",
    "parse_override",
    "read",
    "to_builtins",
]  # fmt: skip
