"""Approximate message passing for targets of several latent fields, with the target's own law and normal entries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimladder.errors import SimulationError

from ..base import Backend, Sample

Array = NDArray[np.float64]
STEPS, TOLERANCE = 300, 1e-7
# Overlap with the truth of a start that does not know which way a symmetric target points.
SEED = 0.2
# Midpoints of equal probability in each field, by the number of fields.
NODES = {2: 41, 3: 17}


class FieldsLikelihood:
    """d ln Z/d omega for labels y of fields N(omega, V): a midpoint rule over all fields."""

    def __init__(self, target: Any, labels: Array) -> None:
        self.target = target
        if len(target.noises) > 1:
            raise SimulationError("message passing knows one noise in the formula", where="target.formula")
        values = np.unique(labels)
        self.values = values if values.size <= 16 else None
        self.noise2 = float(target.noise) ** 2
        if target.noises:
            zero = {name: np.zeros(1) for name in target.expression.variables}
            one = {**zero, target.noises[0]: np.ones(1)}
            gap = target.expression.evaluate(np, **one) - target.expression.evaluate(np, **zero)
            self.noise2 += float(np.ravel(gap)[0]) ** 2

    def force(self, y: Array, omega: Array, v: Array) -> Array:
        """Return f, shape (n, fields): V^{-1} (posterior mean of the fields minus omega)."""
        # Midpoints of equal probability: no node sits on a threshold.
        from scipy.special import ndtri

        fields = omega.shape[1]
        count = NODES[fields]
        x = ndtri((np.arange(count) + 0.5) / count)
        grid = np.stack([g.ravel() for g in np.meshgrid(*[x] * fields, indexing="ij")])
        values, vectors = np.linalg.eigh(v)
        values = np.maximum(values, 1e-12)
        # A symmetric root: V^{-1} (z - omega) = V^{-1/2} x.
        root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
        moved, out = root @ grid, (inverse @ grid).T
        f = np.empty_like(omega)
        for start in range(0, y.size, 128):
            part = slice(start, start + 128)
            phi = self.target.clean(omega[part].T[:, :, None] + moved[:, None, :])
            if self.values is not None:
                like = (phi == y[part, None]).astype(float)
            else:
                gap = (y[part, None] - phi) ** 2 / (2.0 * self.noise2)
                like = np.exp(-(gap - gap.min(1, keepdims=True)))
            f[part] = (like @ out) / np.maximum(like.sum(1), 1e-300)[:, None]
        return f


def symmetries(target: Any) -> list[Array]:
    """Signed permutations of the fields that leave every label what it is: the posterior cannot tell them apart."""
    fields = target.directions
    z = np.random.default_rng(0).standard_normal((fields, 300))
    y, found = target.clean(z), []
    for order in itertools.permutations(range(fields)):
        for signs in itertools.product((1.0, -1.0), repeat=fields):
            g = np.zeros((fields, fields))
            g[np.arange(fields), order] = signs
            if np.max(np.abs(target.clean(g @ z) - y)) <= 1e-10 * (1.0 + np.max(np.abs(y))):
                found.append(g)
    return found


def fields_sample(problem: Any, d: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """Run message passing at every sample ratio, and read the overlap after the symmetries of the target."""
    target = problem.target
    if target.prior != "normal" or problem.data.spectrum is not None:
        raise SimulationError(
            "several latent fields are simulated with normal entries and isotropic inputs", where="target"
        )
    fields = target.directions
    covariance = np.array(target.overlap) if target.overlap else np.eye(fields)
    ratios = np.array(problem.grid.values("sample_ratio"))
    starts = tuple(problem.grid.start or ("uninformed",))
    overlap = np.empty((len(streams), len(starts), ratios.size, fields, fields))
    same = symmetries(target)
    for r, stream in enumerate(streams):
        truth = stream.standard_normal((d, fields)) @ np.linalg.cholesky(covariance).T
        most = max(1, round(float(ratios.max()) * d))
        x = backend.to_numpy(backend.normal([stream], (most, d)))[0].astype(float) / math.sqrt(d)
        z = x @ truth
        noise = stream.standard_normal(most)
        known = {f"z{i + 1}": z[:, i] for i in range(fields)} | dict.fromkeys(target.noises, noise)
        used = {name: known[name] for name in target.expression.variables}
        y = np.asarray(target.expression.evaluate(np, **used), dtype=float)
        y = y + target.noise * stream.standard_normal(most)
        likelihood = FieldsLikelihood(target, y)
        for i, start in enumerate(starts):
            for j, ratio in enumerate(ratios):
                n = max(1, round(ratio * d))
                m = _run(x[:n], y[:n], truth, covariance, likelihood, start, stream).T @ truth / d
                best = max(same, key=lambda g, m=m: float(np.trace(g @ m)))  # type: ignore[misc]
                overlap[r, i, j] = best @ m
    coords: dict[str, Any] = {"start": np.array(starts), "sample_ratio": ratios}
    grid = ("start", "sample_ratio")
    if target.alike:
        return Sample(coords, {"overlap": (grid, np.trace(overlap, axis1=-2, axis2=-1) / fields)})
    coords["teacher"] = np.arange(fields)
    return Sample(coords, {"overlap": ((*grid, "teacher", "teacher"), overlap)})


def _run(
    x: Array, y: Array, truth: Array, covariance: Array, likelihood: FieldsLikelihood, start: str,
    stream: np.random.Generator,
) -> Array:  # fmt: skip
    n, d = x.shape
    known = 0.95 if start == "informed" else SEED
    noise = stream.standard_normal(truth.shape) @ np.linalg.cholesky(covariance).T
    # Mean known * truth and mean square known: what a posterior mean of that overlap looks like.
    w = known * truth + math.sqrt(known * (1.0 - known)) * noise
    v, f = (1.0 - known) * covariance, np.zeros((n, truth.shape[1]))
    prior = np.linalg.inv(covariance)
    for _ in range(STEPS):
        omega = x @ w - f @ v
        f = likelihood.force(y, omega, v)
        a = n / d * (f.T @ f) / n
        # Posterior N(prior + a)^{-1} of an entry observed as exp(b.w - w.a w/2).
        v = np.linalg.inv(prior + a)
        new = (x.T @ f + w @ a) @ v
        moved = float(np.mean((new - w) ** 2))
        w = new
        if moved <= TOLERANCE:
            break
    return w
