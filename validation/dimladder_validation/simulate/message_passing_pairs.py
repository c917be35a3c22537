"""Approximate message passing for targets of two latent fields, with the target's own law and normal entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimladder.errors import SimulationError

from .base import Backend, Sample

Array = NDArray[np.float64]
STEPS, TOLERANCE = 300, 1e-7
# Overlap with the truth of a start that does not know which way a symmetric target points.
SEED = 0.2


class PairLikelihood:
    """d ln Z/d omega for labels y of fields N(omega, v 1): a trapezoidal rule over both fields, table by table."""

    def __init__(self, problem: Any, labels: Array) -> None:
        self.expression, self.noises = problem.target.expression, problem.target.noises
        if len(self.noises) > 1:
            raise SimulationError("message passing knows one noise in the formula", where="target.formula")
        values = np.unique(labels)
        self.values = values if values.size <= 8 else None
        self.noise2 = float(problem.target.noise) ** 2
        if self.noises:
            zero, one = self.value(np.zeros(1), np.zeros(1), 0.0), self.value(np.zeros(1), np.zeros(1), 1.0)
            self.noise2 += float(one[0] - zero[0]) ** 2

    def value(self, z1: Array, z2: Array, noise: float) -> Array:
        """The formula at fixed noise."""
        known = {"z1": z1, "z2": z2} | {n: np.full(np.shape(z1), noise) for n in self.noises}
        used = {name: known[name] for name in self.expression.variables}
        return np.broadcast_to(np.asarray(self.expression.evaluate(np, **used), dtype=float), np.shape(z1))

    def force(self, y: Array, omega: Array, v: float) -> Array:
        """Return f, shape (n, 2): posterior mean of the fields minus omega, over v."""
        # Midpoints of equal probability: no node sits on a threshold.
        from scipy.special import ndtri

        count = 41
        x = ndtri((np.arange(count) + 0.5) / count)
        a, b = (g.ravel() for g in np.meshgrid(x, x, indexing="ij"))
        f = np.empty_like(omega)
        rv = math.sqrt(v)
        for start in range(0, y.size, 128):
            part = slice(start, start + 128)
            z1, z2 = omega[part, :1] + rv * a, omega[part, 1:] + rv * b
            phi = self.value(z1, z2, 0.0)
            if self.values is not None:
                like = (phi == y[part, None]).astype(float)
            else:
                gap = (y[part, None] - phi) ** 2 / (2.0 * self.noise2)
                like = np.exp(-(gap - gap.min(1, keepdims=True)))
            norm = np.maximum(like.sum(1), 1e-300)
            f[part, 0], f[part, 1] = (like @ a) / norm / rv, (like @ b) / norm / rv
        return f


def pair_sample(problem: Any, d: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """Run message passing at every sample ratio, and read the overlap after the symmetries of the target."""
    prior = problem.target.prior
    if prior != "normal" or problem.data.spectrum is not None:
        raise SimulationError(
            "two latent fields are simulated with normal entries and isotropic inputs", where="target"
        )
    ratios = np.array(problem.grid.values("sample_ratio"))
    starts = tuple(problem.grid.start or ("uninformed",))
    overlap = np.empty((len(streams), len(starts), ratios.size))
    for r, stream in enumerate(streams):
        truth = stream.standard_normal((d, 2))
        most = max(1, round(float(ratios.max()) * d))
        x = backend.to_numpy(backend.normal([stream], (most, d)))[0].astype(float) / math.sqrt(d)
        z = x @ truth
        noise = stream.standard_normal(most)
        known = {"z1": z[:, 0], "z2": z[:, 1]} | dict.fromkeys(problem.target.noises, noise)
        used = {name: known[name] for name in problem.target.expression.variables}
        y = np.asarray(problem.target.expression.evaluate(np, **used), dtype=float)
        y = y + problem.target.noise * stream.standard_normal(most)
        likelihood = PairLikelihood(problem, y)
        for i, start in enumerate(starts):
            for j, ratio in enumerate(ratios):
                n = max(1, round(ratio * d))
                w = _run(x[:n], y[:n], truth, likelihood, start, stream)
                m = np.abs(w.T @ truth / d)
                overlap[r, i, j] = max(m[0, 0] + m[1, 1], m[0, 1] + m[1, 0]) / 2.0
    coords = {"start": np.array(starts), "sample_ratio": ratios}
    return Sample(coords, {"overlap": (("start", "sample_ratio"), overlap)})


def _run(
    x: Array, y: Array, truth: Array, likelihood: PairLikelihood, start: str, stream: np.random.Generator
) -> Array:
    n, d = x.shape
    known = 0.95 if start == "informed" else SEED
    noise = stream.standard_normal((d, 2))
    # Mean known * truth and mean square known: what a posterior mean of that overlap looks like.
    w = known * truth + math.sqrt(known * (1.0 - known)) * noise
    v, f = 1.0 - known, np.zeros((n, 2))
    for _ in range(STEPS):
        omega = x @ w - v * f
        f = likelihood.force(y, omega, v)
        a = max(n / d * float(np.mean(f**2)), 1e-12)
        new = (x.T @ f + a * w) / (1.0 + a)
        v = 1.0 / (1.0 + a)
        moved = float(np.mean((new - w) ** 2))
        w = new
        if moved <= TOLERANCE:
            break
    return w
