"""Theory and measurement entry by entry: on the measured grid, in standard errors, without what is no evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dimladder.errors import UsageError

from .verdict import Entries

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from dimladder.results import LearningCurve, Measurement


@dataclass(frozen=True)
class Declared:
    """What the experiment says about its entries, and the numerical accuracy of those without scatter."""

    imposed: Mapping[str, Mapping[str, float]]
    exact: tuple[str, ...]
    tolerance: float


def align(
    measurement: Measurement,
    curves: list[LearningCurve],
    size: str,
    order: np.ndarray,
    name: str,
    replicas: int,
    declared: Declared,
) -> tuple[Entries | None, xr.DataArray, int, int]:
    """Return the comparable entries of one variable, its residuals, and how many are finite on one side only, and the
    same number on both sides without any scatter."""
    import numpy as np
    import xarray as xr

    array = measurement[name].isel({size: order})
    axes = [str(d) for d in array.dims if d != size]
    array = array.transpose(size, *axes)
    mean = array.values

    def beside(suffix: str, default: float) -> np.ndarray:
        if name + suffix not in measurement:
            return np.full(mean.shape, default)
        return np.asarray(measurement[name + suffix].isel({size: order}).transpose(size, *axes).values, dtype=float)

    scatter, skewness = beside("_se", np.nan), beside("_skewness", 0.0)
    theory = np.stack([_on_grid(curve, name, array, axes) for curve in curves])
    spread = [_on_grid(c, f"{name}_se", array, axes) if f"{name}_se" in c else np.zeros(mean.shape[1:]) for c in curves]
    finite = np.isfinite(theory)
    floor = declared.tolerance * max(float(np.max(np.abs(theory[finite]))) if finite.any() else 0.0, 1e-300)
    gap = mean - theory
    same = (mean == theory) | (np.isnan(mean) & np.isnan(theory))  # equal infinities, both undefined
    gap = np.where(same, 0.0, gap)
    still = scatter <= floor
    given = np.broadcast_to(_chosen(declared.imposed.get(name), array, axes), mean.shape)
    numerical = given | (name in declared.exact)
    # A theory with a standard error of its own has one at entries without scatter too.
    se = np.maximum(np.hypot(scatter, np.stack(spread)), floor)
    defined = np.isfinite(theory) & np.isfinite(mean) & np.isfinite(se)
    one_sided = int(np.sum((np.isfinite(theory) != np.isfinite(mean)) & ~same))
    constant = (still & (np.abs(gap) <= floor) & ~numerical).all(axis=0)
    unknown = still & ~numerical & (np.stack(spread) == 0.0)
    z = xr.DataArray(
        np.where(defined & ~(unknown & (np.abs(gap) > floor)), gap / np.where(defined, se, 1.0), np.nan),
        dims=array.dims, coords={d: array.coords[d] for d in array.dims}, name=name,
        attrs={"long_name": f"residual of {name}"},
    )  # fmt: skip
    kept = defined.all(axis=0) & ~constant
    if not kept.any():
        return None, z, one_sided, int(constant.sum())
    labels = [
        ", ".join(f"{axis} = {_shown(array.coords[axis].values[i])}" for axis, i in zip(axes, place, strict=True))
        or name
        for place in np.argwhere(kept)
    ]
    flat = {
        key: values.reshape(len(order), -1)[:, kept.ravel()]
        for key, values in {
            "gap": gap, "se": se, "theory": theory, "skewness": np.where(numerical, 0.0, skewness), "unknown": unknown
        }.items()
    }  # fmt: skip
    sizes = array.coords[size].values.astype(float)
    entries = Entries(
        name, sizes, labels=labels, replicas=replicas, imposed=given[0].ravel()[kept.ravel()],
        exact=name in declared.exact, **flat,
    )  # fmt: skip
    return entries, z, one_sided, int(constant.sum())


def _chosen(where: Mapping[str, float] | None, array: xr.DataArray, axes: list[str]) -> np.ndarray:
    """Return the mask of the entries at the given coordinates: none for None, all for no coordinates."""
    import numpy as np

    chosen = np.full([array.sizes[axis] for axis in axes], where is not None)
    for axis, value in (where or {}).items():
        along = np.asarray(array.coords[axis].values == value) if axis in axes else np.array(False)
        chosen &= along.reshape([-1 if a == axis else 1 for a in axes]) if axis in axes else along
    return chosen


def _shown(coordinate: Any) -> str:
    """A coordinate in a label: numbers short, names as they are."""
    return str(coordinate) if isinstance(coordinate, str) else f"{coordinate:g}"


def _on_grid(curve: LearningCurve, name: str, array: xr.DataArray, axes: list[str]) -> np.ndarray:
    """Return the theory's values at the coordinates of the measurement."""
    import numpy as np

    theory = curve[name]
    if set(map(str, theory.dims)) != set(axes):
        raise UsageError(
            f"{name!r} has other axes in theory than in simulation",
            why=f"theory: {tuple(theory.dims)}; simulation: {tuple(axes)}",
        )
    for axis in axes:
        have, want = theory.coords[axis].values, array.coords[axis].values
        if have.dtype.kind in "iuf":
            # Infinity is near itself only: the tolerance of an infinite coordinate would take in every other.
            with np.errstate(invalid="ignore"):
                near = np.abs(have[None, :] - want[:, None]) <= 1e-9 * np.maximum(np.abs(want[:, None]), 1e-12)
            near &= np.isfinite(want)[:, None]
            near |= have[None, :] == want[:, None]
        else:
            near = have[None, :] == want[:, None]
        if not near.any(axis=1).all():
            absent = want[~near.any(axis=1)]
            raise UsageError(
                f"the theory has no {axis} = {absent[0]} for {name!r}",
                why=f"{len(absent)} of {len(want)} measured points are not on its grid",
                hint="solve and simulate the same problem, or simulate on the theory's grid",
            )
        theory = theory.isel({axis: near.argmax(axis=1)})
    values: np.ndarray = theory.transpose(*axes).values.astype(float)
    return values
