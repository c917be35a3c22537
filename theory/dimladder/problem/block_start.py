"""Where one-pass training starts: Gram matrices of all vectors block by block, readouts and biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DomainError
from .data import HiddenManifold, Mixture
from .geometry import start_readout
from .manifold import latent_start
from .overlaps import matrix_of, require_semidefinite, require_symmetric
from .spec import Problem
from .starts import Random
from .students import Linear
from .targets import Index, VectorIndex
from .update_labels import outputs_of, units_of
from .update_presets import AVERAGE

Array = NDArray[np.float64]


def initial_state(
    problem: Problem, species: Sequence[str], heads: int, shares: Array, tau: Array, variances: Array,
    means: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return Gamma^b (B, n, n), readouts (heads Y, K) and biases (S, K) at time 0.

    Totals are shared out over the blocks: Q and the mean directions as the shares of the dimensions, everything with a
    teacher as the teachers' power. In a block of share 0, a single direction, students have what lies along the
    teachers and the rest of Q is shared out over the others.

    Parameters
    ----------
    species : sequence of str
    heads : int
    shares, tau : arrays (B,)
        Shares of the dimensions, and of |w*|^2.
    variances : array (sources, B)
    means : array (sources, D)
    """
    student: Any = problem.student
    initial: Any = problem.initial
    width, outputs = units_of(problem), outputs_of(problem)
    fixed, M = _fixed(problem, shares, tau, variances, means.shape[1])
    blocks, D = len(shares), means.shape[1]
    F = M + D
    with np.errstate(invalid="ignore", divide="ignore"):
        along = np.concatenate([np.tile(tau[:, None], (1, M)), np.tile(shares[:, None], (1, D))], axis=1)
    random = np.random.Generator(np.random.PCG64(getattr(initial, "seed", 0)))
    if isinstance(initial, Random):
        from .geometry import random_overlaps

        total = fixed.sum(axis=0)
        norm = 1.0 if initial.norm is None else initial.norm
        across, Q = random_overlaps(random, width, total, initial.overlap or 0.0, norm)
        cross = along[:, None, :] * across
        inner = _shared(Q, cross, fixed, shares)
        if isinstance(problem.data, HiddenManifold):
            inner, cross = _latent(problem, across, Q, fixed, shares, variances[0])
        start = _copies(problem, species, inner, cross)
    else:
        start = _given(problem, species, width, M, D, shares, along, fixed)
    inner, cross = start
    if isinstance(problem.data, HiddenManifold) and not isinstance(initial, Random):
        inner, cross = _latent(problem, np.array(initial.M), np.array(initial.Q), fixed, shares, variances[0])
    gram = np.zeros((blocks, inner.shape[1] + F, inner.shape[1] + F))
    k = inner.shape[1]
    gram[:, :k, :k], gram[:, :k, k:] = inner, cross
    gram[:, k:, :k], gram[:, k:, k:] = cross.transpose(0, 2, 1), fixed
    for b in range(blocks):
        require_semidefinite(gram[b], "initial", _inconsistent(b, blocks))
        if shares[b] == 0.0:
            _require_single(gram[b], b)
    a = np.eye(width) if isinstance(student, Linear) else start_readout(problem, random, outputs)
    return gram, np.tile(a, (heads, 1)), _biases(problem, species, width)


def _latent(
    problem: Problem, across: Array, Q: Array, fixed: Array, shares: Array, variances: Array
) -> tuple[Array, Array]:  # fmt: skip
    """Return overlaps by block of students on a hidden manifold: M is the covariance of fields with the latent ones."""
    data: Any = problem.data
    T = np.einsum("b,bmn->mn", variances, fixed)
    return latent_start(Q, across, T, data.latent_ratio, variances, shares)


def _inconsistent(block: int, blocks: int) -> str:
    where = f" in block {block} of the inputs" if blocks > 1 else ""
    return f"no weights have these overlaps with each other, the teachers and the means{where}"


def _require_single(gram: Array, block: int) -> None:
    values = np.linalg.eigvalsh(gram)
    if values[-2:-1].size and values[-2] > 1e-9 * max(values[-1], 1e-300):
        raise DomainError(
            f"block {block} has share 0: it is a single direction", where="initial",
            why="the overlaps in it need two directions or more", hint="give it a share of the dimensions",
        )  # fmt: skip


def _fixed(problem: Problem, shares: Array, tau: Array, variances: Array, D: int) -> tuple[Array, int]:
    """Return the Gram matrices of teachers and mean directions by block (B, F, F), and the number of teachers."""
    target: Any = problem.target
    data: Any = problem.data
    M = 0
    T: Array = np.zeros((0, 0))
    if hasattr(target, "overlap"):
        by_formula = isinstance(target, Index | VectorIndex)
        M = int(target.directions) if by_formula else target.units
        T = np.array(target.overlap) if target.overlap else np.eye(M)
        require_symmetric(T, "target.overlap")
        require_semidefinite(T, "target.overlap")
        if (by_formula and not isinstance(data, Mixture)) or isinstance(data, HiddenManifold):
            # `overlap` is the covariance of the fields: the scale of w* follows from it.
            T = T / float(variances[0] @ tau)
    R = np.array(data.mean_overlap) if isinstance(data, Mixture) and data.mean_overlap else np.eye(D)
    if len(R) != D:
        raise ConfigError(
            "mean_overlap and means do not fit together", where="data.mean_overlap",
            why=f"it is {len(R)} x {len(R)} for {D} directions",
        )  # fmt: skip
    if D:
        require_semidefinite(R, "data.mean_overlap")
    fixed = np.zeros((len(shares), M + D, M + D))
    fixed[:, :M, :M] = tau[:, None, None] * T
    fixed[:, M:, M:] = shares[:, None, None] * R
    direction = getattr(target, "direction", "random")
    if direction != "random":
        if not isinstance(data, Mixture):
            raise ConfigError("there are no means to align with", where="target.direction", why="data is no mixture")
        raise ConfigError("teachers are orthogonal to the means here", where="target.direction", why=f"{direction!r}")
    return fixed, M


def _shared(Q: Array, cross: Array, fixed: Array, shares: Array) -> Array:
    """Share Q out over the blocks: what lies along the fixed vectors of single directions, the rest by their shares."""
    inner = np.zeros((len(shares), *Q.shape))
    for b in np.flatnonzero(shares == 0.0):
        inner[b] = cross[b] @ np.linalg.pinv(fixed[b], hermitian=True) @ cross[b].T
    return inner + shares[:, None, None] * (Q - inner.sum(axis=0))


def _given(
    problem: Problem, species: Sequence[str], width: int, M: int, D: int, shares: Array, along: Array, fixed: Array
) -> tuple[Array, Array]:
    """Return the overlaps (B, SK, SK) and (B, SK, F) that `initial.explicit` states."""
    initial: Any = problem.initial
    rule: Any = problem.algorithm
    every = any(rule.vectors.get(name) == "overlaps" for name in species)
    count = width * (len(species) if every else 1)
    blocks = len(shares)

    def by_block(key: str, shape: tuple[int, int]) -> Array | None:
        given = getattr(initial, f"block_{key}")
        if given is None:
            return None
        if len(given) != blocks:
            raise ConfigError(
                f"initial.block_{key} has the wrong length", where=f"initial.block_{key}",
                why=f"{len(given)} matrices for {blocks} blocks of the inputs",
            )  # fmt: skip
        return np.array([matrix_of(rows, shape, f"initial.block_{key}") for rows in given])

    cross = np.zeros((blocks, count, M + D))
    if M:
        by = by_block("M", (count, M))
        cross[:, :, :M] = along[:, None, :M] * matrix_of(initial.M, (count, M), "initial.M") if by is None else by
    elif initial.M is not None or initial.block_M is not None:
        raise ConfigError("there are no teachers", where="initial.M", why="labels are those of the clusters")
    if D:
        if initial.means is not None:
            cross[:, :, M:] = along[:, None, M:] * _means_of(initial.means, (count, D))
    elif initial.means is not None:
        raise ConfigError("there are no means", where="initial.means", why="data has no directions of means")
    inner = by_block("Q", (count, count))
    if inner is None:
        Q = matrix_of(initial.Q, (count, count), "initial.Q")
        require_symmetric(Q, "initial.Q")
        require_semidefinite(Q, "initial.Q")
        inner = _shared(Q, cross, fixed, shares)
    for Q in inner:
        require_symmetric(Q, "initial.block_Q")
    return (inner, cross) if every else _copies(problem, species, inner, cross)


def _means_of(rows: Any, shape: tuple[int, int]) -> Array:
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        raise ConfigError(
            "initial.means has the wrong shape", where="initial.means",
            why=f"{shape[0]} x {shape[1]} is needed (vectors x directions of the means)",
        )  # fmt: skip
    return np.array(rows, dtype=float)


def _copies(problem: Problem, species: Sequence[str], inner: Array, cross: Array) -> tuple[Array, Array]:
    """Start the other species at zero or at a copy of w."""
    rule: Any = problem.algorithm
    copied = np.array([1.0, *(_starts_at(rule, name) for name in species[1:])])
    size = len(species) * inner.shape[1]
    both = copied[:, None, None, None] * copied[None, None, :, None]
    wide = np.einsum("pq,bik->bpiqk", both[:, 0, :, 0], inner).reshape(len(inner), size, size)
    return wide, np.einsum("p,bim->bpim", copied, cross).reshape(len(inner), size, cross.shape[2])


def _starts_at(rule: Any, name: str) -> float:
    start = "w" if name == AVERAGE and rule.average else rule.vectors.get(name, "zero")
    if start not in ("zero", "w"):
        raise ConfigError(
            "a vector has no such start", where=f"algorithm.vectors.{name}", why=f"{start!r}",
            hint='"zero", "w" (a copy), or "overlaps": initial.Q and initial.M over all vectors, w first',
        )  # fmt: skip
    return float(start == "w")


def _biases(problem: Problem, species: Sequence[str], width: int) -> Array:
    """Return the biases (S, K): given or zero for w, and copied with it."""
    student: Any = problem.student
    given = getattr(problem.initial, "bias", None)
    bias = np.zeros((len(species), width))
    if given is None:
        return bias
    if not student.bias:
        raise ConfigError("there is no bias to start from", where="initial.bias", why="student.bias is false")
    if len(given) != width:
        raise ConfigError("initial.bias has the wrong length", where="initial.bias", why=f"{len(given)} for {width}")
    bias[0] = given
    rule: Any = problem.algorithm
    for p, name in enumerate(species[1:], 1):
        bias[p] = bias[0] * _starts_at(rule, name) if rule.vectors.get(name) != "overlaps" else 0.0
    return bias
