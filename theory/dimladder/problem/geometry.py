"""A problem of few directions as numbers: overlaps and readouts at the start, checked to be overlaps of something."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DomainError
from .overlaps import matrix_of, require_semidefinite, require_symmetric
from .spec import Problem
from .starts import Random
from .students import readout_rows
from .targets import Committee

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """The state at time 0.

    Attributes
    ----------
    Q : array (K, K)
        w_i . w_k / d.
    M : array (K, M)
        w_i . w*_m / d.
    T : array (M, M)
        w*_m . w*_n / d.
    a : array (K,)
        Student readouts.
    A : array (M,)
        Teacher readouts of a committee; ones otherwise.
    """

    Q: Array
    M: Array
    T: Array
    a: Array
    A: Array


def teacher_count(problem: Problem) -> int:
    """Return the number of teacher directions."""
    target: Any = problem.target
    return target.units if isinstance(target, Committee) else int(target.directions)


def start(problem: Problem) -> Start:
    """Return the checked initial state.

    Raises
    ------
    ConfigError
        For shapes that do not fit together; the message names the key.
    DomainError
        For matrices that no weights can have as overlaps.
    """
    found = _start(problem.target, problem.student, problem.initial)
    return Start(found.Q.copy(), found.M.copy(), found.T.copy(), found.a.copy(), found.A.copy())


@lru_cache(maxsize=64)
def _start(target: Any, student: Any, initial: Any) -> Start:
    # Problems that differ elsewhere share these sections: a sweep checks and draws once.
    problem = Problem(theory="", target=target, student=student, initial=initial)
    count, width = teacher_count(problem), student.width
    A, T = np.ones(count), np.eye(count)
    if isinstance(target, Committee):
        A = np.array(target.readouts[0])
        if target.overlap:
            T = np.array(target.overlap)
            require_symmetric(T, "target.overlap")
            require_semidefinite(T, "target.overlap")
    # One generator for everything random, drawn in a fixed order: directions, then readouts.
    random = np.random.Generator(np.random.PCG64(getattr(initial, "seed", 0)))
    if isinstance(initial, Random):
        M, Q = random_overlaps(random, width, T, initial.overlap or 0.0, 1.0 if initial.norm is None else initial.norm)
    else:
        Q, M = matrix_of(initial.Q, (width, width), "initial.Q"), matrix_of(initial.M, (width, count), "initial.M")
        require_symmetric(Q, "initial.Q")
        require_semidefinite(Q, "initial.Q")
        joint = np.block([[Q, M], [M.T, T]])
        require_semidefinite(
            joint,
            "initial.M",
            "M is inconsistent with Q and the target's overlaps: [[Q, M], [M^T, T]] has a negative eigenvalue",
        )
    return Start(Q, M, T, start_readout(problem, random), A)


def random_overlaps(
    random: np.random.Generator, width: int, T: Array, overlap: float, norm: float
) -> tuple[Array, Array]:
    """Draw M with independent N(0, overlap^2) entries; what is left of each w_i is orthogonal to everything else."""
    M = overlap * random.standard_normal((width, len(T)))
    inside = M @ np.linalg.pinv(T) @ M.T
    rest = norm - np.diag(inside)
    if rest.min() < 0:
        raise DomainError(
            "the random initial overlaps are larger than the weights",
            where="initial.overlap",
            why=f"a student has overlap^2 {float(np.diag(inside).max()):.3g} with the teachers but norm^2 {norm:g}",
            hint="lower initial.overlap (it is of order 1/sqrt(d)), raise initial.norm, or change initial.seed",
        )
    return M, inside + np.diag(rest)


def start_readout(problem: Problem, random: np.random.Generator, outputs: int = 1) -> Array:
    """Return the readouts at the start, (width,) or (outputs, width) for several outputs.

    They are given, written in the student, or drawn (after the directions).

    Raises
    ------
    ConfigError
        When there are not as many rows as outputs.
    """
    student: Any = problem.student
    width = student.width
    key = "student.readout" if problem.initial.a is None else "initial.a"
    given = student.readout if problem.initial.a is None else problem.initial.a
    if not isinstance(given, str):
        rows = readout_rows(given)
        if any(len(row) != width for row in rows):
            why = f"{len(rows[0])} entries for student.width = {width}"
            raise ConfigError(f"{key} has the wrong length", where=key, why=why)
        if len(rows) != outputs:
            raise ConfigError(
                f"{key} does not fit the outputs", where=key,
                why=f"{len(rows)} rows for {outputs} outputs of the target", hint="give one row of readouts an output",
            )  # fmt: skip
        return np.array(rows[0] if outputs == 1 else rows, dtype=float)
    law, _, scale = given.replace(" ", "").partition("/")
    shape = (width,) if outputs == 1 else (outputs, width)
    if law == "ones":
        drawn = np.ones(shape)
    else:
        drawn = random.choice([-1.0, 1.0], shape) if law == "rademacher" else random.standard_normal(shape)
    return drawn / {"": 1.0, "width": width, "sqrt(width)": width**0.5}[scale]
