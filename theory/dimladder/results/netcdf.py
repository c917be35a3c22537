"""Labelled arrays as netCDF, as xarray writes them, without its import, which takes longer than most curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["netcdf"]


def netcdf(
    axes: Mapping[str, tuple[Any, Mapping[str, Any]]],
    arrays: Mapping[str, tuple[Sequence[str], Any, Mapping[str, Any]]],
    attributes: Mapping[str, Any],
) -> memoryview:
    """Return the content of a netCDF file.

    Parameters
    ----------
    axes : mapping
        Name of every axis -> its coordinate (numbers, truth values or texts) and its attributes.
    arrays : mapping
        Name -> axes, values, attributes.
    attributes : mapping
        Of the whole: texts and whole numbers.
    """
    import h5netcdf

    content = io.BytesIO()
    coordinates = {name: ((name,), *known) for name, known in axes.items()}
    with h5netcdf.File(content, "w") as file:
        file.dimensions = {name: len(values) for name, (values, _) in axes.items()}
        for name, (dims, values, told) in {**arrays, **coordinates}.items():
            _write(file, name, tuple(dims), np.asarray(values), told)
        for name, value in attributes.items():
            file.attrs[name] = value if isinstance(value, str) else np.atleast_1d(value)
    return content.getbuffer()


def _write(file: Any, name: str, dims: tuple[str, ...], values: np.ndarray, told: Mapping[str, Any]) -> None:
    fill: Any = None
    match values.dtype.kind:
        case "f":
            # What a reader takes for missing.
            fill = values.dtype.type(np.nan)
        case "b":
            told, values = {**told, "dtype": "bool"}, values.astype(np.int8)
        case "U" | "O":
            import h5py

            variable = file.create_variable(name, dims, dtype=h5py.string_dtype())
            variable[...] = values.astype(object)
            variable.attrs.update(told)
            return
    variable = file.create_variable(name, dims, dtype=values.dtype, fillvalue=fill)
    variable[...] = values
    variable.attrs.update(told)
