"""The points of a sweep put together: one labelled data set, in memory or in a file as large as it has to be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .choose import find
from .problem import Problem, to_builtins
from .results import PhaseDiagram, open_result, read_records
from .results.container import EAGER
from .results.records import SUFFIX
from .results.streamed import Block, Rows, write_streamed
from .workers import Answer

if TYPE_CHECKING:
    import xarray as xr

    from .results import Record

Attributes = Mapping[str, str]


def assemble(problem: Problem, axes: Mapping[str, list[Any]], answers: Sequence[Answer]) -> PhaseDiagram:
    """Return the data set of all points, whose answers hold their arrays."""
    own = _shared_coords([a.coords for a in answers if a.status == "success"])
    return _diagram(problem, axes, answers, own)


def _diagram(
    problem: Problem,
    axes: Mapping[str, list[Any]],
    answers: Sequence[Answer],
    own: Mapping[str, np.ndarray],
) -> PhaseDiagram:
    """Return the data set of what the answers hold, on the coordinates `own`."""
    lengths = tuple(len(v) for v in axes.values())
    coords: dict[str, Any] = {key: _coordinate(values) for key, values in axes.items()}
    good = [a for a in answers if a.status == "success"]
    # Points that were solved together share their coordinates.
    common = {
        id(coords): all(np.array_equal(own[d], at) for d, at in coords.items())
        for coords in {id(a.coords): a.coords for a in good}.values()
    }
    whole = [a.status == "success" and common[id(a.coords)] for a in answers]
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(n for a in good for n in a.variables):
        dims, first, text = next(a.variables[name] for a in good if name in a.variables)
        block = _block(name, dims, first, own, answers, whole)
        variables[name] = (
            (*axes, *json.loads(text["dims"])), block.reshape(*lengths, *block.shape[1:]), text.get("latex", ""),
            text.get("long_name", ""), text.get("units"),
        )  # fmt: skip
    for name, values, meaning in (
        ("status", [a.status for a in answers], "how the point ended"),
        ("message", [a.message for a in answers], "why it ended so"),
    ):
        variables[name] = (tuple(axes), np.array(values, dtype=str).reshape(lengths), "", meaning, None)
    failed = sum(a.status != "success" for a in answers)
    return PhaseDiagram.build(
        problem, {**coords, **own}, variables, status="success" if not failed else "incomplete",
        message=f"{failed} of {len(answers)} points failed" if failed else "",
        stats={"grid": list(axes), "points": len(answers), "failed": failed},
        extra={"grid": {k: to_builtins(v) for k, v in axes.items()}}, coordinates=find(problem.theory).coordinates,
    )  # fmt: skip


@dataclass
class Logged:
    """What a folder of logs holds of the points of a sweep, without the arrays.

    Attributes
    ----------
    answers : dict
        Index -> answer of what was finished; it holds variables that are no numbers.
    coords : list of dict
        The different coordinates of the points that succeeded.
    variables : dict
        Name -> (axes, attributes) of those that are numbers, in the order of their appearance.
    records : callable
        The records of finished points, read again where they are too large to be kept.
    """

    records: Callable[[], Iterable[Record]]
    answers: dict[int, Answer] = field(default_factory=dict)
    coords: list[dict[str, np.ndarray]] = field(default_factory=list)
    variables: dict[str, tuple[tuple[str, ...], Attributes]] = field(default_factory=dict)


def survey(folder: Path, wanted: Mapping[str, int]) -> Logged:
    """Read the logs of a folder once; `wanted`: key -> index of the points that count."""
    found = Logged(_records(folder))
    for record in found.records():
        header = record.header
        members = [
            (k, wanted[key], status, message)
            for k, (key, status, message) in enumerate(
                zip(header["keys"], header["status"], header["message"], strict=True)
            )
            if key in wanted
        ]
        texts: dict[str, tuple[Any, np.ndarray, Attributes]] = {}
        coords: dict[str, np.ndarray] = {}
        if any(status == "success" for _, _, status, _ in members):
            coords = _known(_coords_of(record), found.coords)
            for name, (dims, attributes) in header["variables"].items():
                values = record.arrays[f"v:{name}"]
                if not _is_number(values):
                    texts[name] = tuple(dims), values, attributes
                else:
                    found.variables.setdefault(name, (tuple(dims), attributes))
        for k, index, status, message in members:
            if index in found.answers and found.answers[index].status == "success":
                continue
            text: dict[str, Any] = {}
            if status == "success":
                text = {
                    name: (dims, np.array(values[k]), attributes) for name, (dims, values, attributes) in texts.items()
                }
            found.answers[index] = Answer(index, status, message, coords if text else {}, text, True)
    return found


def _records(folder: Path) -> Callable[[], Iterable[Record]]:
    """Return what yields the records of finished points, from memory where they are no larger than a small result."""

    def finished() -> Iterator[Record]:
        return (record for record in read_records(folder) if "begun" not in record.header)

    if sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}")) > EAGER:
        return finished
    kept = list(finished())
    return lambda: kept


def _known(coords: Mapping[str, np.ndarray], known: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return these coordinates as they are known, and remember them where they are not."""
    for one in known:
        if one.keys() == coords.keys() and all(np.array_equal(values, one[name]) for name, values in coords.items()):
            return one
    known.append({name: np.array(values) for name, values in coords.items()})
    return known[-1]


def assemble_logged(
    problem: Problem, axes: Mapping[str, list[Any]], answers: Sequence[Answer], wanted: Mapping[str, int],
    logged: Logged, target: Path,
) -> PhaseDiagram:  # fmt: skip
    """Write the data set of all points, put together record by record, and return it.

    Memory does not grow with what the points hold: a large one is never in memory as a whole.
    """
    own = _shared_coords(logged.coords)
    rows = {answer.index: row for row, answer in enumerate(answers)}
    good = {answer.index for answer in answers if answer.status == "success"}
    small = _diagram(problem, axes, answers, own).dataset.assign_coords(own)
    large = {
        name: Rows(
            (*axes, *dims), tuple(len(own[d]) for d in dims),
            {**attributes, "dims": json.dumps([*axes, *json.loads(attributes["dims"])])},
        )
        for name, (dims, attributes) in logged.variables.items()
    }  # fmt: skip

    def blocks() -> Iterator[Block]:
        written: set[int] = set()
        for record in logged.records():
            members = [
                (k, wanted[key])
                for k, (key, status) in enumerate(zip(record.header["keys"], record.header["status"], strict=True))
                if status == "success" and wanted.get(key, -1) in good and wanted[key] not in written
            ]
            if not members:
                continue
            written |= {index for _, index in members}
            members.sort(key=lambda member: rows[member[1]])
            inside, at = np.array([k for k, _ in members]), np.array([rows[i] for _, i in members])
            coords = _coords_of(record)
            for name, (dims, _) in record.header["variables"].items():
                values = record.arrays[f"v:{name}"]
                if name in large and _is_number(values):
                    yield name, at, _placed(values[inside], dims, coords, own)

    lengths = [len(v) for v in axes.values()]
    if sum(rows.bytes_of(len(answers)) for rows in large.values()) <= EAGER:
        found = PhaseDiagram(_filled(small, large, lengths, blocks()))
        found.save(target)
        return found
    write_streamed(target, small, large, lengths, blocks())
    read = open_result(target)
    assert isinstance(read, PhaseDiagram)
    return read


def _filled(
    small: xr.Dataset, large: Mapping[str, Rows], lengths: Sequence[int], blocks: Iterable[Block]
) -> xr.Dataset:
    """Return the data set that `write_streamed` would write: numbers first, NaN where rows never come."""
    count = math.prod(lengths)
    arrays = {name: np.full((count, *rows.shape), np.nan) for name, rows in large.items()}
    for name, at, values in blocks:
        arrays[name][at] = values
    variables = {
        name: (rows.dims, arrays[name].reshape(*lengths, *rows.shape), dict(rows.attributes))
        for name, rows in large.items()
    }
    return small.drop_vars(list(small.data_vars)).assign({**variables, **small.data_vars})


def _placed(
    values: np.ndarray, dims: Sequence[str], coords: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return values on the coordinates that hold every point: NaN where these points have none."""
    if all(np.array_equal(coords[d], own[d]) for d in dims):
        return values
    block = np.full((len(values), *(len(own[d]) for d in dims)), np.nan)
    block[(slice(None), *_inside(dims, coords, own))] = values
    return block


def _inside(dims: Sequence[str], coords: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    """Return where some coordinates lie in those of all points: a narrower student has fewer indices, say."""
    return np.ix_(*(np.flatnonzero(np.isin(own[d], coords[d])) for d in dims))


def _coords_of(record: Record) -> dict[str, np.ndarray]:
    return {name[2:]: values for name, values in record.arrays.items() if name.startswith("c:")}


def _is_number(values: np.ndarray) -> bool:
    return bool(np.issubdtype(values.dtype, np.number) or values.dtype == bool)


def _block(
    name: str,
    dims: Sequence[str],
    first: np.ndarray,
    own: Mapping[str, np.ndarray],
    answers: Sequence[Answer],
    whole: Sequence[bool],
) -> np.ndarray:
    """Return one variable of every point, shape (points, ...): NaN or "" where there is none."""
    numeric = _is_number(first)
    if all(whole) and all(name in a.variables for a in answers):
        block = np.stack([a.variables[name][1] for a in answers])
        return block.astype(float) if numeric else block.astype(str)
    shape = (len(answers), *(len(own[d]) for d in dims))
    block = np.full(shape, np.nan if numeric else "", dtype=float if numeric else object)
    for row, answer in enumerate(answers):
        if answer.status != "success" or name not in answer.variables:
            continue
        block[(row, *_inside(dims, answer.coords, own))] = answer.variables[name][1]
    return block if numeric else block.astype(str)


def _coordinate(values: list[Any]) -> Any:
    if all(isinstance(v, bool | int | float) for v in values):
        return np.asarray(values, dtype=float if any(isinstance(v, float) for v in values) else int)
    return np.array([v if isinstance(v, str) else repr(v) for v in values], dtype=str)


def _shared_coords(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the coordinates that hold every point: the common one, or the sorted union."""
    found: dict[str, Any] = {}
    for coords in {id(coords): coords for coords in points}.values():
        for name, values in coords.items():
            known = found.get(name)
            if known is None or not (known is values or np.array_equal(known, values)):
                found[name] = values if known is None else np.union1d(known, values)
    return found
