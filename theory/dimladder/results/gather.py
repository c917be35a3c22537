"""Results of a path, of a folder, or of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ResultFileError
from .container import Measurement, Result, open_result

Source = Result | str | Path


def gather(source: Source | Sequence[Source]) -> list[Result]:
    """Return the results of a path, or of several: a ``.nc`` file, or a folder with one or more of them.

    Theories come first; in a folder that holds a comparison these are the curve and the measurement, and in one of a
    comparison along a grid those of every point.

    Raises
    ------
    ResultFileError
        When there is no result.
    """
    if isinstance(source, Result):
        return [source]
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            found = sorted(path.glob("*.nc")) or sorted(path.glob("*/*.nc"))
            if not found:
                raise ResultFileError(
                    "there is no result here", where=str(path), hint="give a run folder or a .nc file"
                )
            results = [open_result(p) for p in found]
        else:
            results = [open_result(path)]
    else:
        results = [r for s in source for r in gather(s)]
    if not results:
        raise ResultFileError("there is no result to export", where="export")
    return sorted(results, key=lambda r: isinstance(r, Measurement))
