"""Labelled results: thin classes over an xarray Dataset, with provenance, JSON and netCDF."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..errors import ResultFileError, did_you_mean
from ..problem import Problem, to_builtins
from .files import check_seal, write_atomically
from .jsonable import jsonable
from .provenance import now, provenance
from .table import columns, main_axis

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SCHEMA = 1
# Bytes up to which a file is read whole when it is opened.
EAGER = 1 << 26
# (dims, values, latex, long_name, units)
VariableData = tuple[Sequence[str], Any, str, str, str | None]


def prime(dims: Sequence[str]) -> tuple[str, ...]:
    """Make repeated index names distinct: ``("student", "student")`` becomes ``("student", "student'")``."""
    seen: list[str] = []
    for dim in dims:
        while dim in seen:
            dim += "'"
        seen.append(dim)
    return tuple(seen)


@lru_cache(maxsize=256)
def _numbers(length: int) -> np.ndarray:
    numbers = np.arange(length)
    numbers.flags.writeable = False
    return numbers


@lru_cache(maxsize=512)
def _listed(dims: tuple[str, ...]) -> str:
    return json.dumps(list(dims))


def labelled(
    coords: Mapping[str, Any], variables: Mapping[str, VariableData]
) -> tuple[dict[str, np.ndarray], dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]]:
    """Return every axis, and (axes, array, attributes) of every variable. Index axes are numbered from 0.

    Raises
    ------
    ValueError
        When the shape of a variable does not fit its axes.
    """
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]] = {}
    axes: dict[str, np.ndarray] = {name: np.asarray(values) for name, values in coords.items()}
    for name, (dims, values, latex, long_name, units) in variables.items():
        data = np.asarray(values)
        own = prime(dims)
        if data.ndim != len(own):
            raise ValueError(f"variable {name!r} has {data.ndim} axes, its dims {own} name {len(own)}")
        for axis, length in zip(own, data.shape, strict=True):
            known = axes.setdefault(axis, axes.get(axis.rstrip("'"), _numbers(length)))
            if len(known) != length:
                raise ValueError(f"axis {axis!r} of variable {name!r} has length {length}, its coordinate {len(known)}")
        attributes = {"dims": _listed(tuple(dims)), "latex": latex, "long_name": long_name}
        arrays[name] = (own, data, attributes if units is None else {**attributes, "units": units})
    return axes, arrays


# Attributes that take longer to write than many a curve to compute: made when they are first read.
_LATER = ("problem", "provenance", "stats", "coordinates")
# Coordinates, variables as (axes, values, attributes), and the attributes of the whole; functions stand for `_LATER`.
_Parts = tuple[dict[str, Any], dict[str, tuple[tuple[str, ...], Any, dict[str, str]]], dict[str, Any]]


class Result:
    """A labelled set of arrays that belongs to one problem.

    ``result["Q"]`` is an xarray DataArray; `dataset` is the whole. Read-only by convention.
    """

    kind: ClassVar[str] = "result"

    def __init__(self, dataset: xr.Dataset | None = None, parts: _Parts | None = None) -> None:
        self._parts = parts
        if dataset is not None:
            self.dataset = dataset

    @cached_property
    def dataset(self) -> xr.Dataset:
        """The whole as xarray has it, made when it is first asked for: that import takes longer than most curves."""
        import xarray as xr

        if self._parts is None:
            raise ValueError("a result holds a dataset, or the parts of one")
        axes, arrays, _ = self._parts
        attrs = dict(self.attributes)
        # From now on there is one truth: what is changed in the dataset is changed.
        self._parts = None
        told = json.loads(attrs.get("coordinates", "{}"))
        return xr.Dataset(arrays, coords={k: ([k], v, told.get(k, {})) for k, v in axes.items()}, attrs=attrs)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What belongs to the whole: theory, status, provenance, the problem."""
        for name in _LATER:
            self._attribute(name)
        return self._parts[2] if self._parts is not None else self.dataset.attrs

    def _attribute(self, name: str, default: Any = "") -> Any:
        """Return one attribute, without writing the others."""
        attributes: Any = self._parts[2] if self._parts is not None else self.dataset.attrs
        value = attributes.get(name, default)
        if callable(value):
            value = attributes[name] = value()
        return value

    def _arrays(self) -> tuple[dict[str, Any], dict[str, tuple[Any, Mapping[str, Any]]]]:
        """Return the values of every coordinate, and values and attributes of every variable."""
        if self._parts is not None:
            axes, arrays, _ = self._parts
            return axes, {n: (v, attrs) for n, (_, v, attrs) in arrays.items() if n not in axes}
        data = self.dataset
        variables: dict[str, Any] = {str(n): (v.values, v.attrs) for n, v in data.data_vars.items()}
        return {str(n): c.values for n, c in data.coords.items()}, variables

    def _labelled(self) -> tuple[dict[str, np.ndarray], dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        """Return the values of every coordinate, and axes and values of every variable."""
        if self._parts is not None:
            axes, arrays, _ = self._parts
            return axes, {n: (dims, np.asarray(v)) for n, (dims, v, _) in arrays.items() if n not in axes}
        data = self.dataset
        variables = {str(n): (tuple(map(str, v.dims)), v.values) for n, v in data.data_vars.items()}
        return {str(n): c.values for n, c in data.coords.items()}, variables

    @classmethod
    def build(
        cls,
        problem: Problem | None,
        coords: Mapping[str, Any],
        variables: Mapping[str, VariableData],
        *,
        status: str = "success",
        message: str = "",
        stats: Mapping[str, Any] | None = None,
        generated: str = "",
        extra: Mapping[str, Any] | None = None,
        coordinates: Mapping[str, tuple[str, str]] | None = None,
    ) -> Self:
        """Assemble a result. Index axes without coordinates are numbered from 0; `coordinates`: (text, unit) of axes.

        Raises
        ------
        ValueError
            When the shape of a variable does not fit its axes.
        """
        axes, arrays = labelled(coords, variables)
        told = {
            name: {"long_name": text} | ({"units": unit} if unit else {})
            for name, (text, unit) in (coordinates or {}).items()
            if name in axes
        }
        attrs = {
            "schema": SCHEMA,
            "kind": cls.kind,
            "theory": problem.theory if problem is not None else "",
            "title": problem.title if problem is not None else "",
            "status": status,
            "message": message,
            "stats": partial(json.dumps, dict(stats or {}), default=_plain),
            "coordinates": partial(json.dumps, told),
            "problem": problem.to_toml if problem is not None else "",
            "provenance": partial(_provenance, problem, generated, dict(extra or {}), now()),
        }
        return cls(parts=(axes, arrays, attrs))

    def __getitem__(self, name: str) -> xr.DataArray:
        try:
            return self.dataset[name]
        except KeyError:
            known = [str(n) for n in self.dataset.variables]
            raise KeyError(f"no variable {name!r}: {did_you_mean(name, known)}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.dataset

    def __iter__(self) -> Any:
        """Names of the variables and of their standard errors; not of further statistics, such as the skewness."""
        names = list(self._arrays()[1])
        return iter(n for n in names if not (n.endswith("_skewness") and n.removesuffix("_skewness") in names))

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def to_dataframe(self, axis: str | None = None) -> pd.DataFrame:
        """Return the curves as a pandas DataFrame: a row a value of the axis, a column a component such as ``Q[0,1]``.

        Parameters
        ----------
        axis : str, optional
            Default: the axis that curves are drawn against. Without any, one row of the numbers.
        """
        import pandas as pd

        axis = axis or main_axis(self)
        table = columns(self, axis)
        index = None if axis is None else pd.Index(table.pop(axis), name=axis)
        return pd.DataFrame(table, index=index)

    def plot(self, *others: Result, **options: Any) -> Any:
        """Return a matplotlib figure of this result, and of others beside it; options as in `dimladder.figure`."""
        from dimladder import figure

        return figure([self, *others], **options)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{n}({', '.join(self.dims(n))})" for n in self)
        return f"<{type(self).__name__} {self.theory!r} {self.status}: {sizes}>"

    def _repr_html_(self) -> str:
        return self.dataset._repr_html_()

    @property
    def theory(self) -> str:
        """Name of the theory."""
        return str(self._attribute("theory"))

    @property
    def title(self) -> str:
        """Title of the problem."""
        return str(self._attribute("title"))

    @property
    def status(self) -> str:
        """``"success"``, or why the computation stopped early."""
        return str(self._attribute("status"))

    @property
    def message(self) -> str:
        """What the solver said."""
        return str(self._attribute("message"))

    @property
    def stats(self) -> dict[str, Any]:
        """Work counters of the solver or the experiment."""
        return dict(json.loads(self._attribute("stats", "{}")))

    def note(self, **more: Any) -> None:
        """Add to the counters of a result that is being made, before it is saved."""
        attributes: Any = self._parts[2] if self._parts is not None else self.dataset.attrs
        attributes["stats"] = json.dumps({**self.stats, **more}, default=_plain)

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, git state, hashes, command line, seeds."""
        return dict(json.loads(self._attribute("provenance")))

    @property
    def problem_toml(self) -> str:
        """The resolved run file."""
        return str(self._attribute("problem"))

    def dims(self, name: str) -> list[str]:
        """Return the axes of a variable as the theory names them (a repeated index is not primed)."""
        if self._parts is not None and name in self._parts[1]:
            return list(json.loads(self._parts[1][name][2]["dims"]))
        array = self.dataset[name]
        return list(json.loads(array.attrs["dims"])) if "dims" in array.attrs else [str(d) for d in array.dims]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON contract: schema, theory, status, coords, variables, parameters, provenance."""
        import tomllib

        coords, arrays = self._arrays()
        variables = {
            name: {
                "dims": self.dims(name),
                "values": jsonable(np.asarray(arrays[name][0]).tolist()),
                "units": arrays[name][1].get("units"),
                "latex": arrays[name][1].get("latex", ""),
            }
            for name in self
        }
        return {
            "schema": SCHEMA,
            "theory": self.theory,
            "status": self.status,
            "coords": {name: jsonable(np.asarray(values).tolist()) for name, values in coords.items()},
            "variables": variables,
            "parameters": jsonable(tomllib.loads(self.problem_toml)),
            "provenance": jsonable({**self.provenance, "message": self.message, "stats": self.stats}),
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return the JSON contract as text; non-finite numbers are null."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def save(self, path: str | Path) -> Path:
        """Write netCDF (HDF5) through a temporary file and a rename, a checksum after its end.

        Raises
        ------
        ResultFileError
            When the file cannot be written (no space, no permission); nothing half-written is left.
        """
        target = Path(path)

        # Made in memory: HDF5 itself does not survive a full disk.
        content = self._content()

        def write(temporary: Path) -> None:
            temporary.write_bytes(content)

        write_atomically(target, write, sealed=True)
        return target

    def _content(self) -> memoryview:
        """Return the netCDF file."""
        if self._parts is not None:
            from .netcdf import netcdf

            attributes = dict(self.attributes)
            told = json.loads(attributes.get("coordinates", "{}"))
            axes, arrays, _ = self._parts
            return netcdf({name: (values, told.get(name, {})) for name, values in axes.items()}, arrays, attributes)
        content = io.BytesIO()
        self.dataset.to_netcdf(content, engine="h5netcdf")
        return content.getbuffer()


class LearningCurve(Result):
    """What a theory predicts: ``curve["Q"]``, with the theory's axes (``time`` in its unit) and order parameters.

    Examples
    --------
    >>> curve = dimladder.solve(problem)  # doctest: +SKIP
    >>> curve["generalization_error"].sel(time=10.0)  # doctest: +SKIP
    """

    kind = "learning-curve"


class Measurement(Result):
    """What finite-size experiments gave: means over replicas, with ``<name>_se`` beside each variable.

    The first dimension of every variable is the size (``d``, or what the experiment counts), the others are those of
    the theory's variable of that name.
    """

    kind = "measurement"


class PhaseDiagram(Result):
    """A sweep: the variables of a theory over a grid of parameters, one status a point.

    The first dimensions of every variable are the swept keys; ``status`` and ``message`` say how each point ended, and
    one that failed is a row of NaN.
    """

    kind = "phase-diagram"


def open_result(path: str | Path) -> Result:
    """Read a result.

    Parameters
    ----------
    path : str or Path
        A netCDF file, or a run folder that holds ``result.nc``.

    Returns
    -------
    LearningCurve, Measurement or PhaseDiagram

    Arrays of a large file are read when they are used.

    Raises
    ------
    ResultFileError
        When there is no such file, it is damaged, or another program wrote it.
    """
    import xarray as xr

    file = Path(path)
    if file.is_dir():
        file = file / "result.nc"
    if not file.exists():
        raise ResultFileError("there is no result here", where=str(file), hint="give a run folder or a .nc file")
    # First of all: HDF5 may crash or never return on a damaged file.
    check_seal(file)
    try:
        if file.stat().st_size > EAGER:
            dataset = xr.open_dataset(file, engine="h5netcdf", decode_times=False)
        else:
            with xr.open_dataset(file, engine="h5netcdf", decode_times=False) as opened:
                dataset = opened.load()
    except Exception as error:  # whatever HDF5, h5netcdf and xarray raise
        raise ResultFileError(
            "the result file cannot be read", where=str(file), why=(str(error) or repr(error)).splitlines()[0],
            hint="it is not a netCDF file of this program: run the command that wrote it again",
        ) from None  # fmt: skip
    kinds = {c.kind: c for c in (LearningCurve, Measurement, PhaseDiagram)}
    kind = dataset.attrs.get("kind")
    if kind not in kinds or str(dataset.attrs.get("schema")) != str(SCHEMA):
        raise ResultFileError(
            "this file is not one of dimladder's results", where=str(file),
            why=f"kind {kind!r}, schema {dataset.attrs.get('schema')!r}; this version reads schema {SCHEMA}",
        )  # fmt: skip
    return kinds[kind](dataset)


def _provenance(problem: Problem | None, generated: str, extra: dict[str, Any], created: str) -> str:
    return json.dumps({**provenance(problem, generated, created), **extra}, default=_plain)



def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__struct_fields__"):
        return to_builtins(value)
    return str(value)
