"""Bayes-optimal estimation of targets of two or three latent fields: the overlap is a matrix.

Q = E <z><z>^T solves Q = Qh (1 + Qh)^{-1}, Qh = alpha I(Q), I(Q) = E_omega sum_y grad Z grad Z^T/Z with omega ~
N(0, Q) and Z(y; omega) = P(y | z ~ N(omega, 1 - Q)), in coordinates where the fields are independent; correlated fields
z = L z' have the overlap L Q L^T. Free entropy per dimension Phi = (tr Qh - ln det(1 + Qh))/2 + alpha Psi(Q) - tr(Q
Qh)/2.

Two kinds of formulas are integrated: functions of the signs of z1 ... z3 (`numerics.sign_patterns`), and y = a(z1) +
b(z1) z2 + noise. Sources: Aubin et al. 2018 (committee machines), Troiani et al. 2024 (multi-index models).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DerivationError, SolveError
from ...symbolic.equations import latex
from ...symbolic.systems import Equation
from .bayes_pairs import affine_parts

Array = NDArray[np.float64]
# Trapezoidal steps over the width of the sharpest change, by the number of fields, and their range.
_STEP, _RANGE = {2: 0.45, 3: 0.62}, {2: 7.5, 3: 5.6}
_TOLERANCE = {2: 1e-10, 3: 1e-8}
# Overlap of a start that knows nothing, or nearly everything.
_SEED = 1e-3
_MOST_STEPS = 3000


class MatrixChannel:
    """I(Q) and Psi(Q) of a target in z1, z2 (, z3).

    Parameters
    ----------
    target : Index
        Of two or three directions.

    Raises
    ------
    DerivationError
        For a target of neither kind.
    """

    def __init__(self, target: Any, fineness: float = 1.0) -> None:
        self.target, self.fields, self.fineness = target, target.directions, fineness
        covariance = np.array(target.overlap) if target.overlap else np.eye(self.fields)
        self.covariance = covariance
        self.mixing = np.linalg.cholesky(covariance)
        if target.outliers is not None or target.is_logit or target.flip:
            raise self._refuse("outliers, logit and flips are read for one field", "use one latent field")
        self.route = "signs" if self._of_signs() else "affine"
        if self.route == "signs":
            self._patterns()
        else:
            self._affine()

    def _refuse(self, why: str, hint: str) -> DerivationError:
        return DerivationError(
            "this target of several fields is not solved", where=f"target.formula = {self.target.formula!r}", why=why,
            hint=hint,
        )  # fmt: skip

    def _of_signs(self) -> bool:
        if self.target.noises or self.target.noise:
            return False
        z = np.random.default_rng(1).standard_normal((self.fields, 600))
        return bool(np.array_equal(self.target.clean(z), self.target.clean(np.sign(z))))

    def _patterns(self) -> None:
        count = 2**self.fields
        bits = (np.arange(count)[:, None] >> np.arange(self.fields - 1, -1, -1)) & 1
        values = self.target.clean((1.0 - 2.0 * bits).T)
        self.values, labels = np.unique(values, return_inverse=True)
        self.labels = np.ascontiguousarray(labels.ravel().astype(np.int64))

    def _affine(self) -> None:
        if self.fields != 2:
            raise self._refuse(
                "three fields are read in functions of their signs",
                "use a formula of sign(z1), sign(z2), sign(z3), or two fields",
            )
        if not np.allclose(self.covariance, np.eye(2)):
            raise self._refuse("correlated fields are read in functions of their signs", "drop target.overlap")
        self.offset, self.slope, self.noise2 = affine_parts(
            self.target, self._refuse,
            "it is neither a function of the signs of its fields, nor affine in z2 with added noise",
            "use a target such as sign(sign(z1) + sign(z2)) or z1*z2 + z1 + 0.5*n1",
        )  # fmt: skip
        probe = np.linspace(-6.0, 6.0, 481)
        a, b = (np.broadcast_to(f(probe), probe.shape) for f in (self.offset, self.slope))
        near = np.abs(probe) < 5.5
        self.top = float(np.max(np.abs(a[near]) + 5.5 * np.abs(b[near]))) + 7.0 * math.sqrt(self.noise2)

    @property
    def discrete(self) -> bool:
        """Whether labels take finitely many values."""
        return self.route == "signs"

    def label_rows(self) -> list[Equation]:
        """Return the law of the label, printed."""

        added = rf" + {self.target.noise:g}\,\xi" if self.target.noise else ""
        return [Equation("label", f"y = {latex(self.target.expression.sympy())}{added}", None, "the label")]

    def information(self, Q: Array) -> tuple[Array, float, float]:
        """I(Q), Psi(Q) and the chance that the likeliest label is wrong (NaN for densities)."""
        V = np.eye(self.fields) - Q
        values, vectors = np.linalg.eigh((Q + Q.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        if self.route == "affine":
            return self._densities(Q, V)
        from ...numerics.sign_patterns import information

        # Signs are those of L z': fields with covariance L V L^T around L omega.
        L = self.mixing
        moved, left = L @ root, L @ V @ L.T
        sharp = math.sqrt(float(np.linalg.eigvalsh(left)[0]) / max(float(np.max(np.sum(moved**2, axis=0))), 1e-300))
        step = _STEP[self.fields] / self.fineness * sharp / math.sqrt(1.0 + sharp**2)
        info, out = np.empty((self.fields, self.fields)), np.empty(2)
        information.compiled(
            np.ascontiguousarray(moved), np.ascontiguousarray(left), self.labels, self.values.size, step,
            _RANGE[self.fields], info, out,
        )  # fmt: skip
        return L.T @ info @ L, float(out[0]), float(out[1])

    def _densities(self, Q: Array, V: Array) -> tuple[Array, float, float]:
        # omega = root x with a triangular root; z1 given omega_1 by the trapezoidal rule; y on a grid.
        noise = math.sqrt(self.noise2)
        r11 = math.sqrt(max(Q[0, 0], 0.0))
        r21 = Q[0, 1] / r11 if r11 > 0.0 else 0.0
        r22 = math.sqrt(max(Q[1, 1] - r21**2, 0.0))
        # Fine enough for the field's change against what is not known of it.
        sharp = math.sqrt(float(np.linalg.eigvalsh(V)[0]) / max(float(np.linalg.eigvalsh(Q)[-1]), 1e-300))
        h = 0.5 / self.fineness * sharp / math.sqrt(1.0 + sharp**2)
        x = h * np.arange(-math.ceil(6.0 / h), math.ceil(6.0 / h) + 1)
        w = np.exp(-(x**2) / 2)
        w /= w.sum()
        s1, gain = math.sqrt(V[0, 0]), V[0, 1] / V[0, 0]
        v2 = V[1, 1] - V[0, 1] ** 2 / V[0, 0]
        # Fine enough for the noise in y as the field moves.
        count = math.ceil(7 * self.fineness / 0.4)
        g = (0.4 / self.fineness) * np.arange(-count, count + 1)
        pg = np.exp(-(g**2) / 2)
        pg /= pg.sum()
        y = np.linspace(-self.top, self.top, 2 * math.ceil(self.top * self.fineness / (noise / 1.6)) + 1)
        info, psi = np.zeros((2, 2)), 0.0
        inverse = np.linalg.inv(V)
        for x1, w1 in zip(x, w, strict=True):
            omega1, omega2 = r11 * x1, r21 * x1 + r22 * x
            z1 = omega1 + s1 * g
            a = np.broadcast_to(self.offset(z1), z1.shape)
            b = np.broadcast_to(self.slope(z1), z1.shape)
            mean2 = omega2[:, None] + gain * s1 * g
            variance = self.noise2 + b**2 * v2
            gap = y[:, None, None] - a - b * mean2
            d = np.exp(-(gap**2) / (2 * variance)) / np.sqrt(2 * math.pi * variance) * pg
            Z = d.sum(-1)
            first = (d * (s1 * g)).sum(-1)
            second = gain * first + (d * gap * (b * v2 / variance)).sum(-1)
            safe = np.maximum(Z, 1e-250)
            weight = w1 * w * (y[1] - y[0])
            # V grad Z = E[(z - omega) ...].
            rows = np.stack([first, second])
            raw = np.einsum("iyk,jyk,yk->ij", rows, rows, weight / safe)
            info += inverse @ raw @ inverse
            psi += float(np.sum(Z * np.log(safe) * weight))
        return info, psi, math.nan

    def weak_recovery(self) -> float:
        """Sample ratio at which something of the target begins to be seen; 0 where it is at once, inf: never.

        The largest eigenvalue of dI/dQ at Q = 0, by its action on symmetric matrices.
        """
        n, eps = self.fields, 1e-5
        if float(np.max(np.abs(self.information(np.zeros((n, n)))[0]))) > 1e-9:
            return 0.0
        pairs = [(i, j) for i in range(n) for j in range(i, n)]
        columns = []
        base = eps * np.eye(n)
        start = self.information(base)[0]
        for i, j in pairs:
            E = np.zeros((n, n))
            E[i, j] = E[j, i] = 1.0
            moved = (self.information(base + 0.3 * eps * E)[0] - start) / (0.3 * eps)
            columns.append([moved[p] for p in pairs])
        rate = float(np.max(np.linalg.eigvals(np.array(columns).T).real))
        return 1.0 / rate if rate > 1e-4 else math.inf


@dataclass(frozen=True)
class MatrixState:
    """A solution: overlap in the coordinates of the target, what is missing of it, free entropy, label error."""

    overlap: Array
    rest: Array
    free_entropy: float
    error: float


class MatrixBayes:
    """The fixed point in Q.

    Parameters
    ----------
    channel : MatrixChannel
    """

    def __init__(self, channel: MatrixChannel) -> None:
        self.channel, self.n = channel, channel.fields
        self.pairs = [(i, j) for i in range(self.n) for j in range(i, self.n)]

    def step(self, Q: Array, alpha: float) -> Array:
        """Q(alpha I(Q))."""
        conjugate = alpha * self.channel.information(Q)[0]
        conjugate = (conjugate + conjugate.T) / 2
        return np.asarray(conjugate @ np.linalg.inv(np.eye(self.n) + conjugate))

    def jacobian(self, Q: Array, alpha: float, size: float = 1e-5) -> Array:
        """Of the map, on the independent entries of Q."""
        out = np.empty((len(self.pairs), len(self.pairs)))
        for k, (i, j) in enumerate(self.pairs):
            E = np.zeros((self.n, self.n))
            E[i, j] = E[j, i] = size
            moved = (self.step(Q + E, alpha) - self.step(Q - E, alpha)) / (2 * size)
            out[:, k] = [moved[p] for p in self.pairs]
        return out

    def _inside(self, Q: Array) -> bool:
        values = np.linalg.eigvalsh(Q)
        return bool(values[0] > 0.0 and values[-1] < 1.0)

    def solve(self, alpha: float, start: str, near: Array | None = None) -> Array:
        """Iterate from nothing or from the truth; Newton's method finishes at a stable state.

        Raises
        ------
        SolveError
            Where the iteration does not settle.
        """
        tilt = np.random.default_rng(7).standard_normal((self.n, self.n))
        Q = _SEED * (np.eye(self.n) + 0.3 * tilt @ tilt.T / self.n)
        if start == "informed":
            Q = (1.0 - _SEED) * np.eye(self.n)
        if near is not None:
            Q = near
        tolerance, patience = _TOLERANCE[self.n], 1e-3
        for _ in range(_MOST_STEPS):
            new = self.step(Q, alpha)
            change = float(np.max(np.abs(new - Q)))
            Q = new
            if change < tolerance or float(np.max(np.abs(Q))) < 1e-9:
                return Q
            if change < patience:
                found = self._newton(Q, alpha)
                if found is not None:
                    return found
                patience *= 0.1
        raise SolveError(
            "the overlap matrix did not settle", status="max_iterations", where=f"sample_ratio = {alpha:g}",
            why=f"it still changes by {change:.2g} a step", hint="a sample ratio farther from the transition",
        )  # fmt: skip

    def _newton(self, Q: Array, alpha: float) -> Array | None:
        """The root next to Q if it is a stable one; None: iterate on."""
        here = Q
        for _ in range(12):
            J = self.jacobian(here, alpha)
            gap = self.step(here, alpha) - here
            if float(np.max(np.abs(np.linalg.eigvals(J)))) > 1.0 - 1e-6:
                return None
            move = np.linalg.solve(np.eye(len(self.pairs)) - J, [gap[p] for p in self.pairs])
            E = np.zeros((self.n, self.n))
            for (i, j), value in zip(self.pairs, move, strict=True):
                E[i, j] = E[j, i] = value
            here = here + E
            if not self._inside(here) or float(np.max(np.abs(here - Q))) > 0.1:
                return None
            if float(np.max(np.abs(E))) < _TOLERANCE[self.n]:
                return here
        return None

    def state(self, Q: Array, alpha: float) -> MatrixState:
        """What is read off a solution."""
        info, psi, error = self.channel.information(Q)
        conjugate = alpha * (info + info.T) / 2
        one, L = np.eye(self.n), self.channel.mixing
        prior = 0.5 * (np.trace(conjugate) - np.linalg.slogdet(one + conjugate)[1])
        free = float(prior + alpha * psi - 0.5 * np.trace(Q @ conjugate))
        return MatrixState(L @ Q @ L.T, L @ (one - Q) @ L.T, free, error)


__all__: list[Any] = ["MatrixBayes", "MatrixChannel", "MatrixState"]
