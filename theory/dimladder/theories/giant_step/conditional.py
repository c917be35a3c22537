"""Readouts after the step, conditional on the distinguished projections kappa = Q x.

Given the cluster and kappa, features are Gaussian with mean c_0(a, s) and covariance sum_{p >= 1} c_p c_p^T o r^p,
where
a, s, r are the conditional means, scales and correlations of the fields. Each quadrature node (c, kappa_q) is a
cluster of
its own:

* `conditional_ridge`: every node its own V_q (needed when the step is of order n);
* `conditional_convex`: other convex losses with the node-averaged bulk, a finite-dimensional convex problem for
  the
  means inside a scalar fixed point for (V, q) ("conditional state evolution").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SolveError
from ...numerics.quadrature import gaussian_nodes
from ...numerics.scalars import ndtr
from ...problem import Expression, Problem
from ...problem.clusters import Clusters
from ...problem.losses import LossFunction
from ...problem.one_step import Network, readout_ridge
from ...problem.targets import ClusterLabels
from ...symbolic.hermite_moments import PolynomialModel, profile
from ...symbolic.systems import Equation
from .equivalents import renormalised_ridge

Array = NDArray[np.float64]
# Conditional correlations are of order n^-1/2: this many terms leave n^-4.
ORDER = 7
# Width of a panel of the averages over a field, in standard deviations: ten digits of sixteen Gauss nodes.
PANEL = 1.8


@dataclass(frozen=True)
class Nodes:
    """Quadrature over clusters and projections.

    Attributes
    ----------
    weights : ndarray, shape (N,)
        Probabilities of the nodes.
    cluster : ndarray of int, shape (N,)
    labels : ndarray, shape (N,)
        E[y | node].
    noise : float
        Variance of the label given the node.
    coefficients : ndarray, shape (ORDER + 1, N, k)
        c_p(i) at each node, divided by sqrt k.
    second : ndarray, shape (N, k)
        E[phi_i^2 | node].
    correlations : ndarray, shape (K, k, k)
        Conditional correlations of the fields, with zero diagonal.
    """

    weights: Array
    cluster: NDArray[np.int64]
    labels: Array
    noise: float
    coefficients: Array
    second: Array
    correlations: Array

    @property
    def means(self) -> Array:
        return self.coefficients[0]


def projections(problem: Problem, data: Clusters, net: Network) -> Array:
    """Orthonormal basis Q of the span of v, spikes, means and target, shape (p, n)."""
    rows = [net.spike[None, :], data.means, *(dirs for _, dirs in data.spikes)]
    if data.target is not None:
        rows.append(data.target[None, :])
    stack = np.concatenate([r.reshape(-1, data.n) for r in rows])
    norms = np.linalg.norm(stack, axis=1)
    stack = stack[norms > 1e-12] / norms[norms > 1e-12, None]
    _, s, basis = np.linalg.svd(stack, full_matrices=False)
    return np.asarray(basis[s > 1e-8])


def build_nodes(
    problem: Problem, data: Clusters, net: Network, sigma: Expression, model: PolynomialModel | None, count: int
) -> Nodes:
    """Place the nodes and expand the features at each of them."""
    basis = projections(problem, data, net)
    points, share = gaussian_nodes(basis.shape[0], count)
    width, clusters = net.stepped.shape[0], data.weights.size
    weights, ids, labels, coefficients, seconds, correlations = [], [], [], [], [], []
    for c in range(clusters):
        sided = data.covariance_times(c, basis)
        s = sided @ basis.T
        root = np.linalg.cholesky(s)
        kappa = data.means[c] @ basis.T + points @ root.T
        load = np.linalg.solve(s, sided @ net.stepped.T).T
        covariance = data.covariance_times(c, net.stepped) @ net.stepped.T - load @ s @ load.T
        scale = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
        shift = data.means[c] @ net.stepped.T + (kappa - data.means[c] @ basis.T) @ load.T
        scales = np.tile(scale, len(points))
        expanded = (
            model.profile(shift.ravel(), scales, ORDER)
            if model is not None
            else profile(sigma, shift.ravel(), scales, ORDER, nodes=48)
        )
        coefficients.append(expanded.coefficients.reshape(ORDER + 1, len(points), width))
        seconds.append(expanded.second.reshape(len(points), width) + (model.noise**2 if model is not None else 0.0))
        correlation = covariance / np.multiply.outer(scale, scale)
        np.fill_diagonal(correlation, 0.0)
        correlations.append(correlation)
        weights.append(data.weights[c] * share)
        ids.append(np.full(len(points), c))
        if isinstance(problem.target, ClusterLabels):
            labels.append(np.full(len(points), problem.target.values(clusters)[c]))
        else:
            assert data.target is not None
            labels.append(
                np.broadcast_to(
                    problem.target.expression.evaluate(np, z=kappa @ (basis @ data.target)), (len(points),)
                ).astype(float)
            )
    noise = 0.0 if isinstance(problem.target, ClusterLabels) else problem.target.noise**2
    share_of = np.concatenate(weights)
    used = share_of > 0.0  # a cluster without weight has no nodes
    return Nodes(
        share_of[used],
        np.concatenate(ids)[used],
        np.concatenate(labels)[used],
        noise,
        np.concatenate(coefficients, axis=1)[:, used] / math.sqrt(width),
        np.concatenate(seconds)[used] / width,
        np.array(correlations),
    )


def weighted_covariance(nodes: Nodes, factors: Array) -> Array:
    """sum_q factors_q Cov[phi | q], shape (k, k): one matrix product for each Hermite degree and cluster."""
    width = nodes.means.shape[1]
    total = np.zeros((width, width))
    for c in range(nodes.correlations.shape[0]):
        rows = nodes.cluster == c
        if not rows.any():
            continue
        power = np.ones((width, width))
        for p in range(1, ORDER + 1):
            power *= nodes.correlations[c]
            left = nodes.coefficients[p, rows] * factors[rows, None]
            total += power * (left.T @ nodes.coefficients[p, rows])
    total[np.arange(width), np.arange(width)] += factors @ (nodes.second - nodes.means**2)
    return total


def node_traces(nodes: Nodes, matrix: Array) -> Array:
    """tr[Cov[phi | q] matrix] for every node, shape (N,); matrix symmetric."""
    out = (nodes.second - nodes.means**2) @ np.diag(matrix)
    for c in range(nodes.correlations.shape[0]):
        rows = nodes.cluster == c
        power = matrix.copy()
        for p in range(1, ORDER + 1):
            power *= nodes.correlations[c]
            block = nodes.coefficients[p, rows]
            out[rows] += np.einsum("qi,qi->q", block @ power, block)
    return out


def conditional_ridge(
    nodes: Nodes, samples: int, ridge: float, *, rtol: float = 1e-9, max_iterations: int = 500
) -> dict[str, float]:
    """Deterministic equivalent with one zeta for each node (see `equivalents.many_bulks`).

    Raises
    ------
    SolveError
        When the fixed point or the linear system for the errors does not converge.
    """
    from scipy.sparse.linalg import LinearOperator, gmres

    rho, means = nodes.weights, nodes.means
    width = means.shape[1]
    identity = np.eye(width)

    def averaged(factors: Array) -> Array:
        """sum_q factors_q E[phi phi^T | q]; the rank-one means are kept, of relative size 1/m in a node's trace."""
        return weighted_covariance(nodes, factors) + (means * factors[:, None]).T @ means

    def traced(matrix: Array) -> Array:
        """tr[E[phi phi^T | q] matrix]/m for every node."""
        return (node_traces(nodes, matrix) + np.einsum("qi,qi->q", means @ matrix, means)) / samples

    common = renormalised_ridge(np.linalg.eigvalsh(averaged(rho)).astype(np.float64), samples, ridge)
    zeta = np.full(rho.size, common)
    for _ in range(max_iterations):
        resolvent: Array = np.linalg.inv(identity + averaged(rho / zeta)).astype(np.float64)
        image = ridge + traced(resolvent)
        change = float(np.max(np.abs(image - zeta) / image))
        # The map contracts in log zeta with slope below one; averaging logarithms damps its oscillation.
        zeta = np.exp(0.3 * np.log(zeta) + 0.7 * np.log(image)) if change > 1e-3 else image
        if change < rtol:
            break
    else:
        raise SolveError(
            "the conditional equivalent did not converge",
            status="max_iterations",
            why=f"relative change {change:.2g}",
            hint="raise the ridge or lower algorithm.nodes",
        )
    damp = rho / zeta**2
    w = resolvent @ (means.T @ (rho / zeta * nodes.labels))
    fields = means @ w
    # w.Cov_q w by the same expansion: a trace against w w^T.
    bias = nodes.labels**2 + nodes.noise - 2 * nodes.labels * fields + fields**2 + node_traces(nodes, np.outer(w, w))

    def variance(errors: Array) -> Array:
        return traced(resolvent @ averaged(damp * errors) @ resolvent)

    operator = LinearOperator(
        (rho.size, rho.size), matvec=lambda e: e - variance(np.asarray(e).ravel()), dtype=np.float64
    )
    errors, info = gmres(operator, bias, rtol=1e-10, atol=0.0, maxiter=200)
    if info != 0:
        raise SolveError(
            "the errors of the conditional equivalent did not converge",
            status="max_iterations",
            hint="raise the ridge",
        )
    norm = float(w @ w + (damp * errors) @ traced(resolvent @ resolvent))
    return {
        "test_mse": float(rho @ errors),
        "train_mse": float((rho * (ridge / zeta) ** 2) @ errors),
        "penalty": 0.5 * ridge * norm,
    }


def conditional_convex(
    nodes: Nodes, form: LossFunction, samples: int, ridge: float, *, rtol: float = 1e-8
) -> dict[str, float]:
    """Conditional state evolution of a readout with a convex loss.

    In the eigenbasis of the node-averaged covariance Omega with eigenvalues s: V = sum s/S/m, S = ridge + V^ s;
    w = S^{-1} sum_q rho_q E f_q mu_q (a convex problem in the span of the means); q = w.Omega w + E f^2 sum (s/S)^2/m;
    V^ = E l''/(1 + V l'').

    Raises
    ------
    SolveError
        When neither the quasi-Newton method nor the damped iteration converges.
    """
    from scipy.optimize import root

    from ...numerics.proximal import node_averages, together
    from ..estimation.channel import Loss

    loss = Loss(form.name, form.expression.text)
    functions, reach = together(loss.module()), loss.strip
    rho, y = nodes.weights, nodes.labels
    s, basis = np.linalg.eigh(weighted_covariance(nodes, rho))
    s = np.maximum(s, 0.0)
    rotated = nodes.means @ basis
    left, size, right = np.linalg.svd(np.sqrt(rho)[:, None] * rotated, full_matrices=False)
    rank = int(np.sum(size > 1e-9 * size[0]))
    loads = left[:, :rank] * size[:rank] / np.sqrt(rho)[:, None]
    right = right[:rank]
    # Rows E f, E f^2, E l''/(1 + V l''), E l(prox), E l(omega) of every node.
    out = np.empty((rho.size, 7))
    response = np.zeros(rank)

    def channels(means: Array, v: float, q: float) -> None:
        node_averages.compiled(functions, y, means, q, v, PANEL, reach, out)

    def image(v: float, q: float, vhat: float) -> tuple[Array, dict[str, Any]]:
        nonlocal response
        stiffness = ridge + vhat * s
        kernel = (right / stiffness) @ right.T
        fields = loads @ (kernel @ response)
        for _ in range(60):
            channels(fields, v, q)
            gap = loads.T @ (rho * out[:, 0]) - response
            if np.linalg.norm(gap) <= 1e-10 * (1e-12 + np.linalg.norm(response)):
                break
            jacobian = np.eye(rank) + (loads.T * (rho * out[:, 2])) @ loads @ kernel
            step = np.linalg.solve(jacobian, gap)
            scale, before = 1.0, np.linalg.norm(gap)
            for _ in range(30):
                trial = loads @ (kernel @ (response + scale * step))
                channels(trial, v, q)
                if np.linalg.norm(loads.T @ (rho * out[:, 0]) - response - scale * step) < before:
                    break
                scale *= 0.5
            response = response + scale * step
            fields = trial
        w = (right.T @ response) / stiffness
        ratio = s / stiffness
        new = np.array(
            [
                ratio.sum() / samples,
                float(s @ w**2) + float(rho @ out[:, 1]) * float(np.sum(ratio**2)) / samples,
                float(rho @ out[:, 2]),
            ]
        )
        norm = float(w @ w) + float(rho @ out[:, 1]) * float(np.sum(s / stiffness**2)) / samples
        return new, {"fields": fields, "penalty": 0.5 * ridge * norm}

    vhat = 0.1
    state = np.array([float(np.sum(s / (ridge + vhat * s))) / samples, 1.0, vhat])
    change = math.inf
    for iteration in range(400):
        new, seen = image(*state)
        change = float(np.max(np.abs(np.log(new / state))))
        if change < rtol:
            break
        state = np.exp(0.5 * np.log(state) + 0.5 * np.log(new))
        if iteration in (6, 20, 60) and change > rtol:
            found = root(
                lambda t: np.log(image(*np.exp(t))[0]) - t, np.log(state), method="hybr", options={"xtol": 1e-10}
            )
            if np.all(np.isfinite(found.x)) and float(np.max(np.abs(found.fun))) < change:
                state = np.exp(found.x)
    else:
        raise SolveError(
            f"the conditional state evolution of the {form.name} readout did not converge",
            status="max_iterations",
            why=f"relative change {change:.2g} after 400 iterations, damping 0.5",
            hint="raise the ridge",
        )
    v, q, _ = (float(x) for x in state)
    channels(seen["fields"], v, q)
    slope = float(form.slopes(np.zeros(1), np.ones(1))[0])
    errors = _signs(y, seen["fields"], v, q, slope) if form.two_valued else _squares(y, seen["fields"], v, q, out)
    return {
        **{name: float(rho @ values) for name, values in errors.items()},
        "test_loss": float(rho @ out[:, 4]),
        "train_loss": float(rho @ out[:, 3]),
        "penalty": seen["penalty"],
    }


def _signs(y: Array, fields: Array, v: float, q: float, slope: float) -> dict[str, Array]:
    """Probability of a wrong sign at every node, on fresh points and on the sample.

    On its own sample a point is wrong when its proximal margin is negative: y omega < V l'(0), `slope` = l'(0).
    """
    s, margin = math.sqrt(q), y * fields
    return {
        "classification_error": ndtr(-margin / s),
        "train_classification_error": ndtr((v * slope - margin) / s),
    }


def _squares(y: Array, fields: Array, v: float, q: float, out: Array) -> dict[str, Array]:
    """Mean squared errors at every node; those of the sample are of prox = omega + V f, with E[f omega] by Stein."""
    gap = fields - y
    test = gap**2 + q
    return {"test_mse": test, "train_mse": test + 2 * v * (gap * out[:, 0] - q * out[:, 2]) + v**2 * out[:, 1]}


def conditional_errors(
    problem: Problem, data: Clusters, net: Network, sigma: Expression, samples: int, model: PolynomialModel | None
) -> dict[str, float]:
    """Errors of the problem's readout, conditional on the distinguished projections."""
    form, ridge = problem.loss.form, readout_ridge(problem, samples, data.n)
    nodes = build_nodes(problem, data, net, sigma, model, problem.algorithm.nodes)
    if form.name == "square":
        return conditional_ridge(nodes, samples, ridge)
    return conditional_convex(nodes, form, samples, ridge)


def equations(problem: Problem) -> list[Equation]:
    """The equations solved here, as LaTeX."""
    rows = [
        Equation(
            "nodes",
            r"\mu_q = c_0(a_q,s),\quad \Omega_q = \sum_{p\ge1} c_p c_p^\top\circ r^{\circ p},\quad q=(c,\kappa_q)",
        ),
    ]
    if problem.loss.form.name == "square":
        return [
            *rows,
            Equation("S", r"S = \Big(1+\sum_q\frac{\rho_q}{\zeta_q}(\Omega_q+\mu_q\mu_q^\top)\Big)^{-1}"),
            Equation("zeta", r"\zeta_q = \lambda + \frac1m\operatorname{tr}(\Omega_q+\mu_q\mu_q^\top)S"),
            Equation("weights", r"w = S\sum_q\frac{\rho_q}{\zeta_q}\, y_q\mu_q"),
            Equation(
                "test_mse",
                r"E_q = B_q + "
                r"\frac1m\operatorname{tr}\,\Omega_qS\Big[\sum_{q'}\frac{\rho_{q'}E_{q'}}{\zeta_{q'}^2}\Omega_{q'}\Big]S",
            ),
            Equation("train_mse", r"E^{\mathrm{train}}_q = (\lambda/\zeta_q)^2 E_q"),
            Equation(
                "penalty",
                r"\mathcal P = \frac\lambda2\Big[|w|^2 + "
                r"\sum_q\frac{\rho_qE_q}{m\,\zeta_q^2}\operatorname{tr}\,\Omega_qS^2\Big]",
            ),
        ]
    return [
        *rows,
        Equation("R", r"R = (\lambda+\hat V\Omega)^{-1},\quad \Omega=\sum_q\rho_q\Omega_q"),
        Equation(
            "w",
            r"w = \arg\min_w \tfrac12 w\cdot R^{-1}w+\sum_q\rho_q\,\mathbb E_\xi\,\mathcal "
            r"M_V(y_q;\,w\cdot\mu_q+\sqrt q\,\xi)",
        ),
        Equation("Vhat", r"\hat V = \mathbb E\,\frac{\ell''}{1+V\ell''}"),
        Equation("V", r"V = \frac1m\operatorname{tr}\,\Omega R"),
        Equation("q", r"q = w\cdot\Omega w+\frac{\mathbb E f^2}{m}\operatorname{tr}(\Omega R)^2"),
        Equation(
            "penalty",
            r"\mathcal P = \frac\lambda2\Big[|w|^2+\frac{\mathbb E f^2}{m}\operatorname{tr}\,\Omega R^2\Big]",
        ),
        _error(problem.loss.form.two_valued),
    ]


def _error(two_valued: bool) -> Equation:
    if two_valued:
        text = r"\sum_q\rho_q\,\Phi(-y_q\,w\cdot\mu_q/\sqrt q)"
        return Equation("classification_error", rf"\mathcal E_{{\mathrm{{test}}}} = {text}")
    return Equation("test_mse", r"\mathcal E_{\mathrm{test}} = \sum_q\rho_q\,(y_q - w\cdot\mu_q)^2 + q")
