"""What is asked: frozen, hashable, serialisable problems; no numerics, no algebra at import."""

from .activations import ACTIVATIONS, activation
from .config import apply_overrides, build, check_keys, convert, parse_document, parse_override, read, refused, state
from .expressions import Expression, HermiteConvention
from .grids import Grid, Limit, OdeSolver, Simulation
from .kinds import ABSENT, KINDS, SECTIONS, kind_of, with_kinds
from .spec import Axis, Coefficients, Problem, Range, Refusal, Spec, away_from_default, axis_values, to_builtins
from .targets import ClusterLabels, Committee, Hierarchical, Index

__all__ = [
    "ABSENT", "ACTIVATIONS", "KINDS", "SECTIONS", "Axis", "ClusterLabels", "Coefficients", "Committee",
    "Expression", "Grid", "HermiteConvention", "Hierarchical", "Index", "Limit", "OdeSolver", "Problem", "Range",
    "Refusal", "Simulation", "Spec", "activation", "apply_overrides", "away_from_default", "axis_values", "build",
    "check_keys", "convert", "kind_of", "parse_document", "parse_override", "read", "refused", "state",
    "to_builtins", "with_kinds",
]  # fmt: skip
