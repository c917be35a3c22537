"""Batches of replicas put together: means and standard errors, with the size as first dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dimladder.errors import SimulationError

from .batches import Batch

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Ensemble:
    """All replicas at all sizes.

    ``variables[name]`` is (dims, values, attributes) with values of shape ``(sizes, replicas, *dims)``.
    """

    size_name: str
    sizes: tuple[int, ...]
    coords: dict[str, np.ndarray]
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]
    provenance: dict[str, Any]

    def mean_and_se(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over replicas and its standard error, each of shape ``(sizes, *dims)``.

        The standard error is the standard deviation with n - 1, over sqrt n; NaN for a single replica. An entry that is
        the same number in every replica has the standard error 0, exactly.
        """
        import numpy as np

        values = self.variables[name][1]
        count = values.shape[1]
        with np.errstate(invalid="ignore"):
            # Deviations from the first replica: a constant entry keeps its value and gets se = 0 without rounding.
            shift = values - values[:, :1]
            mean = values[:, 0] + shift.mean(axis=1)
            if count == 1:
                return mean, np.full_like(mean, np.nan)
            return mean, np.sqrt(shift.var(axis=1, ddof=1) / count)

    def skewness(self, name: str) -> np.ndarray:
        """Return m3 / m2^(3/2) of the replicas, of shape ``(sizes, *dims)``; 0 where they are all equal."""
        from ..significance import sample_skewness

        return sample_skewness(self.variables[name][1], axis=1)


def assemble(
    size_name: str, sizes: Sequence[int], count: int, batches: Sequence[Batch], provenance: Mapping[str, Any]
) -> Ensemble:
    """Put batches together in the order of sizes and replicas; all must share variables, dims and coordinates."""
    import numpy as np

    first = batches[0]
    per_size: dict[str, list[np.ndarray]] = {name: [] for name in first.variables}
    for size in sizes:
        ordered = sorted((b for b in batches if b.size == size), key=lambda b: b.first)
        for batch in ordered:
            _check_alike(first, batch, size_name)
        for name in per_size:
            # In one order of memory, in which sums are taken: that of a batch depends on where it comes from.
            values = np.ascontiguousarray(np.concatenate([b.variables[name][1] for b in ordered]))
            assert values.shape[0] == count, f"{name} at {size_name} = {size}: {values.shape[0]} of {count} replicas"
            per_size[name].append(values)
    variables = {
        name: (dims, np.stack(per_size[name]), attributes) for name, (dims, _, attributes) in first.variables.items()
    }
    return Ensemble(size_name, tuple(sizes), dict(first.coords), variables, {**provenance, "replicas": count})


def _check_alike(first: Batch, batch: Batch, size_name: str) -> None:
    import numpy as np

    where = f"{size_name} = {batch.size}, replicas {batch.first} to {batch.last - 1}"
    if set(batch.variables) != set(first.variables):
        raise SimulationError(
            "batches measured different variables",
            where=where,
            why=f"{sorted(set(batch.variables) ^ set(first.variables))} are not in all of them",
        )
    for name, (dims, values, _) in batch.variables.items():
        if dims != first.variables[name][0] or values.shape[1:] != first.variables[name][1].shape[1:]:
            raise SimulationError(
                f"{name!r} changes its shape with the size or the batch",
                where=where,
                why=f"{dims} {values.shape[1:]}, not {first.variables[name][0]} {first.variables[name][1].shape[1:]}",
            )
    for name, coordinate in batch.coords.items():
        if name not in first.coords or not np.array_equal(
            coordinate, first.coords[name], equal_nan=coordinate.dtype.kind == "f"
        ):
            raise SimulationError(
                f"the coordinate {name!r} changes with the size or the batch",
                where=where,
                hint="an experiment must measure on the problem's grid",
            )
