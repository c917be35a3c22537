"""The printed relations of layer-wise learning with constants, stage by stage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...symbolic.equations import picker
from ...symbolic.systems import Equation, Step
from .stages import StageSystem

if TYPE_CHECKING:
    from .analysis import Level, LinkAnalysis


class LayerwiseEquations(StageSystem):
    """Equations and derivation of `layerwise.LayerwiseSystem`.

    Attributes
    ----------
    target, algorithm
    level : Level
        The polynomial of the hidden level, of degree `k`.
    link : LinkAnalysis
    degrees : tuple of int
        Those that a regression of stage 2 fits.
    """

    level: Level
    link: LinkAnalysis
    k: int
    degrees: tuple[int, ...]

    def symbolic(self) -> dict[str, tuple[Any, Any]]:
        """Return the leading-order relations in sympy, label -> (left, right), degree by degree."""
        import sympy as sp

        alpha, q, chi, tau = sp.symbols("alpha q chi tau", positive=True)
        variance, tau1, b2, s = sp.symbols("V tau_1 b_2 s", positive=True)
        critical, df2, error, norm, residual, total = sp.symbols("alpha_c D_2 E q_2 s_2 V_y", positive=True)
        share = {j: sp.Symbol(f"V_{j}", positive=True) for j in range(1, self.k + 1) if self.level.fractions[j]}
        x = sp.Symbol("x")
        lowest = min(share)
        # F_t holds every order of the link that starts at a degree up to k; orders that vanish are left out.
        orders = [m for m in range(1, self.k // lowest + 1) if abs(self.link.coefficients[m]) > 1e-14]
        c = {m: sp.Symbol(f"c_{m}", real=True) for m in {1, *orders}}
        law = sum(v * x**j for j, v in share.items())
        expansion = sp.Poly(sp.expand(sum(c[m] ** 2 * law**m for m in orders)), x)
        a = sp.Symbol("a", positive=True)
        rows: dict[str, tuple[Any, Any]] = {
            "threshold": (critical, variance * s**2 / (2 * tau1**2 * b2**2 * a**2)),
            "overlap": (q, sp.Max(0, 1 - critical / alpha)),
        }
        if self.flattened:
            held, d, d_eff = sp.symbols("q_A d d_1", positive=True)
            rows = {"overlap": (q, sp.Max(0, 1 - (1 - held) * d_eff / (held * d * a**2)))}
        for j, symbol in share.items():
            rows[f"share {j}"] = (symbol, sp.Symbol(f"v_{j}", positive=True) * q**j)
        if self.algorithm.second.estimator == "flattened":
            known = sp.Symbol("p_A", positive=True)
            rows["correlation"] = (sp.Symbol("rho", real=True), sp.sqrt(known * share[2]))
            return rows
        if self.algorithm.second.weights == "units":
            return rows | self._units_symbolic(expansion, x, share, c[1])
        powers, gains, crowding = {}, {}, {}
        for j in self.degrees:
            powers[j], gains[j] = sp.Symbol(f"F_{j}", positive=True), sp.Symbol(f"A_{j}", positive=True)
            crowding[j] = sp.Symbol(f"r_{j}", nonnegative=True)
            rows[f"power {j}"] = (powers[j], expansion.coeff_monomial(x**j))
        rows["strength"] = (chi, tau + chi * sum(crowding[j] * gains[j] for j in self.degrees))
        for j in self.degrees:
            rows[f"gain {j}"] = (gains[j], 1 / (1 + chi * sp.Symbol(f"l_{j}", nonnegative=True)))
        rows["df2"] = (df2, sum(crowding[j] * gains[j] ** 2 for j in self.degrees))
        rows["residual"] = (residual, total - sum(powers.values()))
        misfit = sum((1 - gains[j]) ** 2 * powers[j] for j in self.degrees)
        rows["fresh error"] = (error, (misfit + residual) / (1 - df2))
        rows["norm"] = (norm, sum(gains[j] ** 2 * powers[j] for j in self.degrees) + df2 * error)
        represented = sum(gains[j] * share[j] for j in self.degrees if j in share)
        rows["correlation"] = (sp.Symbol("rho", real=True), c[1] * represented / sp.sqrt(norm))
        return rows

    def _units_symbolic(self, expansion: Any, x: Any, share: dict[int, Any], slope: Any) -> dict[str, tuple[Any, Any]]:
        """Return the relations of random units; sums over j run over all degrees of the kernel."""
        import sympy as sp

        j = sp.Symbol("j", integer=True)
        n, p, nu, nu1, ridge = sp.symbols("n_2 p nu nu_1 lambda", positive=True)
        count, gain, power = (sp.IndexedBase(name)[j] for name in ("D", "A", "F"))
        error, norm = sp.symbols("E_f q_2", positive=True)
        effective = sp.Sum(count * gain, (j, 1, sp.oo))
        rows = {
            f"power {i}": (sp.Symbol(f"F_{i}", positive=True), expansion.coeff_monomial(x**i))
            for i in range(1, self.k + 1)
        }
        rows["strength"] = ((n - effective) * nu1, n * ridge / p)
        rows["shared strength"] = (nu1, nu * (1 - effective / p))
        rows["gain"] = (gain, 1 / (1 + nu * count / sp.IndexedBase("sigma")[j] ** 2))
        rows["norm"] = (norm, error - sp.Sum(power * (1 - 2 * gain), (j, 1, sp.oo)))
        held = sum(sp.IndexedBase("A")[i] * v for i, v in share.items())
        rows["correlation"] = (sp.Symbol("rho", real=True), slope * held / sp.sqrt(norm))
        return rows

    def equations(self) -> list[Equation]:
        import sympy as sp

        notes = {
            "threshold": "V = Var T(y), tau_1 = E[T(y) h/s], b_2 = E[P h_2], s^2 = Var h; n1 = alpha d d_eff",
            "overlap": "for directions of equal |a|; otherwise q^j stands for the mean of a^2 q(a)^j",
            "strength": "penalties lam_j = tau l_j; r_j = D_j/n2, D_j = binom(d_eff + j - 1, j); positive root",
            "residual": "V_y = Var y",
            "fresh error": "on a fresh label, label noise included",
            "correlation": "corr(h_hat, h)",
        }
        if self.algorithm.second.weights == "units":
            notes |= {
                "strength": "D_j = binom(d_eff + j - 1, j); sigma_j: Hermite coefficients of the units, p of them",
                "norm": "E_f = E(f - h_hat)^2: the error of ridge regression on random features",
                "gain": "the trace of degree 2 has sigma_2^2/d_eff in place of sigma_2^2/D_2",
            }
        rows = []
        if self.flattened:
            rows.append(
                Equation(
                    "spike",
                    r"q_A = \left(1 - \frac{H'(g_0)}{z'(g_0)}\right)^{-1}, \quad \frac1{g_0} + R(g_0) = H(g_0), \quad "
                    r"z(g) = \frac1g + R(g), \quad R = \mathbb{E}\left[\frac{T}{1 - gT/\delta}\right], \quad "
                    r"H = \mathbb{E}\left[\frac{u_2^2\, T}{1 - gT/\delta}\right]",
                    note="n1 = delta d (d + 1)/2; u_2: normalised quadratic part of h; q_A = 0 where z' >= 0",
                )
            )
            notes["overlap"] = "of the matrix that the leading eigenvector folds to; q_A its squared overlap with h"
        rows += [
            Equation.of(label, left, right, notes.get(label, "")) for label, (left, right) in self.symbolic().items()
        ]
        if self.algorithm.second.estimator == "flattened":
            rows.append(
                Equation(
                    "feature spike",
                    r"p_A = \left(1 - \frac{H'(g_0)}{z'(g_0)}\right)^{-1}, \quad \frac1{g_0} + R(g_0) = H(g_0), \quad "
                    r"H = \mathbb{E}\left[\frac{\hat u^2\, T}{1 - gT/\delta}\right], \quad "
                    r"\mathbb{E}[\hat u^2 - 1 \mid u] = V_2\, (u^2 - 1)",
                    note="z = 1/g + R, R = E[T/(1 - gT/delta)]; n2 = delta d_eff (d_eff + 1)/2; p_A = 0 where z' >= 0",
                )
            )
        third = self.algorithm.third
        if third.basis == "hermite":
            readout = rf"\varepsilon = \sum_j c_j^2 \left(1 - \rho^{{2j}} 1[j \le {third.degree}]\right)"
        else:
            readout = (
                rf"\varepsilon = \varepsilon_0 - \sum_{{j \le {third.degree}}} \left(\sum_l c_l \rho^l "
                r"\mathbb{E}[\psi_j h_l]\right)^2"
            )
        if math.isfinite(third.samples) or third.ridge:
            readout += r" + \left|G^{-1}\left(\sum (e + \sqrt v\, \xi)\, \psi - n \lambda b\right)\right|^2"
        rows.append(
            Equation("readout", readout, note="c_j = E[g(h) h_j(h/s)]; label noise not included; the median over fits")
        )
        rows += [
            Equation.of(f"c_{j}", f"c_{{{j}}}", sp.Float(float(c), 8))
            for j, c in enumerate(self.link.coefficients[: min(third.degree, 7) + 1])
            if abs(c) > 1e-12
        ]
        if self.refined and self.flattened:
            rows.append(
                Equation(
                    "eigenvector",
                    r"M_b = G_b^2 \left(q_A K_{vb} + \sum_{b'} K_{bb'} f_{b'} M_{b'}\right), \quad "
                    r"q_A + \sum_b f_b M_b = 1, \quad K_{bb'} = \mathbb{E}\left[\frac{z_b^2 z_{b'}^2\, T^2/\delta}"
                    r"{(1 - g_T T/\delta)^2}\right]",
                    note="b: quadratics of one hidden and one other direction, and all others",
                )
            )
        elif self.refined:
            rows.append(
                Equation(
                    "resolvent",
                    r"g_T(z) = \frac{1-\gamma}{z - R} + \gamma \sum_c \frac{f_c\, \mathbb{E}[z_c^2 \mid T]}"
                    r"{z - R - L_c}",
                    note="gamma = d_eff/d; R = E[T/(1 - g_T T d/n1)], L_c = E[(z_c^2 - 1) T/(1 - g_T T d/n1)]",
                )
            )
        if self.refined and self.algorithm.second.estimator == "ridge":
            rows.append(
                Equation(
                    "sample norms",
                    r"g_j = \left(\lambda_j + \mathbb{E}\left[\frac{r_j}{x}\right]\right)^{-1}, \quad "
                    r"x = 1 + \frac1{n_2} \sum_j D_j\, g_j\, r_j",
                    note="r_j = |phi_j(z)|^2/D_j; the estimate's mean and noise follow as in the documentation",
                )
            )
        return rows

    def derivation(self) -> list[Step]:
        pick = picker(self.equations())
        each = range(1, self.k + 1)
        return [
            Step(
                "Stage 1: subspace",
                "The quadratics of x see the feature at second order: (1/n1) sum (T/r) phi phi^T has one spike, whose "
                "eigenvector folds to a matrix with the hidden directions on a semicircle of variance (1 - q_A)/d."
                if self.flattened
                else "M = (1/n1) sum T(y) (x x^T - I) has one spike a hidden direction, sqrt2 tau_1 b_2 a_i/(s sqrt "
                "d_eff), on a semicircle of variance V d/n1: each detaches at its own alpha_c.",
                pick("threshold", "spike", "overlap", "resolvent", "eigenvector"),
            ),
            Step(
                "Stage 2: feature",
                "The leading eigenvector of the label-weighted covariance of the quadratics of the learned subspace is "
                "the learned feature; its sign is not known."
                if self.algorithm.second.estimator == "flattened"
                else "Ridge regression on the orthonormal polynomials of the fitted degrees of the learned subspace. "
                "Degree j represents the share V_j of Var h and, through the orders of the link, the power F_j of the "
                "label; only its first order is correlated with h, and what no degree represents is noise.",
                pick(
                    *(f"share {j}" for j in each), *(f"power {j}" for j in each), "strength",
                    "shared strength", "gain", *(f"gain {j}" for j in each), "df2", "residual", "fresh error", "norm",
                    "feature spike", "correlation", "sample norms",
                ),
            ),
            Step(
                "Stage 3: readout",
                "h and the learned feature are jointly normal unless an order m >= 2 of the link starts at a degree "
                "that stage 2 fits; then Mehler's formula gives the regression, otherwise draws of their law do.",
                pick("readout", *(f"c_{j}" for j in range(8))),
            ),
        ]  # fmt: skip
