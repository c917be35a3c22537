"""Measurements that come with the package: a theory is compared with them in a moment, without a simulation.

They are those of the cases of the campaign ``quick``; each says which problem, sizes, replicas and seed it is of, and
`simulate` gives it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimladder.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from dimladder.problem import Problem
    from dimladder.results import Measurement

FOLDER = Path(__file__).parent / "stored"
# The word for "the one of this problem".
OWN = "stored"


def stored_names() -> list[str]:
    """Return the names of the measurements that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.nc"))


def stored(name: str) -> Measurement:
    """Return a measurement that comes with the package; its ``problem_toml`` is the run file.

    Raises
    ------
    UsageError
        When there is none of that name.
    """
    from dimladder.results import Measurement, open_result

    path = FOLDER / f"{name}.nc"
    if name not in stored_names():
        raise UsageError(f"no measurement {name!r} comes with the package", hint=did_you_mean(name, stored_names()))
    found = open_result(path)
    assert isinstance(found, Measurement)
    return found


def stored_for(
    problem: Problem, sizes: Sequence[int] = (), replicas: int | None = None, seed: int | None = None
) -> Measurement:
    """Return the measurement of a problem, of these sizes, replicas and seed where they are given.

    How the theory is solved does not matter; all else must be the same.

    Raises
    ------
    UsageError
        When none comes with the package.
    """
    from .simulate import stream_hash

    wanted = stream_hash(problem)
    for name in stored_names():
        stats, own = _facts(name)
        if (
            stats["problem"] == wanted
            and (not sizes or sorted(sizes) == own)
            and replicas in (None, stats["replicas"])
            and seed in (None, stats["seed"])
        ):
            return stored(name)
    raise UsageError(
        "no measurement of this problem comes with the package", where=f"theory {problem.theory}",
        hint=f"simulate it; or compare with another problem's: {', '.join(stored_names())}",
    )  # fmt: skip


@cache
def _facts(name: str) -> tuple[dict[str, Any], list[int]]:
    """Return what a measurement says of its making, and its sizes."""
    found = stored(name)
    return found.stats, sorted(found[found.stats["size"]].values.tolist())
