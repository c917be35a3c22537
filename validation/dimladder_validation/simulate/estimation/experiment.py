"""Estimation at finite d: the minimiser of a drawn data set, or message passing with the target's own law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dimladder.errors import SimulationError

from ..base import Backend, Closing, Experiment, Sample
from .index_targets import clean, directions, drawn_target, is_bayes, label
from .minimise import Fit, continuous_slope, golden_ridge, minimise, minimise_penalty, ridge_slope

Array = NDArray[np.float64]
# Fresh (field, label) pairs behind every test quantity, and fresh inputs where the fields are not Gaussian.
PAIRS, INPUTS = 200_000, 8_000
# The same where every weight of a network is a feature.
TANGENT_INPUTS, BLOCK = 2_000, 250
# A best ridge is searched for to this in its logarithm: the observable is flat there.
RIDGE_TOLERANCE = 2e-3


class World:
    """What one replica is drawn from: inputs, target, features; and the law of a readout's field on fresh inputs."""

    def __init__(self, problem: Any, d: int, stream: np.random.Generator, backend: Backend) -> None:
        from dimladder.problem import activation

        self.problem, self.d, self.stream, self.backend = problem, d, stream, backend
        self.laws = directions(problem, d)
        self.theta = np.sqrt(self.laws.squares) * drawn_target(problem, d, stream)
        self.layers: list[tuple[Any, Array]] = []
        below = d
        for layer in getattr(problem.student, "layers", ()):
            width = max(1, round(layer.width_ratio * below))
            self.layers.append((activation(layer.activation), stream.standard_normal((width, below))))
            below = width
        self.width = below
        self.tangent = _Tangent(problem, self) if getattr(problem.student, "readout_variance", 0.0) > 0.0 else None
        if self.layers:
            x = self.inputs(max(INPUTS, 10 * d) if self.tangent is None else TANGENT_INPUTS)
            if self.tangent is None:
                self.fresh = self.features(x)
            else:
                self.fresh_x = x
            self.fresh_z = x @ self.theta / math.sqrt(d)
            self.fresh_y = label(problem, self.fresh_z, stream)
        else:
            self.pairs = stream.standard_normal((2, PAIRS))

    def inputs(self, n: int) -> Array:
        """Draw n inputs."""
        noise = self.backend.to_numpy(self.backend.normal([self.stream], (n, self.d)))[0].astype(float)
        return noise * np.sqrt(self.laws.eigenvalues)

    def features(self, x: Array) -> Array:
        """Features of inputs, over sqrt k: the rows that the readout multiplies."""
        if self.tangent is not None:
            return self.tangent.features(x)
        phi = x
        for sigma, weights in self.layers:
            phi = np.asarray(sigma.evaluate(np, x=phi @ weights.T / math.sqrt(phi.shape[1])))
        return phi / math.sqrt(phi.shape[1])

    def spanned(self, a: Array) -> Array:
        """Coordinates of sample rows in the space that they span, where a minimiser lies; the fresh ones with them."""
        if self.tangent is None:
            return a
        basis = np.linalg.qr(a.T)[0]
        blocks = range(0, len(self.fresh_x), BLOCK)
        self.fresh = np.concatenate([self.features(self.fresh_x[i : i + BLOCK]) @ basis for i in blocks])
        return np.asarray(a @ basis)

    def overlaps(self, w: Array) -> tuple[float, float, float, Array, Array]:
        """q, m, E field, and fresh (field, z) pairs of the readout w without its bias."""
        if self.layers:
            u = self.fresh @ w
            centre = float(u.mean())
            m = float(np.mean((u - centre) * self.fresh_z))
            return float(u.var()), m, centre, u, self.fresh_z
        om, theta, d = self.laws.eigenvalues, self.theta, self.d
        q, m = float(np.sum(om * w * w)) / d, float(np.sum(om * w * theta)) / d
        rho = float(np.sum(om * theta * theta)) / d
        z = math.sqrt(rho) * self.pairs[0]
        u = m / rho * z + math.sqrt(max(q - m * m / rho, 0.0)) * self.pairs[1]
        return q, m, 0.0, u, z

    def shared(self, w: Array, other: Array) -> float:
        """Covariance of the fields of two readouts."""
        if self.layers:
            return float(np.cov(self.fresh @ w, self.fresh @ other, ddof=0)[0, 1])
        return float(np.sum(self.laws.eigenvalues * w * other)) / self.d

    def test_labels(self, z: Array) -> Array:
        """Labels of the fresh pairs."""
        return self.fresh_y if self.layers else label(self.problem, z, self.stream)


class _Tangent:
    """Derivatives of a network's output by all its weights, at the start: rows over sqrt of the width."""

    def __init__(self, problem: Any, world: World) -> None:
        from dimladder.numerics.quadrature import gauss_normal

        from ..model_code import derivative

        self.sigma, self.weights = world.layers[0]
        self.slope = derivative(self.sigma)
        r = math.sqrt(float(np.mean(world.laws.eigenvalues)))
        x, w = gauss_normal([k / r for k in self.sigma.kinks("x")], 512)
        self.mean = float(w @ (self.sigma.evaluate(np, x=r * x) + 0.0 * x))
        self.readouts = math.sqrt(problem.student.readout_variance) * world.stream.standard_normal(len(self.weights))

    def features(self, x: Array) -> Array:
        """Rows of width (d + 1) columns."""
        n, d = x.shape
        h = x @ self.weights.T / math.sqrt(d)
        units = np.asarray(self.sigma.evaluate(np, x=h)) - self.mean
        slopes = (np.asarray(self.slope.evaluate(np, x=h)) + 0.0 * h) * self.readouts
        moved = (slopes[:, :, None] * x[:, None, :] / math.sqrt(d)).reshape(n, -1)
        return np.concatenate([units, moved], axis=1) / math.sqrt(len(self.weights))


def is_mixture(problem: Any) -> bool:
    """Whether the inputs are a mixture."""
    return bool(problem.data.__struct_config__.tag == "mixture")


def whole_blocks(spectrum: Any, d: int) -> dict[str, Any] | None:
    """Return the blocks with shares that are whole numbers of d directions; None where they are already."""
    variances, shares = spectrum.blocks()
    counts = np.diff(np.round(np.cumsum([0.0, *shares]) * d))
    if np.max(np.abs(counts - shares * d)) < 1e-6:
        return None
    if not np.all(counts > 0):
        raise SimulationError("a block of the spectrum is too small", where=f"d = {d}, shares {shares.tolist()}")
    return {"variances": variances.tolist(), "fractions": (counts / d).tolist()}


class EstimationExperiment(Experiment):
    """One data set a replica; every sample ratio is fitted on its beginning."""

    theory = "estimation"
    on_host = "convex fits, message passing and posteriors iterate to convergence in double precision"
    size = "d"
    least_size = 10
    batch_size = 1

    def closing(self, problem: Any) -> Closing:
        """Mixtures and losses of Lipschitz slope: overlaps fluctuate by d^-1/2 and are biased by 1/d."""
        form = problem.loss.form
        if is_mixture(problem) and (form.vector or continuous_slope(form, np.array([-1.0, 0.3, 1.0]))):
            return Closing(1.0, reason="a strongly convex fit of Lipschitz slope on Gaussian clusters is biased by 1/d")
        return Closing()

    def at_size(self, problem: Any, size: int) -> Any:
        """The problem with its spectrum as the d directions of that size resolve it."""
        from dimladder.solve import replace

        spectrum = problem.data.spectrum
        if spectrum is not None and is_mixture(problem):
            blocks = whole_blocks(spectrum, size)
            return problem if blocks is None else replace(problem, {"data.spectrum": blocks})
        if spectrum is None or getattr(problem.student, "covariances", None) is not None:
            return problem
        try:
            spectrum.counts(size)
        except ValueError:
            laws = directions(problem, size)
            share = [1.0 / size] * size
            return replace(
                problem,
                {
                    "data.spectrum": {"variances": laws.eigenvalues.tolist(), "fractions": share},
                    "target.power": (laws.squares / laws.squares.sum()).tolist(),
                },
            )
        return problem

    def run(self, problem: Any, size: int, streams: Sequence[np.random.Generator], backend: Backend) -> Sample:
        if getattr(problem.student, "covariances", None) is not None:
            raise SimulationError(
                "measured covariances are not simulated", where="student.covariances",
                why="they say nothing about the features beyond their second moments",
            )  # fmt: skip
        if is_mixture(problem):
            from .mixture import mixture_sample

            return mixture_sample(problem, size, streams, backend)
        if is_bayes(problem):
            from .message_passing import bayes_sample

            return bayes_sample(problem, size, streams, backend)
        kind = problem.algorithm.__struct_config__.tag
        replica = {"posterior": _posterior_replica, "spectral": _spectral_replica}.get(kind, self._replica)
        rows = [replica(problem, size, stream, backend) for stream in streams]
        ratios = np.array(problem.grid.values("sample_ratio"))
        names = rows[0].keys()
        return Sample(
            {"sample_ratio": ratios}, {n: (("sample_ratio",), np.array([row[n] for row in rows])) for n in names}
        )

    def _replica(self, problem: Any, d: int, stream: np.random.Generator, backend: Backend) -> dict[str, Array]:
        world = World(problem, d, stream, backend)
        ratios = np.array(problem.grid.values("sample_ratio"))
        counts = [max(1, round(a * d)) for a in ratios]
        pair, most = getattr(problem.algorithm, "resampling", "none"), max(counts)
        x = world.inputs(2 * most if pair == "fresh" else most)
        a, y = world.spanned(world.features(x)), label(problem, x @ world.theta / math.sqrt(d), stream)
        rows: list[dict[str, float]] = [{}] * len(counts)
        near: tuple[float, Fit] | None = None
        for i in np.argsort(counts, kind="stable"):
            n = counts[i]
            one = slice(0, n) if pair == "none" else _drawn(problem, n, 0, stream)
            ridge, fit = _fit(problem, world, a[one], y[one], near, n)
            near = (ridge, fit) if problem.loss.ridge == "optimal" else None
            rows[i] = _measure(problem, world, a[:n], y[:n], ridge, fit, a[one], y[one])
            if pair != "none":
                other = _drawn(problem, n, most, stream)
                second = minimise(problem.loss.form, a[other], y[other], ridge, bool(problem.student.bias))
                # Of a difference: what fits of one data set have in common does not scatter in it.
                spread = 0.5 * world.overlaps(fit.w - second.w)[0]
                rows[i] |= {"pair_overlap": world.shared(fit.w, second.w), "resampling_variance": spread}
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _posterior_replica(problem: Any, d: int, stream: np.random.Generator, backend: Backend) -> dict[str, Array]:
    from .gibbs import posterior_overlaps

    if getattr(problem.student, "layers", ()) or problem.student.bias:
        raise SimulationError("the posterior is sampled for a linear student without bias", where="student")
    world = World(problem, d, stream, backend)
    counts = [max(1, round(a * d)) for a in problem.grid.values("sample_ratio")]
    x = world.inputs(max(counts))
    a, y = world.features(x), label(problem, x @ world.theta / math.sqrt(d), stream)
    loss, temperature = problem.loss, problem.algorithm.temperature
    rows = []
    for n in counts:
        ridge = float(loss.ridge) if loss.ridge is not None else loss.per_sample(d) * n / d
        weights = world.laws.eigenvalues / d
        mean, q, V = posterior_overlaps(loss.form, a[:n], y[:n], ridge, temperature, weights, stream)
        _, m, _, u, z = world.overlaps(mean)
        fresh = world.test_labels(z)
        row = {"q": q, "m": m, "V": V}
        if np.all(np.abs(fresh) == 1.0):
            row["classification_error"] = float(np.mean(np.where(u > 0, 1.0, -1.0) != fresh))
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _spectral_replica(problem: Any, d: int, stream: np.random.Generator, backend: Backend) -> dict[str, Array]:
    from .message_passing import Likelihood

    theta = drawn_target(problem, d, stream)
    counts = [max(1, round(a * d)) for a in problem.grid.values("sample_ratio")]
    x = backend.to_numpy(backend.normal([stream], (max(counts), d)))[0].astype(float)
    y = label(problem, x @ theta / math.sqrt(d), stream)
    text = problem.algorithm.preprocessing
    if text == "optimal":
        weights = 1.0 - 1.0 / np.maximum(Likelihood(problem, 1.0, y).second_moment(y), 1e-9)
    else:
        from dimladder.problem.checks import formula

        weights = np.broadcast_to(formula("preprocessing", text, ("y",)).evaluate(np, y=y), y.shape)
    found = []
    for n in counts:
        # Very negative weights only push directions to the bottom: cut, so that they cost no digits at the top.
        matrix = (x[:n].T * np.maximum(weights[:n], -1e4)) @ x[:n] / n
        leading = np.linalg.eigh(matrix)[1][:, -1]
        found.append(float(leading @ theta) ** 2 / float(theta @ theta))
    return {"overlap": np.array(found)}


def _drawn(problem: Any, n: int, fresh: int, stream: np.random.Generator) -> Any:
    """Return which samples of a data set of n a fit has; fresh ones begin at `fresh`."""
    kind, size = problem.algorithm.resampling, max(1, round(problem.algorithm.fraction * n))
    if kind == "bootstrap":
        return stream.integers(0, n, size)
    if kind == "subsample":
        return stream.permutation(n)[:size]
    return slice(fresh, fresh + n)


def _fit(
    problem: Any, world: World, a: Array, y: Array, near: tuple[float, Fit] | None, n: int
) -> tuple[float, Fit]:  # fmt: skip
    """Return the strength of the summed objective of a data set of n, and the minimiser."""
    loss, k = problem.loss, a.shape[1]
    bias = bool(problem.student.bias)
    if loss.ridge == "optimal":
        if loss.penalty != "l2":
            raise SimulationError('ridge = "optimal" is simulated for the l2 penalty only', where="loss.ridge")
        return _best_ridge(problem, world, a, y, near)
    ridge = float(loss.ridge) if loss.ridge is not None else loss.per_sample(k) * n / k
    if loss.penalty != "l2":
        return ridge, minimise_penalty(loss.form, _Penalty(loss.penalty), a, y, ridge, bias)
    return ridge, minimise(loss.form, a, y, ridge, bias)


class _Penalty:
    """A penalty as something with slopes."""

    def __init__(self, text: str) -> None:
        from dimladder.problem.losses import loss_function

        # A penalty r(w) is a loss of f = w whose label does not matter.
        self.loss = loss_function("abs(f)" if text == "l1" else text.replace("w", "f"))

    def slopes(self, w: Array, y: Array) -> Array:
        """r'(w)."""
        return np.asarray(self.loss.slopes(w, y))


def _best_ridge(problem: Any, world: World, a: Array, y: Array, near: tuple[float, Fit] | None) -> tuple[float, Fit]:
    """Minimise the observable on the replica's own fresh law, over the ridge."""
    form, bias = problem.loss.form, bool(problem.student.bias)
    at, fit = (1.0, None) if near is None else near
    fits: dict[float, Fit] = {}

    def fitted(t: float) -> Fit:
        nonlocal fit
        if t not in fits:
            # The last sample size's multipliers do not fit: its weights do.
            start = None if fit is None else Fit(fit.w, fit.b, 0.0, np.zeros(y.size))
            fits[t] = fit = minimise(form, a, y, math.exp(t), bias, start)
        return fits[t]

    start = math.log(at)
    if problem.loss.optimise == "mse" and not world.layers and not bias and continuous_slope(form, y):
        # E (u - f*)^2 = const - 2 c m + q, and dw/d ridge is one linear solve.
        om, theta, d = world.laws.eigenvalues, world.theta, world.d
        rho = float(np.sum(om * theta * theta)) / d
        grid = np.linspace(-9.0, 9.0, 20_001) * math.sqrt(rho)
        weight = np.exp(-(grid**2) / (2 * rho))
        c = float(np.sum(weight * clean(problem, grid) * grid) / np.sum(weight)) / rho

        def slope(t: float) -> float:
            w = fitted(t).w
            dw = math.exp(t) * ridge_slope(form, a, y, math.exp(t), fitted(t))
            return 2.0 * (float(np.sum(om * w * dw)) - c * float(np.sum(om * theta * dw))) / d

        return _root(slope, start, fitted)
    labels: list[Array] = []

    def value(t: float) -> float:
        found = fitted(t)
        _, _, _, u, z = world.overlaps(found.w)
        if not labels:
            labels.append(world.test_labels(z))
        return _test(problem, u + found.b, z, labels[0])[problem.loss.optimise]

    return golden_ridge(value, start, fitted)


def _root(slope: Callable[[float], float], start: float, fitted: Callable[[float], Fit]) -> tuple[float, Fit]:
    from scipy.optimize import brentq

    first = slope(start)
    step = -0.4 if first > 0 else 0.4
    low, other = start, start + step
    while slope(other) * first > 0:
        if abs(other) > 18.0:
            raise SimulationError("a best ridge was not found", where=f"ridge {math.exp(other):g}")
        low, step = other, 1.5 * step
        other = other + step
    t = float(brentq(slope, min(low, other), max(low, other), xtol=RIDGE_TOLERANCE))
    return math.exp(t), fitted(t)


def _test(problem: Any, u: Array, z: Array, y: Array) -> dict[str, float]:
    """Test quantities over fresh (field, latent field, label) triples."""
    f = clean(problem, z)
    p = 0.5 * (1.0 + np.tanh(0.5 * u))
    return {
        "mse": float(np.mean((u - f) ** 2)),
        "test_mse": float(np.mean((u - y) ** 2)),
        "test_loss": float(np.mean(problem.loss.form.evaluate(np, u, y))),
        "classification_error": float(np.mean(np.where(u > 0, 1.0, -1.0) != y)),
        "brier": float(np.mean(((y > 0) - p) ** 2)),
    }


def _measure(
    problem: Any, world: World, a: Array, y: Array, ridge: float, fit: Fit, seen: Array, labelled: Array
) -> dict[str, float]:  # fmt: skip
    """Read off a fit, whose own samples are `seen`, on the whole data set and on fresh fields."""
    loss, k = problem.loss, a.shape[1]
    q, m, centre, u, z = world.overlaps(fit.w)
    labels = world.test_labels(z)
    signs = bool(np.all(np.abs(labels) == 1.0))
    test = _test(problem, u + fit.b, z, labels)
    train = a @ fit.w + fit.b
    out = {"q": q, "m": m, "weight_norm": float(fit.w @ fit.w) / k}
    out["train_loss"] = float(np.mean(loss.form.evaluate(np, train, y)))
    if loss.form.name == "square":
        out |= {"test_mse": test["test_mse"], "train_mse": float(np.mean((train - y) ** 2)), "mse": test["mse"]}
    if not signs:
        out["mse"] = test["mse"]
    out["test_loss"] = test["test_loss"]
    if signs:
        out["classification_error"] = test["classification_error"]
        if loss.form.name == "logistic":
            out["brier"] = test["brier"]
    if loss.ridge == "optimal":
        out["ridge"] = ridge
    if problem.student.bias or (world.layers and abs(centre) > 0 and _uncentred(world)):
        out["bias"] = fit.b + centre
    if not world.layers and loss.penalty == "l2" and not problem.student.bias and continuous_slope(loss.form, y):
        weight = np.maximum(loss.form.curvatures(seen @ fit.w + fit.b, labelled), 0.0)
        hessian = (seen.T * weight) @ seen + ridge * np.eye(k)
        out["V"] = float(np.sum(world.laws.eigenvalues * np.diag(np.linalg.inv(hessian)))) / k
    return out


def _uncentred(world: World) -> bool:
    """Whether the last layer's features have means: activations that are not odd, and not centred."""
    if world.tangent is not None:
        return False
    sigma = world.layers[-1][0]
    t = np.linspace(0.1, 3.0, 30)
    return bool(np.max(np.abs(sigma.evaluate(np, x=t) + sigma.evaluate(np, x=-t))) > 1e-9)


EXPERIMENT = EstimationExperiment()
