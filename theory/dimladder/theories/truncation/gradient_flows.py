"""Gradient flow of truncating layers: biases and rotations, separated clusters, spectral gap, output space.

Weights are a positive diagonal matrix times a rotation; the diagonal commutes with relu and drops out, so layer l is
``tau_l(x) = R_l^T relu(R_l (x + beta_l)) - beta_l`` in input space. The cost is ``C = (1/2N) sum_i q_i^T A q_i``, ``q
= x^(tau,L) - target``, with the identity for A in input space, or ``A = W^(L+1)T W^(L+1)`` for the usual cost in
output space. Time is that of gradient flow on this cost, with the metric Tr(Omega^T Omega)/2 on rotations; a fully
truncated cluster l then relaxes at rate N_l/N. relu'(0) = 0. Equations (E1)-(E6) of docs/theory/truncation.md, after
arXiv:2501.07400.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...errors import DomainError, SolveError
from ...problem.truncation.networks import Array, relu


@dataclass(frozen=True)
class TruncationStack:
    """L truncating layers on N points in R^Q.

    Attributes
    ----------
    rotations : (L, Q, Q) array
        R_l, orthogonal.
    offsets : (L, Q) array
        beta_l.
    inputs : (Q, N) array
    targets : (Q, N) array
        Pulled-back targets, ``(W^(L+1))^{-1}(y - b^(L+1))``.
    metric : (Q, Q) array or None
        A, symmetric positive semi-definite; the identity if None.
    """

    rotations: Array
    offsets: Array
    inputs: Array
    targets: Array
    metric: Array | None = None

    def __post_init__(self) -> None:
        layers, q = self.offsets.shape
        if (
            self.rotations.shape != (layers, q, q)
            or self.inputs.shape[0] != q
            or self.targets.shape != self.inputs.shape
        ):
            raise DomainError(
                "the arrays of a truncation stack do not fit together",
                why=f"rotations {self.rotations.shape}, offsets {self.offsets.shape}, inputs {self.inputs.shape}, "
                f"targets {self.targets.shape}",
            )
        defect = float(np.abs(np.swapaxes(self.rotations, 1, 2) @ self.rotations - np.eye(q)).max())
        if defect > 1e-8:
            raise DomainError("a rotation is not orthogonal", why=f"|R^T R - 1| = {defect:.3g}")

    def forward(self) -> tuple[list[Array], Array]:
        """Rotated pre-activations z_l of every layer, each (Q, N), and the truncated data (Q, N)."""
        x, pre = self.inputs, []
        for r, beta in zip(self.rotations, self.offsets, strict=True):
            z = r @ (x + beta[:, None])
            pre.append(z)
            x = r.T @ relu(z) - beta[:, None]
        return pre, x

    def truncated(self) -> Array:
        """Data after all layers."""
        return self.forward()[1]

    def _weighted(self, difference: Array) -> Array:
        return difference if self.metric is None else self.metric @ difference

    def cost(self) -> float:
        """(1/2N) sum q^T A q."""
        q = self.truncated() - self.targets
        return float(np.sum(q * self._weighted(q))) / (2 * q.shape[1])

    def velocities(self) -> tuple[Array, Array]:
        """(Omega, beta'): skew (L, Q, Q) with R_l' = Omega_l R_l, Eq. (E2), and (L, Q), Eqs. (E1) and (E6)."""
        pre, x = self.forward()
        count = x.shape[1]
        back = self._weighted(x - self.targets)
        omega, drift = np.empty_like(self.rotations), np.empty_like(self.offsets)
        for layer in range(len(pre) - 1, -1, -1):
            r, z = self.rotations[layer], pre[layer]
            rotated = r @ back
            kept = np.where(z > 0, rotated, 0.0)
            drift[layer] = r.T @ (rotated - kept).sum(axis=1) / count
            g = (kept @ z.T - rotated @ relu(z).T) / count
            omega[layer] = -(g - g.T)
            back = r.T @ kept
        return omega, drift

    def at(self, rotations: Array, offsets: Array) -> TruncationStack:
        """The same data and targets under other layers."""
        return replace(self, rotations=rotations, offsets=offsets)


@dataclass(frozen=True)
class StackPath:
    """A gradient-flow path.

    Attributes
    ----------
    t, costs : (T,) arrays
    rotations : (T, L, Q, Q) array
    offsets : (T, L, Q) array
    orthogonality : float
        Largest |R^T R - 1| met.
    """

    t: Array
    costs: Array
    rotations: Array
    offsets: Array
    orthogonality: float


def flow(
    start: TruncationStack,
    times: Array,
    *,
    move_rotations: bool = True,
    rtol: float = 1e-9,
    atol: float = 1e-12,
    max_steps: int = 200_000,
    min_step: float = 1e-4,
) -> StackPath:
    """Follow the gradient flow (E1)-(E2) (or (E6), with a metric) through the output times.

    The vector field jumps, by O(1/N), where a point crosses a threshold. The adaptive step resolves crossings down to
    `min_step`, which leaves an error of min_step/N a crossing; where a threshold comes to rest on a point, between
    two opposed velocities, the path chatters within min_step.

    Raises
    ------
    SolveError
        With the path so far in ``partial``.
    """
    from ...numerics.rotation_flow import integrate

    shape = start.offsets.shape

    def field(_: float, r: Array, y: Array) -> tuple[Array, Array]:
        # Intermediate stages are orthogonal by construction: no need to check them again.
        stack = object.__new__(TruncationStack)
        for name, value in (
            ("rotations", r),
            ("offsets", y.reshape(shape)),
            ("inputs", start.inputs),
            ("targets", start.targets),
            ("metric", start.metric),
        ):
            object.__setattr__(stack, name, value)
        omega, drift = stack.velocities()
        return (omega if move_rotations else np.zeros_like(omega)), drift.ravel()

    result = integrate(
        field,
        start.rotations,
        start.offsets.ravel(),
        np.asarray(times, dtype=float),
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
        min_step=min_step,
    )
    offsets = result.vectors.reshape(-1, *shape)
    costs = np.array([start.at(r, b).cost() for r, b in zip(result.rotations, offsets, strict=True)])
    path = StackPath(result.t, costs, result.rotations, offsets, result.stats["orthogonality"])
    if result.status != "success":
        raise SolveError(
            "the gradient flow of the truncation layers stopped early",
            status=result.status, partial=path, where=f"time {result.t[-1]:.6g}", why=result.message, hint="loosen "
            "rtol, or raise min_step or max_steps",
        )  # fmt: skip
    return path


def collapsed_offset(start: Array, target: Array, share: float, times: Array, metric: Array | None = None) -> Array:
    """beta_l(t) of a fully truncated cluster, Eqs. (E5), (E6): beta' = -share A (beta + target), share = N_l/N.

    Returns
    -------
    (T, Q) array
    """
    gap = start + target
    if metric is None:
        return np.exp(-share * np.asarray(times))[:, None] * gap - target
    values, vectors = np.linalg.eigh(metric)
    decay = np.exp(-share * np.outer(times, values))
    return np.asarray((decay * (vectors.T @ gap)) @ vectors.T - target)


def late_rate(share: float, last_weight: Array | None = None) -> float:
    """Slowest rate of a fully truncated cluster: N_l/N, times the spectral gap of W^T W for the cost in output
    space.
    """
    if last_weight is None:
        return share
    return share * float(np.linalg.svd(last_weight, compute_uv=False)[-1] ** 2)


def output_path(start: Array, labels: Array, times: Array) -> Array:
    """Gradient flow of |x - y|^2/(2n) in output space, n = number of points: x(s) = y + exp(-s/n)(x(0) - y), shape
    (T, Q, n).
    """
    decay = np.exp(-np.asarray(times, dtype=float) / start.shape[-1])
    return np.asarray(labels + decay[:, None, None] * (start - labels))


def adapted_direction(jacobian: Array, output_gradient: Array, *, mixing: float = 1.0) -> Array:
    """Parameter velocity that makes the outputs follow their own gradient flow, and its interpolation with plain
    gradient flow.

    With D = d(outputs)/d(parameters), plain gradient flow is -D^T g and moves the outputs by -D D^T g (the tangent
    kernel); the adapted one is
    -D^+ g and moves them by -g wherever D has full row rank (arXiv:2408.01517). ``mixing`` = 0 is plain, 1 adapted:
    the equilibria are the same.

    Parameters
    ----------
    jacobian : (m, K) array
    output_gradient : (m,) array
    """
    plain = -jacobian.T @ output_gradient
    if mixing == 0:
        return np.asarray(plain)
    adapted = -np.linalg.lstsq(jacobian, output_gradient, rcond=None)[0]
    return np.asarray(mixing * adapted + (1 - mixing) * plain)
