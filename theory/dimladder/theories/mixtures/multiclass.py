"""Multi-class linear classifiers on Gaussian mixtures: one output a class, cross-entropy or square loss on one-hot
labels.

State evolution with matrices over the outputs (Loureiro et al. 2021a): V, Q of shape (K, K), overlaps W e_j with the
frame
of the means, biases. Objective (1/d) sum_i loss(y_i, W x_i + b) + (ridge/2)|W|^2, cluster c is class c.

The proximal point argmin_u l(y, u) + (u - omega).V_c^{-1}(u - omega)/2 is found by Newton's method with a line
search, for
all quadrature nodes at once.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.quadrature import gauss_hermite, gauss_legendre
from ...problem import Problem
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Variable

Array = NDArray[np.float64]
# Gauss-Hermite nodes a dimension for up to three outputs; beyond, scrambled Sobol points.
PER_DIMENSION = {1: 64, 2: 40, 3: 20}
SOBOL_POWER = 13


def nodes(outputs: int) -> tuple[Array, Array]:
    """Nodes (N, K) and weights (N,) of E over N(0, I_K)."""
    if outputs in PER_DIMENSION:
        x, w = gauss_hermite(PER_DIMENSION[outputs])
        grid = np.stack([g.ravel() for g in np.meshgrid(*([x] * outputs), indexing="ij")], axis=1)
        weights = w
        for _ in range(outputs - 1):
            weights = np.multiply.outer(weights, w)
        flat = weights.ravel()
        keep = flat > 1e-13
        return grid[keep], flat[keep] / flat[keep].sum()
    from ...numerics.quadrature import gaussian_nodes

    return gaussian_nodes(outputs, 2**SOBOL_POWER)


def cross_entropy(label: int, u: Array) -> Array:
    """-log softmax(u)[label]."""
    top = u.max(axis=-1)
    return np.asarray(top + np.log(np.sum(np.exp(u - top[..., None]), axis=-1)) - u[..., label])


class MulticlassSystem(FixedPoint):
    """State evolution with one output a class."""

    order_parameters = (
        OrderParameter(
            "V", ("sample_ratio", "output", "output"), "V", "variance of the fluctuation per unit covariance"
        ),
        OrderParameter(
            "q", ("sample_ratio", "output", "output"), "Q", "W W^T (times Delta_c: covariance of the outputs)"
        ),
        OrderParameter("m", ("sample_ratio", "cluster", "output"), "m_c", "W mu_c"),
        OrderParameter("bias", ("sample_ratio", "output"), "b", "biases, of zero sum"),
        OrderParameter("classification_error", ("sample_ratio",), r"\varepsilon", "error of the largest output"),
        OrderParameter(
            "train_loss", ("sample_ratio",), r"\mathcal{L}", "mean loss over the training set, without penalty"
        ),
    )

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.classes = len(problem.data.weights)
        self.rho = np.array(problem.data.weights)
        self.means = np.array(problem.data.coordinates()).reshape(self.classes, -1)
        self.delta = np.array([row[0] for row in problem.data.eigenvalues()])
        self.nodes, self.weights = nodes(self.classes)

    # --- the map ---

    def _unpack(self, x: Array) -> tuple[Array, Array, Array, Array]:
        k, p = self.classes, self.means.shape[1]
        upper = np.triu_indices(k)
        half = upper[0].size
        v, q = np.zeros((k, k)), np.zeros((k, k))
        v[upper], q[upper] = x[:half], x[half : 2 * half]
        v, q = v + np.triu(v, 1).T, q + np.triu(q, 1).T
        w = x[2 * half : 2 * half + k * p].reshape(k, p)
        return v, q, w, x[2 * half + k * p :]

    def _pack(self, v: Array, q: Array, w: Array, b: Array) -> Array:
        upper = np.triu_indices(self.classes)
        return np.concatenate([v[upper], q[upper], w.ravel(), b])

    def channel(self, label: int, mean: Array, v: Array, q: Array) -> tuple[Array, Array, Array, float]:
        """E f, E f f^T, E (Hess^{-1} + V)^{-1}, E loss for one cluster."""
        k = self.classes
        if self.problem.loss.function == "one-hot":
            inverse = np.asarray(np.linalg.inv(np.eye(k) + v), dtype=np.float64)
            gap = np.eye(k)[label] - mean
            second = inverse @ (np.outer(gap, gap) + q) @ inverse.T
            return inverse @ gap, second, inverse, 0.5 * float(np.trace(second))
        from .kernels import softmax_channel

        values, vectors = np.linalg.eigh(q)
        omega = mean + self.nodes @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
        f, ff, fv = np.empty(k), np.empty((k, k)), np.empty((k, k))
        loss = softmax_channel(label, np.ascontiguousarray(omega), self.weights, v, np.linalg.inv(v), f, ff, fv)
        if not math.isfinite(loss):
            raise SolveError(
                "the proximal point of the cross-entropy was not found",
                status="max_iterations",
                hint="raise loss.ridge",
            )
        return f, ff, fv, float(loss)

    def image(self, x: Array, alpha: float) -> tuple[Array, float]:
        """F(x) and the training loss."""
        v, q, w, b = self._unpack(x)
        k = self.classes
        stiffness = self.problem.loss.ridge * np.eye(k)
        drive, force = np.zeros_like(w), np.zeros(k)
        noise, hardness = np.zeros((k, k)), np.zeros((k, k))
        loss = 0.0
        for c in range(k):
            f, ff, fv, value = self.channel(c, w @ self.means[c] + b, self.delta[c] * v, self.delta[c] * q)
            weight = alpha * self.rho[c]
            stiffness = stiffness + weight * self.delta[c] * fv
            noise += weight * self.delta[c] * ff
            drive += weight * np.outer(f, self.means[c])
            force += self.rho[c] * f
            hardness += self.rho[c] * fv
            loss += self.rho[c] * value
        r = np.asarray(np.linalg.inv(0.5 * (stiffness + stiffness.T)), dtype=np.float64)
        new_w = r @ drive
        new_b = b
        if self.problem.student.bias:
            # A Newton step for zero total force; the direction that shifts all outputs alike is fixed by zero sum.
            new_b = b + np.linalg.pinv(0.5 * (hardness + hardness.T), rcond=1e-10, hermitian=True) @ force
            if self.problem.loss.function != "one-hot":
                new_b = new_b - new_b.mean()
        return self._pack(r, r @ noise @ r + new_w @ new_w.T, new_w, new_b), loss

    def fixed_point(self, alpha: float, start: Array | None) -> tuple[Array, float, int]:
        """Solve at one sample ratio: damped iteration, then a quasi-Newton method.

        Raises
        ------
        SolveError
            With the residual and the damping.
        """
        from scipy.optimize import root

        k, p = self.classes, self.means.shape[1]
        ridge, rtol = self.problem.loss.ridge, max(self.problem.solver.rtol, 1e-11)
        x = start
        if x is None:
            typical = float(self.rho @ self.delta)
            scale = 1.0 / (ridge + 0.25 * alpha * typical)
            x = self._pack(scale * np.eye(k), 0.1 * np.eye(k), 0.1 * scale * np.ones((k, p)), np.zeros(k))
        damping, residual, evaluations = self.problem.solver.damping, math.inf, 0
        for iteration in range(self.problem.solver.max_iterations):
            new, loss = self.image(x, alpha)
            evaluations += 1
            residual = float(np.max(np.abs(new - x)) / (1e-3 + np.max(np.abs(x))))
            if residual < rtol:
                return x, loss, evaluations
            x = x + damping * (new - x)
            if residual < 1e-2 and iteration % 15 == 3:
                found = root(lambda t: self.image(t, alpha)[0] - t, x, method="hybr", options={"xtol": 1e-12})
                evaluations += int(found.nfev)
                if np.all(np.isfinite(found.x)) and np.linalg.eigvalsh(self._unpack(found.x)[0]).min() > 0:
                    improved = float(np.max(np.abs(found.fun)) / (1e-3 + np.max(np.abs(found.x))))
                    if improved < residual:
                        x = found.x
        raise SolveError(
            "the multi-class fixed point did not converge",
            status="max_iterations",
            where=f"sample_ratio = {alpha:g}",
            why=f"relative residual {residual:.2g}, damping {damping:g}",
            hint="lower solver.damping or raise loss.ridge",
        )

    def cluster_errors(self, q: Array, means: Array) -> Array:
        """P(argmax of N(m_c, Delta_c Q) is not c), by a (K - 1)-dimensional normal integral."""
        return misclassification(self.delta, q, means)

    def solve(self) -> Solution:
        ratios = np.array(self.problem.grid.values("sample_ratio"))
        order = np.argsort(ratios, kind="stable")
        k = self.classes
        table: dict[str, Array] = {
            "V": np.empty((ratios.size, k, k)),
            "q": np.empty((ratios.size, k, k)),
            "m": np.empty((ratios.size, k, k)),
            "bias": np.empty((ratios.size, k)),
            "classification_error": np.empty(ratios.size),
            "train_loss": np.empty(ratios.size),
            "cluster_error": np.empty((ratios.size, k)),
        }
        state, evaluations = None, 0
        for i in order:
            state, loss, used = self.fixed_point(float(ratios[i]), state)
            evaluations += used
            v, q, w, b = self._unpack(state)
            fields = self.means @ w.T
            errors = self.cluster_errors(q, fields + b)
            for name, value in (("V", v), ("q", q), ("m", fields), ("bias", b), ("cluster_error", errors)):
                table[name][i] = value
            table["classification_error"][i], table["train_loss"][i] = float(self.rho @ errors), loss
        meaning = {p.name: p for p in self.order_parameters}
        dims = {name: p.dims for name, p in meaning.items()} | {"cluster_error": ("sample_ratio", "cluster")}
        variables = {
            name: Variable(
                dims[name],
                values,
                meaning[name].latex if name in meaning else "",
                meaning[name].meaning if name in meaning else "error by cluster",
            )
            for name, values in table.items()
        }
        coords = {"sample_ratio": ratios, "cluster": np.arange(k), "output": np.arange(k)}
        return Solution(coords, variables, stats={"evaluations": evaluations, "nodes": len(self.weights)})

    def equations(self) -> list[Equation]:
        law = (
            r"\omega\sim\mathcal N(m_c+b,\Delta_cQ),\quad u = \arg\min_u "
            r"\ell(e_c,u)+\tfrac12(u-\omega)^\top(\Delta_cV)^{-1}(u-\omega)"
        )
        return [
            Equation("channel", law),
            Equation("f", r"f = (\Delta_cV)^{-1}(u-\omega) = -\nabla\ell(e_c,u)"),
            Equation("mhat", r"\hat m_c = \alpha\rho_c\,\mathbb E f,\quad \hat q_c = \alpha\rho_c\,\mathbb E ff^\top"),
            Equation("Vhat", r"\hat V_c = \alpha\rho_c\,\mathbb E\,(\mathrm{Hess}^{-1}+\Delta_cV)^{-1}"),
            Equation("V", r"V = \Big(\lambda+\sum_c\Delta_c\hat V_c\Big)^{-1}"),
            Equation("w", r"W_j = V\sum_c\hat m_c\,\mu_{cj},\quad m_c = \sum_j W_j\mu_{cj}"),
            Equation("q", r"Q = V\Big(\sum_c\Delta_c\hat q_c\Big)V+\sum_jW_jW_j^\top"),
            Equation("bias", r"\sum_c\rho_c\,\mathbb Ef = 0"),
            Equation("classification_error", r"\varepsilon = \sum_c\rho_c\,\mathbb P(\arg\max\omega\neq c)"),
        ]


def misclassification(delta: Array, q: Array, means: Array) -> Array:
    """P(argmax of N(m_c, Delta_c Q) is not c) for every cluster, shape (K,)."""
    from scipy.special import ndtr
    from scipy.stats import multivariate_normal

    k = means.shape[0]
    out = np.empty(k)
    for c in range(k):
        others = [j for j in range(k) if j != c]
        contrast = np.eye(k)[c] - np.eye(k)[others]
        centre, covariance = contrast @ means[c], delta[c] * contrast @ q @ contrast.T
        if k == 2:
            out[c] = float(ndtr(-centre[0] / math.sqrt(covariance[0, 0])))
        elif k == 3:
            out[c] = 1.0 - _bivariate(centre, covariance)
        else:
            law = multivariate_normal(
                np.zeros(k - 1), covariance, allow_singular=True, maxpts=100_000 * k, abseps=1e-7, seed=0
            )
            out[c] = 1.0 - float(law.cdf(centre))
    return out


def _bivariate(upper: Array, covariance: Array) -> float:
    """P(X < upper) for two centred normal variables, by one smooth integral."""
    from scipy.special import ndtr

    s1, s2 = np.sqrt(np.diag(covariance))
    a, b, r = upper[0] / s1, upper[1] / s2, covariance[0, 1] / (s1 * s2)
    end = min(a, 10.0)
    if end <= -10.0:
        return 0.0
    # Panels fine enough for the inner distribution function, which turns over a width sqrt(1 - r^2)/|r|.
    rest = math.sqrt(max(1.0 - r * r, 1e-16))
    pieces = int(min(2000, max(20, 20 * abs(r) / rest)))
    x0, w0 = gauss_legendre(16)
    edges = np.linspace(-10.0, end, pieces + 1)
    half = 0.5 * (edges[1] - edges[0])
    t = (0.5 * (edges[:-1] + edges[1:])[:, None] + half * x0).ravel()
    weights = np.tile(half * w0, pieces) * np.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    return float(weights @ ndtr((b - r * t) / rest))
