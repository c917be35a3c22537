"""The table of the language: section -> kind -> class. A theory may add kinds of its own (`Theory.kinds`).

A kind with variants (points by `source`, coordinate by `law`) has one entry a variant, ``"points/cosine"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import algorithms, coordinates, data, grids, losses, point_data, stages, starts, students, targets
from .spec import Spec

# Every section of a run file, in the order in which it is written. `solver` is a class of the theory's own.
SECTIONS = (
    "data", "target", "student", "loss", "algorithm", "initial", "limit", "grid", "solver", "simulation",
)  # fmt: skip
# Kinds whose class depends on one more key.
VARIANTS = {"points": "source", "coordinate": "law"}
# What an absent section means; of the others (target, student, algorithm) None.
ABSENT: dict[str, Spec] = {
    "data": data.Gaussian(), "loss": losses.Loss(), "initial": starts.Explicit(), "limit": grids.Limit(),
    "grid": grids.Grid(),
}  # fmt: skip
# The kind of a section that is there but names none.
DEFAULT_KIND = {"data": "gaussian", "initial": "explicit"}

Kinds = Mapping[str, Mapping[str, type[Spec]]]


def kind_of(spec: Spec | type[Spec]) -> str:
    """Return the kind of a section or of its class, with its variant; "" for a section of a single kind."""
    tag = spec.__struct_config__.tag
    if tag not in VARIANTS:
        return str(tag) if tag else ""
    key = VARIANTS[tag]
    if isinstance(spec, Spec):
        return f"{tag}/{getattr(spec, key)}"
    hint: Any = next(f.type for f in _fields(spec) if f.name == key)
    return f"{tag}/{hint.__args__[0]}"


def _fields(kind: type[Spec]) -> Any:
    import msgspec

    return msgspec.structs.fields(kind)


def _table(*kinds: type[Spec]) -> dict[str, type[Spec]]:
    return {kind_of(kind): kind for kind in kinds}


KINDS: dict[str, dict[str, type[Spec]]] = {
    "data": _table(
        data.Gaussian, data.Mixture, data.HiddenManifold, data.Images,
        point_data.CosinePoints, point_data.GaussianPoints, point_data.ExplicitPoints, point_data.DigitsPoints,
        point_data.FilePoints, point_data.BallClusters, point_data.ClassPoints, point_data.ClassFile,
        coordinates.GaussianCoordinate, coordinates.UniformCoordinate, coordinates.ExponentialCoordinate,
        coordinates.MixtureCoordinate, coordinates.EmpiricalCoordinate, data.Hypercube, data.BlockModel, data.KernelLaw,
    ),
    "target": _table(
        targets.Committee, targets.Index, targets.VectorIndex, targets.ClusterLabels, targets.Hierarchical,
    ),
    "student": _table(
        students.Linear, students.TwoLayer, students.Features, students.Deep, students.ThreeLayer, students.MeanField,
        students.Truncation, students.ShallowTruncation, students.SeparableTruncation, students.GraphConvolution,
    ),
    "loss": _table(losses.Loss),
    "algorithm": _table(
        algorithms.OnePass, algorithms.GradientDescent, algorithms.GradientFlow, algorithms.Minimise,
        algorithms.Bagging, algorithms.Posterior, algorithms.Bayes, algorithms.Spectral, algorithms.OneStep,
        stages.Layerwise, stages.Learners, algorithms.SphericalCorrelationSGD, algorithms.BatchSGD,
        algorithms.Construct,
    ),
    "initial": _table(starts.Explicit, starts.Random),
    "limit": _table(grids.Limit),
    "grid": _table(grids.Grid),
}  # fmt: skip


def with_kinds(*added: Kinds) -> dict[str, dict[str, type[Spec]]]:
    """Return the table with the kinds of theories added.

    Raises
    ------
    ValueError
        When a kind is already another class.
    """
    table = {section: dict(kinds) for section, kinds in KINDS.items()}
    for extra in added:
        for section, kinds in extra.items():
            if section not in table:
                raise ValueError(f"kinds may be added to {', '.join(table)}, not to {section!r}")
            for name, kind in kinds.items():
                if table[section].setdefault(name, kind) is not kind and name:
                    raise ValueError(f"the kind {name!r} of [{section}] is taken")
                table[section][name] = kind
    return table
