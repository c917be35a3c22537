"""A result larger than memory: netCDF of which the large arrays are written row by row."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import write_atomically

if TYPE_CHECKING:
    import xarray as xr


# Bytes of names, attributes and tables of an HDF5 file, generously.
_OVERHEAD = 1 << 17


@dataclass(frozen=True)
class Rows:
    """A variable of float64 whose first axes count the rows, and what a row holds.

    Attributes
    ----------
    dims : sequence of str
    shape : tuple of int
        Of the axes of a row.
    attributes : dict
    """

    dims: Sequence[str]
    shape: tuple[int, ...]
    attributes: Mapping[str, str]

    def bytes_of(self, rows: int) -> int:
        """Return the bytes of so many rows."""
        return 8 * rows * math.prod(self.shape)


# Name of a variable, its rows in increasing order, and their values, shape (rows, *shape).
Block = tuple[str, np.ndarray, np.ndarray]


def write_streamed(
    target: Path, small: xr.Dataset, large: Mapping[str, Rows], lengths: Sequence[int], blocks: Iterator[Block]
) -> None:
    """Write a dataset of which the large variables come as blocks of rows, in any order; rows that never come are NaN.

    Parameters
    ----------
    target : Path
        Written whole or not at all, with a checksum.
    small : xarray.Dataset
        All coordinates, attributes and small variables.
    large : mapping
    lengths : sequence of int
        Of the first axes of every large variable; rows are numbered with the last of them fastest.
    blocks : iterator

    Raises
    ------
    ResultFileError
        When the file cannot be written; nothing half-written is left.
    """

    def write(temporary: Path) -> None:
        _reserve(temporary, small, large, math.prod(lengths))
        # In the order in which a result in memory has them: numbers, then what is said about the points.
        small.drop_vars(list(small.data_vars)).to_netcdf(temporary, engine="h5netcdf")
        offsets = _allocate(temporary, large, lengths)
        small.to_netcdf(temporary, mode="a", engine="h5netcdf")
        rows = math.prod(lengths)
        missing = {name: np.ones(rows, dtype=bool) for name in large}
        # Past HDF5, which does not survive a full disk: where the arrays lie in the file is known.
        with temporary.open("r+b", buffering=0) as file:
            for name, at, values in blocks:
                _put(file, offsets[name], at, values)
                missing[name][at] = False
            for name, gone in missing.items():
                nothing = np.full((1, *large[name].shape), np.nan)
                for row in np.flatnonzero(gone):
                    _put(file, offsets[name], np.array([row]), nothing)

    write_atomically(target, write, sealed=True)


def _reserve(path: Path, small: xr.Dataset, large: Mapping[str, Rows], rows: int) -> None:
    """Make sure that there is room for all of the file, before HDF5 meets a full disk, which it does not survive."""
    size = small.nbytes + sum(one.bytes_of(rows) for one in large.values()) + _OVERHEAD
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(0)


def _allocate(path: Path, large: Mapping[str, Rows], lengths: Sequence[int]) -> dict[str, int]:
    """Add the large variables without content, and return where each begins in the file."""
    import h5netcdf
    import h5py

    with h5netcdf.File(path, "r+") as file:
        for name, rows in large.items():
            variable = file.create_variable(name, tuple(rows.dims), "<f8")
            for key, text in rows.attributes.items():
                variable.attrs[key] = text
            # The first number that is written reserves the room of all, as a hole.
            variable[(0,) * (len(lengths) + len(rows.shape))] = 0.0
    with h5py.File(path, "r") as file:
        return {name: int(file[name].id.get_offset()) for name in large}


def _put(file: object, offset: int, at: np.ndarray, values: np.ndarray) -> None:
    data = np.ascontiguousarray(values, dtype="<f8")
    width = data[0].nbytes
    # Runs of rows that follow each other are one write.
    for run in np.split(np.arange(len(at)), np.flatnonzero(np.diff(at) != 1) + 1):
        content, where = data[run[0] : run[-1] + 1].reshape(-1).view(np.uint8).data, offset + int(at[run[0]]) * width
        while len(content):
            written = os.pwrite(file.fileno(), content, where)  # type: ignore[attr-defined]
            content, where = content[written:], where + written
