"""Classes of a Gaussian mixture: one output a class, cross-entropy or square loss on one-hot labels.

State evolution with matrices over the outputs (Loureiro et al. 2021): for every covariance Sigma_c the matrices
V_c = tr(Sigma_c R)/d and Q_c = W Sigma_c W^T, and the overlaps W e_j with the frame of the means; biases. Objective
(1/d) sum_i loss(y_i, W x_i + b) + (ridge/2)|W|^2; a cluster belongs to one class, a class may have several clusters.

The proximal point argmin_u l(y, u) + (u - omega).V_c^{-1}(u - omega)/2 is found by Newton's method with a line search,
node by node.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.positive import free_coordinates, positive_matrix
from ...numerics.quadrature import gauss_hermite, gauss_legendre
from ...numerics.scalars import ndtr
from ...problem import Problem
from ...problem.mixtures import mixture_geometry
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Stepwise, Variable
from .letters import LETTERS
from .mixture_question import class_labels

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


class State(NamedTuple):
    """V and Q by covariance (K, K each), overlaps with the frame (K, directions), biases (K,)."""

    V: Array
    Q: Array
    w: Array
    b: Array


class Image(NamedTuple):
    """One evaluation of the map: the new state, the training loss, and tr R/d and W W^T."""

    state: State
    loss: float
    response: Array
    norm: Array


class ClassesSystem(Stepwise, FixedPoint):
    """State evolution with one output a class."""

    letters = LETTERS

    order_parameters = (
        OrderParameter(
            "V", ("sample_ratio", "output", "output"), "V", "variance of the fluctuation: tr R/d, R the resolvent"
        ),
        OrderParameter("q", ("sample_ratio", "output", "output"), "Q", "W W^T, of the outputs on isotropic noise"),
        OrderParameter("m", ("sample_ratio", "cluster", "output"), "m_c", "W mu_c"),
        OrderParameter("bias", ("sample_ratio", "output"), "b", "biases, of zero sum"),
        OrderParameter("classification_error", ("sample_ratio",), r"\varepsilon", "error of the largest output"),
        OrderParameter(
            "train_loss", ("sample_ratio",), r"\mathcal{L}", "mean loss over the training set, without penalty"
        ),
    )

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        g = mixture_geometry(problem)
        self.labels = class_labels(problem)
        self.classes = max(self.labels) + 1
        self.rho = np.array(problem.data.weights)
        self.means = np.array(g.coordinates).reshape(self.rho.size, -1)
        self.shares = np.array(g.shares)
        # Eigenvalues of the bulk by cluster and group; of the frame by cluster, direction and group.
        self.eigen = np.array([g.eigen[k] for k in g.kinds])
        extra = np.array([g.kind_spikes[k] for k in g.kinds]).reshape(self.rho.size, -1)
        self.own = self.eigen[:, None, :] + extra[:, :, None]
        # Covariances that are multiples of each other share V and Q: (factor, number) of each cluster, first of each.
        self.factors = self.eigen[:, 0].copy()
        rows = np.concatenate([self.eigen, self.own.reshape(self.rho.size, -1)], axis=1) / self.factors[:, None]
        shapes, first, number = np.unique(np.round(rows, 12), axis=0, return_index=True, return_inverse=True)
        self.kinds, self.count = number.ravel(), len(shapes)
        self.base_eigen = self.eigen[first] / self.factors[first, None]
        self.base_own = self.own[first] / self.factors[first, None, None]
        self.nodes, self.weights = nodes(self.classes)
        # Free coordinates of the state: the upper triangles.
        self._upper = np.triu_indices(self.classes)

    # --- the map ---

    def _unpack(self, x: Array) -> State:
        k, p, kinds = self.classes, self.means.shape[1], self.count
        half = self._upper[0].size
        matrices = np.zeros((2 * kinds, k, k))
        matrices[:, self._upper[0], self._upper[1]] = x[: 2 * kinds * half].reshape(2 * kinds, half)
        matrices = matrices + np.triu(matrices, 1).transpose(0, 2, 1)
        rest = x[2 * kinds * half :]
        return State(matrices[:kinds], matrices[kinds:], rest[: k * p].reshape(k, p), rest[k * p :])

    def _pack(self, s: State) -> Array:
        rows = [m[self._upper] for m in (*s.V, *s.Q)]
        return np.concatenate([*rows, s.w.ravel(), s.b])

    def channel(self, label: int, mean: Array, v: Array, q: Array) -> tuple[Array, Array, Array, float]:
        """E f, E f f^T, E (Hess^{-1} + V)^{-1}, E loss for one cluster."""
        k = self.classes
        if not self._softmax:
            inverse = np.asarray(np.linalg.inv(np.eye(k) + v), dtype=np.float64)
            gap = np.eye(k)[label] - mean
            second = inverse @ (np.outer(gap, gap) + q) @ inverse.T
            return inverse @ gap, second, inverse, 0.5 * float(np.trace(second))
        from ...numerics.softmax import softmax_channel

        omega = mean + self.nodes @ _root(q).T
        f, ff, fv = np.empty(k), np.empty((k, k)), np.empty((k, k))
        whitening = np.linalg.inv(v)
        loss = softmax_channel.compiled(label, np.ascontiguousarray(omega), self.weights, v, whitening, f, ff, fv)
        if not math.isfinite(loss):
            raise SolveError(
                "the proximal point of the cross-entropy was not found",
                status="max_iterations",
                hint="raise loss.ridge",
            )
        return f, ff, fv, float(loss)

    def ridge_at(self, alpha: float) -> float:
        """Ridge of the summed objective at one sample ratio."""
        loss = self.problem.loss
        return loss.ridge if loss.ridge_per_sample is None else loss.ridge_per_sample * alpha

    def image(self, x: Array, alpha: float) -> Image:
        """F(x), and what is read off it."""
        s = self._unpack(x)
        k, (directions, groups) = self.classes, self.own.shape[1:]
        stiffness = np.zeros((groups, k, k)) + self.ridge_at(alpha) * np.eye(k)
        noise = np.zeros((groups, k, k))
        frame = np.zeros((directions, groups, k, k)) + self.ridge_at(alpha) * np.eye(k)
        drive = np.zeros((directions, k))
        force, hardness, loss = np.zeros(k), np.zeros((k, k)), 0.0
        for c, kind in enumerate(self.kinds):
            factor = self.factors[c]
            f, ff, fv, value = self.channel(
                self.labels[c], s.w @ self.means[c] + s.b, factor * s.V[kind], factor * s.Q[kind]
            )
            weight = alpha * self.rho[c]
            stiffness += weight * self.eigen[c][:, None, None] * fv
            noise += weight * self.eigen[c][:, None, None] * ff
            frame += weight * self.own[c][:, :, None, None] * fv
            drive += weight * np.outer(self.means[c], f)
            force += self.rho[c] * f
            hardness += self.rho[c] * fv
            loss += self.rho[c] * value
        bulk = np.asarray(np.linalg.inv(stiffness), dtype=np.float64)
        cells = np.asarray(np.linalg.inv(frame), dtype=np.float64) @ drive[:, None, :, None]
        spread = bulk @ noise @ bulk
        outer = cells @ cells.transpose(0, 1, 3, 2)

        def summed(eigen: Array, own: Array) -> Array:
            along: Array = np.einsum("g,g,gij->ij", self.shares, eigen, spread)
            return along + np.einsum("g,dg,dgij->ij", self.shares, own, outer)

        V = np.einsum("g,kg,gij->kij", self.shares, self.base_eigen, bulk)
        Q = np.array([summed(e, o) for e, o in zip(self.base_eigen, self.base_own, strict=True)])
        w = np.einsum("g,dgi->id", self.shares, cells[..., 0])
        b = s.b
        if self.problem.student.bias:
            # A Newton step for zero total force; the direction that shifts all outputs alike is fixed by zero sum.
            b = b + np.linalg.pinv(0.5 * (hardness + hardness.T), rcond=1e-10, hermitian=True) @ force
            if self._softmax:
                b = b - b.mean()
        response = np.einsum("g,gij->ij", self.shares, bulk)
        norm = summed(np.ones_like(self.eigen[0]), np.ones_like(self.own[0]))
        return Image(State(V, Q, w, b), loss, response, norm)

    def fixed_point(self, alpha: float, start: Array | None) -> tuple[Array, Image, int]:
        """Solve at one sample ratio: damped iteration, then a quasi-Newton method.

        Raises
        ------
        SolveError
            With the residual and the damping.
        """
        from scipy.optimize import root

        settings = self.problem.solver
        rtol = max(settings.rtol, 1e-11)
        x = start if start is not None else self._start(alpha)
        damping, residual, evaluations = settings.damping, math.inf, 0
        for iteration in range(settings.max_iterations):
            found = self.image(x, alpha)
            new = self._pack(found.state)
            evaluations += 1
            residual = float(np.max(np.abs(new - x)) / (1e-3 + np.max(np.abs(x))))
            if residual < rtol:
                return x, found, evaluations
            x = x + damping * (new - x)
            if residual < 1e-2 and iteration % 15 == 3:
                better = root(
                    lambda t: self._pack(self.image(t, alpha).state) - t, x, method="hybr", options={"xtol": 1e-12}
                )
                evaluations += int(better.nfev)
                if np.all(np.isfinite(better.x)) and np.linalg.eigvalsh(self._unpack(better.x).V).min() > 0:
                    improved = float(np.max(np.abs(better.fun)) / (1e-3 + np.max(np.abs(better.x))))
                    if improved < residual:
                        x = better.x
        raise SolveError(
            "the multi-class fixed point did not converge",
            status="max_iterations",
            where=f"sample_ratio = {alpha:g}",
            why=f"relative residual {residual:.2g}, damping {damping:g}",
            hint="lower solver.damping or raise loss.ridge",
        )

    def _start(self, alpha: float) -> Array:
        """The response of a heavily regularised fit."""
        k, typical = self.classes, float(self.rho @ self.eigen @ self.shares)
        scale = 1.0 / (self.ridge_at(alpha) + 0.25 * alpha * typical)
        one = (self.base_eigen @ self.shares)[:, None, None] * np.eye(k)
        return self._pack(State(scale * one, 0.1 * one, 0.1 * scale * np.ones((k, self.means.shape[1])), np.zeros(k)))

    def cluster_errors(self, s: State) -> Array:
        """P(the largest output is not that of the cluster's class), by (K - 1)-dimensional normal integrals."""
        means = self.means @ s.w.T + s.b
        return np.array([
            wrong_class(label, mean, factor * s.Q[kind])
            for label, mean, factor, kind in zip(self.labels, means, self.factors, self.kinds, strict=True)
        ])  # fmt: skip

    def solve(self) -> Solution:
        """Solve every sample ratio of the grid, from small to large."""
        found, evaluations = self._solutions()
        coords = {
            "sample_ratio": np.array(self.problem.grid.values("sample_ratio")), "cluster": np.arange(self.rho.size),
            "output": np.arange(self.classes),
        }  # fmt: skip
        return Solution(coords, self._variables(found), stats={"evaluations": evaluations, "nodes": len(self.weights)})

    def _solutions(self) -> tuple[list[tuple[Array, Image]], int]:
        """Return state and image at every sample ratio, in the order of the grid, and the number of evaluations."""
        ratios = self.problem.grid.values("sample_ratio")
        found: dict[int, tuple[Array, Image]] = {}
        x, evaluations = None, 0
        for i in np.argsort(ratios, kind="stable"):
            x, image, used = self.fixed_point(float(ratios[i]), x)
            found[int(i)] = x, image
            evaluations += used
        return [found[i] for i in range(len(ratios))], evaluations

    def _variables(self, found: Sequence[tuple[Array, Image]]) -> dict[str, Variable]:
        """Turn states and their images into variables."""
        rows: list[dict[str, Any]] = []
        for x, image in found:
            s = self._unpack(x)
            errors = self.cluster_errors(s)
            rows.append({
                "V": image.response, "q": image.norm, "m": self.means @ s.w.T, "bias": s.b, "cluster_error": errors,
                "classification_error": float(self.rho @ errors), "train_loss": image.loss,
            })  # fmt: skip
        wanted = [(p.name, p.dims, p.latex, p.meaning) for p in self.order_parameters]
        wanted.append(("cluster_error", ("sample_ratio", "cluster"), "", "error by cluster"))
        return {n: Variable(dims, np.array([r[n] for r in rows]), *words) for n, dims, *words in wanted}

    # --- what derivatives need: the state without what is zero, or known, where outputs sum to zero ---

    @property
    def _softmax(self) -> bool:
        return self.problem.loss.form.name != "one-hot"

    @cached_property
    def _span(self) -> Array:
        """Directions of the outputs (K, n) in which weights and biases are free: mostly those of zero sum.

        The cross-entropy does not see a sum of all outputs, and biases fit that of one-hot labels, which is 1.
        """
        if self._softmax or self.problem.student.bias:
            return np.asarray(np.linalg.svd(np.ones((1, self.classes)))[2][1:].T)
        return np.eye(self.classes)

    def _coordinates(self, x: Array) -> Array:
        """Matrices by their free coordinates, vectors in units of the field's standard deviation."""
        s, B = self._unpack(x), self._span
        A = B if self._softmax else np.eye(self.classes)
        matrices = [free_coordinates(A.T @ V @ A) for V in s.V] + [free_coordinates(B.T @ Q @ B) for Q in s.Q]
        bias = B.T @ s.b if self.problem.student.bias else np.zeros(0)
        return np.concatenate([*matrices, (B.T @ s.w).ravel(), bias])

    def _state(self, coordinates: Array, alpha: float) -> Array:
        """Return the state that has these coordinates."""
        B, kinds, k = self._span, self.count, self.classes
        A = B if self._softmax else np.eye(k)

        def matrices(frame: Array) -> Array:
            nonlocal coordinates
            n = frame.shape[1]
            size = n * (n + 1) // 2
            rows, coordinates = coordinates[: kinds * size].reshape(kinds, size), coordinates[kinds * size :]
            return np.array([frame @ positive_matrix(c, n) @ frame.T for c in rows])

        V, Q = matrices(A), matrices(B)
        if self._softmax:
            # Along the sum of all outputs there is the ridge alone.
            flat = (self.base_eigen @ self.shares) / self.ridge_at(alpha) / k
            V = V + flat[:, None, None] * np.ones((k, k))
        size = B.shape[1] * self.means.shape[1]
        w, b = B @ coordinates[:size].reshape(B.shape[1], -1), np.zeros(k)
        if self.problem.student.bias:
            b = B @ coordinates[size:] + (0.0 if self._softmax else 1.0 / k)
        return self._pack(State(V, Q, w, b))

    def _with_ratios(self, states: Array) -> Iterator[tuple[Array, float]]:
        for coordinates, alpha in zip(states, self.problem.grid.values("sample_ratio"), strict=True):
            yield coordinates, float(alpha)

    def roots(self) -> Array | None:
        rows = np.stack([self._coordinates(x) for x, _ in self._solutions()[0]])
        return rows if np.isfinite(rows).all() else None

    def residual(self, states: Array) -> Array:
        rows = []
        for coordinates, alpha in self._with_ratios(states):
            moved = self._pack(self.image(self._state(coordinates, alpha), alpha).state)
            rows.append(self._coordinates(moved) - coordinates)
        return np.stack(rows)

    def variables(self, states: Array) -> dict[str, Variable]:
        found = [self._state(coordinates, alpha) for coordinates, alpha in self._with_ratios(states)]
        ratios = self.problem.grid.values("sample_ratio")
        return self._variables([(x, self.image(x, float(alpha))) for x, alpha in zip(found, ratios, strict=True)])

    def derivation(self) -> list[Step]:
        groups, spiked = self.shares.size > 1, bool(np.any(self.own != self.eigen[:, None, :]))
        g = "_g" if groups else ""
        mean = r"\sum_g\pi_g" if groups else ""
        delta = r"\Delta_{cg}" if groups else r"\Delta_c"
        own = r"\Delta^{\mathrm s}_{cj}" if spiked else delta
        drive, wj = r"\sum_c\hat m_c\,\mu_{cj}", "W_{jg}" if groups else "W_j"
        at = r"R^{\mathrm s}_j" if spiked else f"R{g}"
        if self.problem.loss.form.name == "one-hot":
            law = r"\ell(y,u) = \tfrac12|u-e_y|^2,\quad u = (1+V_c)^{-1}(\omega+V_ce_y)"
        else:
            law = r"\ell(y,u) = \log\textstyle\sum_k e^{u_k} - u_y,\quad u + V_c(\mathrm{softmax}(u)-e_y) = \omega"
        labels = ", ".join(str(y) for y in self.labels)
        rows = [Equation("Rs", rf"R^{{\mathrm s}}_j = \Big(\lambda+\sum_c{own}\hat V_c\Big)^{{-1}}")] if spiked else []
        return [
            Step(
                "Objective",
                "Minimise (1/d) sum_i loss(y_i, W x_i + b) + (ridge/2)|W|^2 over samples = alpha d points; the classes "
                f"of the clusters are {labels}.",
            ),
            Step(
                "Channel",
                "Within a cluster the outputs of the leave-one-out minimiser are Gaussian; putting the sample back "
                "moves them to the proximal point.",
                (
                    Equation("omega", r"\omega\sim\mathcal N(m_c+b,Q_c)"),
                    Equation("prox", law, None, "y the class of cluster c, e_y its unit vector"),
                    Equation("f", r"f = V_c^{-1}(u-\omega) = -\nabla\ell(y,u)"),
                ),
            ),
            Step(
                "Conjugates",
                "Forces and curvatures summed over the samples of each cluster.",
                (
                    Equation("mhat", r"\hat m_c = \alpha\rho_c\,\mathbb E f"),
                    Equation("qhat", r"\hat q_c = \alpha\rho_c\,\mathbb E ff^\top"),
                    Equation("Vhat", r"\hat V_c = \alpha\rho_c\,\mathbb E\,(\mathrm{Hess}^{-1}+V_c)^{-1}"),
                ),
            ),
            Step(
                "Fixed point",
                "The overlaps of the effective quadratic problem reproduce those of the fields.",
                (
                    Equation("R", rf"R{g} = \Big(\lambda+\sum_c{delta}\hat V_c\Big)^{{-1}}"),
                    *rows,
                    Equation("V", rf"V_c = {mean}{delta}R{g}"),
                    Equation("w", rf"{wj} = {at}{drive},\quad m_c = \sum_j\mu_{{cj}}{mean}{wj}"),
                    Equation(
                        "q",
                        rf"Q_c = {mean}\Big[{delta}R{g}\hat N{g}R{g}+\sum_j{own}{wj}{wj}^\top\Big],\quad "
                        rf"\hat N{g} = \sum_c{delta}\hat q_c",
                    ),
                    Equation("bias", r"\sum_c\rho_c\,\mathbb Ef = 0", None, "with student.bias"),
                ),
            ),
            Step(
                "Errors",
                "The class of a fresh point is that of its largest output.",
                (Equation("classification_error", r"\varepsilon = \sum_c\rho_c\,\mathbb P(\arg\max\omega\neq y)"),),
            ),
        ]


def _root(q: Array) -> Array:
    """Return the symmetric square root of a matrix: it moves smoothly where two eigenvalues meet."""
    values, vectors = np.linalg.eigh(q)
    found: Array = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return found


def wrong_class(label: int, mean: Array, covariance: Array) -> float:
    """P(the largest of N(mean, covariance) is not output `label`)."""
    from scipy.stats import multivariate_normal

    k = mean.size
    contrast = np.eye(k)[label] - np.delete(np.eye(k), label, axis=0)
    centre, spread = contrast @ mean, contrast @ covariance @ contrast.T
    if k == 2:
        return float(ndtr(-centre[0] / math.sqrt(spread[0, 0])))
    if k == 3:
        return 1.0 - _bivariate(centre, spread)
    law = multivariate_normal(np.zeros(k - 1), spread, allow_singular=True, maxpts=100_000 * k, abseps=1e-7, seed=0)
    return 1.0 - float(law.cdf(centre))


def _bivariate(upper: Array, covariance: Array) -> float:
    """P(X < upper) for two centred normal variables, by one smooth integral."""
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
