"""Approximate message passing with the target's own law, for inputs with independent entries.

The likelihood is a table: P(y | z) on a grid of fields (noise inside the link by its own nodes), smoothed by the
current uncertainty; no formula of a theory enters. Iterates are those of the sum-product algorithm at large d
(Rangan 2011), without damping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimladder.errors import SimulationError

from ..base import Backend, Sample

Array = NDArray[np.float64]
STEPS, TOLERANCE = 400, 1e-7
# Where the remaining uncertainty is this small, a discrete target that explains all labels is rounded: no sample is
# near its boundary any more, from which the next step would learn nothing and forget everything.
ROUND_AT = 2e-3
GRID = 2001


class Likelihood:
    """f = d ln Z/d omega for labels y at fields N(omega, V), by tables.

    Parameters
    ----------
    problem : Problem
    rho : float
        Variance of the latent field.
    labels : ndarray
        The labels seen: finitely many distinct ones, or a density where noise is added to the label.
    """

    def __init__(self, problem: Any, rho: float, labels: Array) -> None:
        target = problem.target
        self.z = math.sqrt(rho) * np.linspace(-8.0, 8.0, GRID)
        values = np.unique(labels)
        self.values = values if values.size <= 8 else None
        self.noise2 = float(target.noise) ** 2
        expression = target.expression
        noises = [n for n in expression.variables if n.startswith("n")]
        if target.outliers is not None:
            raise SimulationError("message passing with outliers is not provided", where="target.outliers")
        if len(noises) > 1:
            raise SimulationError("message passing knows one noise in the formula", where="target.formula")
        # Equal-probability midpoints of the noise.
        from scipy.special import ndtri

        nodes = ndtri((np.arange(801) + 0.5) / 801) if noises else np.zeros(1)
        known = {n: (self.z[:, None] if n.startswith("z") else nodes[None, :]) for n in expression.variables}
        phi = np.broadcast_to(expression.evaluate(np, **known), (GRID, nodes.size))
        if self.values is not None:
            if target.is_logit:
                plus = 1.0 / (1.0 + np.exp(-phi))
                chance = [plus.mean(1) if v > 0 else 1.0 - plus.mean(1) for v in self.values]
            else:
                chance = [(phi == v).mean(1) for v in self.values]
            table = np.array(chance)
            if target.flip:
                table = (1 - target.flip) * table + target.flip * table[::-1]
            self.table = table
        elif noises or self.noise2:
            # y = phi(z) + noise: the noise must be additive.
            zero = phi[:, nodes.size // 2]
            spread = phi - zero[:, None]
            if noises and np.max(np.abs(spread - spread[:1])) > 1e-9 * (1 + np.max(np.abs(spread))):
                raise SimulationError("message passing needs noise that is added to the label", where="target.formula")
            slope = float(spread[0, -1] / nodes[-1]) if noises else 0.0
            self.link, self.variance = zero, slope**2 + self.noise2
        else:
            flipped = phi[::-1, 0]
            if not np.allclose(phi[:, 0], flipped):
                raise SimulationError("noiseless labels of a continuous field are not run", where="target.formula")
            # Even labels: y tells |z|.
            half = self.z >= 0
            order = np.argsort(phi[half, 0])
            self.size: Callable[[Array], Array] = lambda y: np.interp(y, phi[half, 0][order], self.z[half][order])
            self.link, self.variance = phi[:, 0], 0.0

    def force(self, y: Array, omega: Array, v: float) -> tuple[Array, Array, Array]:
        """Return f, -df/d omega, and the likeliest label (discrete ones)."""
        if self.values is not None:
            return self._discrete(y, omega, v)
        if self.variance == 0.0:
            size = self.size(y)
            t = np.tanh(size * omega / v)
            return (size * t - omega) / v, 1.0 / v - (size / v) ** 2 * (1 - t**2), y
        # Posterior of z on nodes around omega, by importance of the label.
        x = np.linspace(-8.0, 8.0, 801)
        w = np.exp(-(x**2) / 2)
        f, g = np.empty_like(omega), np.empty_like(omega)
        for start in range(0, omega.size, 256):
            part = slice(start, start + 256)
            z = omega[part, None] + math.sqrt(v) * x
            link = np.interp(z, self.z, self.link)
            far = np.abs(z) > self.z[-1]
            like = w * np.exp(-((y[part, None] - link) ** 2) / (2 * self.variance)) * ~far
            norm = like.sum(1)
            mean = (like @ x) / norm
            second = (like @ x**2) / norm - mean**2
            f[part] = mean / math.sqrt(v)
            g[part] = (1.0 - second) / v
        return f, g, y

    def second_moment(self, y: Array) -> Array:
        """E[z^2 | y] for a standard normal field."""
        weight = np.exp(-(self.z**2) / 2)
        if self.values is not None:
            moment = (self.table @ (weight * self.z**2)) / (self.table @ weight)
            return np.asarray(moment[np.searchsorted(self.values, y)])
        if self.variance == 0.0:
            return np.asarray(self.size(y) ** 2)
        out = np.empty_like(y)
        for start in range(0, y.size, 256):
            part = slice(start, start + 256)
            like = weight * np.exp(-((y[part, None] - self.link) ** 2) / (2 * self.variance))
            out[part] = (like @ self.z**2) / like.sum(1)
        return out

    def smoothed(self, grid: Array, v: float) -> tuple[Array, Array, Array]:
        """P(y | omega), and its first two derivatives in omega, for every label on a grid of omega."""
        x = np.linspace(-8.0, 8.0, 1601)
        w = np.exp(-(x**2) / 2)
        w /= w.sum()
        z = grid[:, None] + math.sqrt(v) * x
        out = np.empty((3, len(self.table), grid.size))
        for i, row in enumerate(self.table):
            p = np.interp(z, self.z, row)
            out[0, i], out[1, i], out[2, i] = p @ w, p @ (w * x) / math.sqrt(v), p @ (w * (x**2 - 1)) / v
        return out[0], out[1], out[2]

    def _discrete(self, y: Array, omega: Array, v: float) -> tuple[Array, Array, Array]:
        assert self.values is not None
        reach = float(np.max(np.abs(omega))) + 1e-9
        grid = np.linspace(-reach, reach, 801)
        if reach > 400 * math.sqrt(v):
            grid = np.unique(np.concatenate([grid, np.linspace(-1, 1, 801) * 40 * math.sqrt(v)]))
        Z, d1, d2 = self.smoothed(grid, v)
        Z = np.maximum(Z, 1e-300)
        first = np.clip(d1 / Z, -1e3 / math.sqrt(v), 1e3 / math.sqrt(v))
        curve = first**2 - d2 / Z
        f, g = np.empty_like(omega), np.empty_like(omega)
        for i, value in enumerate(self.values):
            here = y == value
            f[here] = np.interp(omega[here], grid, first[i])
            g[here] = np.interp(omega[here], grid, curve[i])
        best = self.values[np.argmax([np.interp(omega, grid, row) for row in Z], axis=0)]
        return f, g, best


def estimate(kind: str, rate: float, b: Array, a: Array) -> tuple[Array, Array]:
    """Posterior mean and variance of an entry of mean square 1 observed as exp(b w - a w^2/2)."""
    if kind == "normal":
        return b / (1.0 + a), 1.0 / (1.0 + a)
    if kind == "rademacher":
        mean = np.tanh(b)
        return mean, 1.0 - mean**2
    s2 = 1.0 / rate
    odds = math.log(rate / max(1 - rate, 1e-300)) - 0.5 * np.log1p(s2 * a) + 0.5 * b**2 * s2 / (1.0 + s2 * a)
    p = 1.0 / (1.0 + np.exp(-np.clip(odds, -700, 700)))
    centre, spread = s2 * b / (1.0 + s2 * a), s2 / (1.0 + s2 * a)
    mean = p * centre
    return mean, p * (centre**2 + spread) - mean**2


def bayes_sample(problem: Any, d: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
    """Run message passing from both starts at every sample ratio."""
    from .index_targets import label

    if problem.target.directions > 1:
        from .message_passing_fields import fields_sample

        return fields_sample(problem, d, streams, backend)
    ratios = np.array(problem.grid.values("sample_ratio"))
    starts = tuple(problem.grid.start or ("uninformed",))
    names = ("overlap", "mse", "classification_error")
    found: dict[str, list[Any]] = {n: [] for n in names}
    for stream in streams:
        world = _World(problem, d, stream, backend, max(1, round(float(ratios.max()) * d)))
        table = {n: np.full((len(starts), ratios.size), np.nan) for n in names}
        y = label(problem, world.g @ world.truth / math.sqrt(d), stream)
        likelihood = Likelihood(problem, world.rho, y)
        for i, start in enumerate(starts):
            for j, ratio in enumerate(ratios):
                n = max(1, round(ratio * d))
                w = message_passing(world, likelihood, y[:n], n, start, stream)
                for name, value in _read(problem, world, likelihood, w, stream).items():
                    table[name][i, j] = value
        for name in names:
            found[name].append(table[name])
    kept = {n: np.array(v) for n, v in found.items() if np.isfinite(v).any()}
    coords = {"start": np.array(starts), "sample_ratio": ratios}
    return Sample(coords, {n: (("start", "sample_ratio"), v) for n, v in kept.items()})


class _World:
    """White inputs and the target's coordinates in them: entries of variance `scale`."""

    def __init__(self, problem: Any, d: int, stream: np.random.Generator, backend: Backend, most: int) -> None:
        from .index_targets import directions, drawn_target

        laws = directions(problem, d)
        self.scale = laws.eigenvalues * laws.squares
        self.rho = float(self.scale.mean())
        self.truth = np.sqrt(self.scale) * drawn_target(problem, d, stream)
        self.g = backend.to_numpy(backend.normal([stream], (most, d)))[0].astype(float)
        prior = problem.target.prior
        self.kind: str = prior if isinstance(prior, str) else prior.kind
        self.rate: float = 1.0 if isinstance(prior, str) else prior.rate


def message_passing(
    world: _World, likelihood: Likelihood, y: Array, n: int, start: str, stream: np.random.Generator
) -> Array:
    """Return the estimate of the target's coordinates."""
    d = world.truth.size
    x = world.g[:n] / math.sqrt(d)
    root = np.sqrt(world.scale)
    if start == "informed":
        # A little short of the truth, as in a posterior that is nearly sure.
        w, c = 0.999 * world.truth, 2e-3 * world.scale
    else:
        w, c = 1e-3 * root * stream.standard_normal(d), world.scale.copy()
        if not _informs(likelihood, world.rho):
            # Labels that are even in the field: zero is a fixed point, and only a seed leaves it.
            w = 0.2 * world.truth + math.sqrt(0.2 - 0.04) * root * stream.standard_normal(d) * 0.3
    f = np.zeros(n)
    discrete = world.kind == "rademacher"
    for _ in range(STEPS):
        v = max(float(c.mean()), 1e-12)
        if discrete and v < ROUND_AT * world.rho:
            rounded = root * np.sign(w)
            # The likeliest labels of the rounded estimate, and so the labels where there is no noise.
            best = likelihood.force(y, x @ rounded, ROUND_AT * world.rho)[2]
            if np.array_equal(best, y):
                return rounded
        if v < 1e-9 * world.rho:
            break
        omega = x @ w - v * f
        f, bend, _ = likelihood.force(y, omega, v)
        # On a posterior's own path f^2 and -df/domega have one mean, of which the former is positive whatever the draw.
        # Beside it, where samples lie on the wrong side of a boundary that seems sharp, f^2 is far larger, and an
        # estimate that believed it would grow surer of what is wrong.
        square, slope = float(np.mean(f**2)), float(np.mean(bend))
        a = n / d * (slope if 0.0 < slope < 0.8 * square else square)
        if discrete and v < ROUND_AT * world.rho and not a > 0.0:
            return root * np.sign(w)
        b = x.T @ f + a * w
        mean, variance = estimate(world.kind, world.rate, root * b, root**2 * a)
        new, c = root * mean, root**2 * variance
        moved = float(np.mean((new - w) ** 2))
        w = new
        if moved <= TOLERANCE * world.rho:
            break
    return w


def _informs(likelihood: Likelihood, rho: float) -> bool:
    """Whether labels say something about the sign of the field."""
    weight = np.exp(-(likelihood.z**2) / (2 * rho))
    if likelihood.values is None:
        return bool(abs(float(np.sum(weight * likelihood.z * likelihood.link))) > 1e-9 * float(weight.sum()))
    return bool(np.max(np.abs(likelihood.table @ (weight * likelihood.z))) > 1e-6 * float(weight.sum()))


def _read(
    problem: Any, world: _World, likelihood: Likelihood, w: Array, stream: np.random.Generator
) -> dict[str, float]:
    from .index_targets import label

    d = world.truth.size
    q, m = float(w @ w) / d, float(w @ world.truth) / d
    rho = float(world.truth @ world.truth) / d
    if not _informs(likelihood, world.rho):
        m = abs(m)
    # The overlap with the target equals that of the posterior mean with itself; the former is what is asked.
    out = {"overlap": m, "mse": rho - 2.0 * m + q}
    if likelihood.values is not None:
        z, noise = stream.standard_normal((2, 100_000))
        u = m / math.sqrt(rho) * z + math.sqrt(max(q - m * m / rho, 0.0)) * noise
        labels = label(problem, math.sqrt(rho) * z, stream)
        _, _, best = likelihood.force(labels, u, max(world.rho - m, 1e-10))
        out["classification_error"] = float(np.mean(best != labels))
    return out
