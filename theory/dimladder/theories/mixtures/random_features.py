"""Isotropic random features with a ridge readout, in the proportional limit: one scalar equation and closed forms.

Source: Mei & Montanari 2022; the form used here follows from the deterministic equivalent of ridge regression on
features whose covariance is that of the Gaussian equivalent mu1 W x + mu* g (Goldt et al. 2022, Hu & Lu 2023).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from ...errors import SolveError
from ...problem import Expression, Problem, activation
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from ..base import Reads, Refusal, Theory


@lru_cache(maxsize=1)
def symbolic() -> dict[str, Any]:
    """The equations in sympy: the fixed point, its elimination to one unknown, and the errors.

    Expectations over the Marchenko-Pastur law x of W W^T reduce to G = E 1/(om + z), om = mu1^2 x + mu*^2:
    E om/(om + z) = 1 - z G, E x/(om + z) = tau G, and derivatives in z of these.
    """
    import sympy as sp

    z, G, tau = sp.symbols("z G tau", positive=True)
    psi, alpha, ridge, mu1, mustar2, c1, vary = sp.symbols("psi alpha Lambda mu1 mustar2 c1 vary", real=True)
    g_rhs = 1 / (z + mustar2 + mu1**2 * tau)
    tau_rhs = 1 / (1 + psi * mu1**2 * G)
    z_rhs = ridge + z * psi / alpha * (1 - z * G)
    # G solves a quadratic; its positive root in the two forms that are free of cancellation.
    a = psi * mu1**2 * (z + mustar2)
    b = z + mustar2 + mu1**2 * (1 - psi)
    root = sp.sqrt(b**2 + 4 * a)
    g_explicit = sp.Piecewise((2 / (b + root), b > 0), ((root - b) / (2 * a), True))
    # dG/dz from its two equations, by implicit differentiation.
    dG, dtau = sp.symbols("dG dtau")
    slopes = sp.solve(
        [
            dG - (sp.diff(g_rhs, z) + sp.diff(g_rhs, tau) * dtau).subs(1 / (z + mustar2 + mu1**2 * tau), G),
            dtau - (sp.diff(tau_rhs, G) * dG).subs(1 / (1 + psi * mu1**2 * G), tau),
        ],
        [dG, dtau],
        dict=True,
    )[0]
    derivative = {k: sp.simplify(v) for k, v in slopes.items()}
    amplitude = mu1**2 * c1**2 * psi
    freedom2 = psi / alpha * (1 - 2 * z * G - z**2 * dG)
    learnt = tau * G
    learnt_slope = dtau * G + tau * dG
    bias = vary - 2 * amplitude * learnt + amplitude * (learnt + z * learnt_slope)
    test = sp.Symbol("test_error")
    return {
        "z": z,
        "G": G,
        "tau": tau,
        "dG": dG,
        "dtau": dtau,
        "parameters": (psi, alpha, ridge, mu1, mustar2, c1, vary),
        "z_rhs": z_rhs,
        "G_rhs": g_rhs,
        "tau_rhs": tau_rhs,
        "G_explicit": g_explicit,
        "derivative": derivative,
        "bias": bias,
        "freedom2": freedom2,
        "test": sp.Symbol("B") / (1 - sp.Symbol("df2")),
        "train": (ridge / z) ** 2 * test,
    }


_LATEX = {
    "psi": r"\psi",
    "alpha": r"\alpha",
    "Lambda": r"\Lambda",
    "mu1": r"\mu_1",
    "mustar2": r"\mu_\star^2",
    "c1": "c_1",
    "vary": r"\operatorname{Var} y",
    "dG": "G'",
    "dtau": r"\tau'",
    "tau": r"\tau",
    "z": "z",
    "G": "G",
    "B": "B",
    "df2": r"\mathrm{df}_2",
    "test_error": r"\mathcal{E}_{\mathrm{test}}",
}


def _source() -> str:
    from ...symbolic.printing import HEADER, assignments

    s = symbolic()
    load = [f"    {symbol} = p[{k}]" for k, symbol in enumerate(s["parameters"])]
    signature = "types.float64(types.float64, types.float64[::1])"
    lines = [HEADER.format(title="Random features with a ridge readout: fixed point in z and errors."), ""]
    # Piecewise guards a division that its other branch would not survive: written as a branch, by hand.
    first, second = s["G_explicit"].args[0][0], s["G_explicit"].args[1][0]
    condition = s["G_explicit"].args[0][1]
    lines += [f"@njit({signature}, cache=True)", "def stieltjes(z, p):", *load]
    lines += [f"    if {assignments([condition.lhs - condition.rhs])[1][0]} > 0.0:"]
    for expression, indent in ((first, "        "), (second, "    ")):
        steps, values = assignments([expression])
        lines += [indent + step.strip() for step in steps] + [f"{indent}return {values[0]}"]
    steps, values = assignments([s["z"] - s["z_rhs"]])
    lines += ["", "", f"@njit({signature}, cache=True)", "def residual(z, p):", *load, "    G = stieltjes(z, p)"]
    lines += [*steps, f"    return {values[0]}"]
    lines += ["", "", "@njit(types.float64[::1](types.float64, types.float64[::1]), cache=True)", "def observe(z, p):"]
    lines += [*load, "    G = stieltjes(z, p)"]
    for name, expression in (
        ("tau", s["tau_rhs"]),
        ("dG", s["derivative"][s["dG"]]),
        ("dtau", s["derivative"][s["dtau"]]),
        ("B", s["bias"]),
        ("df2", s["freedom2"]),
        ("test_error", s["test"]),
        ("train_error", s["train"]),
    ):
        steps, values = assignments([expression], prefix=f"{name}_")
        lines += [*steps, f"    {name} = {values[0]}"]
    lines += ["    return np.array([test_error, train_error, z, B, df2])"]
    return "\n".join(lines) + "\n"


def feature_constants(problem: Problem) -> dict[str, float]:
    """mu0, mu1, mu*^2 of the activation and E y, c1, E y^2 of the labels, at unit scale."""
    from ...symbolic.hermite_moments import profile

    sigma = profile(activation(problem.student.layers[0].activation), 0.0, 1.0, 1)
    link: Expression = problem.target.expression
    label = profile(link, 0.0, 1.0, 1)
    mu0, mu1 = (float(c) for c in sigma.coefficients[:, 0])
    c0, c1 = (float(c) for c in label.coefficients[:, 0])
    second = float(sigma.second[0])
    rest = second - mu0**2 - mu1**2
    return {
        "mu0": mu0 if abs(mu0) > 1e-13 else 0.0,
        "mu1": mu1 if abs(mu1) > 1e-13 else 0.0,
        "mustar2": rest if rest > 1e-13 * second else 0.0,
        "c0": c0,
        "c1": c1,
        "second": float(label.second[0]) + problem.target.noise**2,
    }


def _module() -> ModuleType:
    from ...symbolic import store

    return store.module(("random-features", 1), _source)


def ridge_errors(
    psi: float, alpha: float, ridge: float, mu1: float, mustar2: float, c1: float, vary: float
) -> np.ndarray:
    """Test error, training error, effective ridge z, squared bias and second degrees of freedom.

    Parameters
    ----------
    psi, alpha : float
        k/n and m/n.
    ridge : float
        Lambda = k lambda.
    mu1, mustar2 : float
        Linear coefficient and squared remainder of the activation.
    c1 : float
        Length of the part of the target that is linear in the bulk.
    vary : float
        Variance of the labels that is not learnt for free.

    Raises
    ------
    SolveError
        If the effective ridge cannot be bracketed.
    """
    from ...numerics.fixedpoint import bisect_geometric

    module = _module()
    p = np.array([psi, alpha, ridge, mu1, mustar2, c1, vary])
    # z lies between Lambda and Lambda + (psi/alpha) E om.
    high = ridge + psi / alpha * (mu1**2 + mustar2)
    try:
        z = ridge if high == ridge else bisect_geometric(lambda t: module.residual(t, p), ridge, high * (1 + 1e-12))
    except ValueError as error:
        raise SolveError(
            "the renormalised ridge was not bracketed",
            status="no_bracket",
            where=f"sample_ratio = {alpha:g}",
            why=str(error),
            hint="raise loss.ridge_per_sample",
        ) from error
    return np.asarray(module.observe(z, p))


class RandomFeaturesSystem(FixedPoint):
    """The scalar fixed point z = Lambda + z (psi/alpha)(1 - z G(z)) and its closed-form errors."""

    order_parameters = (
        OrderParameter("effective_ridge", ("sample_ratio",), "z", "k times the renormalised ridge zeta"),
        OrderParameter(
            "test_mse", ("sample_ratio",), r"\mathcal{E}_{\mathrm{test}}", "mean squared error of fresh labels"
        ),
        OrderParameter(
            "train_mse",
            ("sample_ratio",),
            r"\mathcal{E}_{\mathrm{train}}",
            "mean squared training error, without penalty",
        ),
    )

    def module(self) -> ModuleType:
        return _module()

    def python(self) -> str:
        from ...symbolic.store import source

        return source(self.module())

    def equations(self) -> list[Equation]:
        import sympy as sp

        s = symbolic()
        names = {symbol: _LATEX[str(symbol)] for e in s.values() for symbol in getattr(e, "free_symbols", set())}
        names |= {s[k]: _LATEX[k] for k in ("z", "G", "tau", "dG", "dtau")}

        def row(label: str, lhs: Any, rhs: Any, note: str = "") -> Equation:
            return Equation.of(label, lhs, rhs, note, symbol_names=names)

        return [
            row("effective_ridge", s["z"], s["z_rhs"]),
            row("G", s["G"], s["G_rhs"], "G = E 1/(mu1^2 x + mu*^2 + z), x Marchenko-Pastur with ratio psi"),
            row("tau", s["tau"], s["tau_rhs"]),
            row("dG", s["dG"], s["derivative"][s["dG"]]),
            row("dtau", s["dtau"], s["derivative"][s["dtau"]]),
            row("B", sp.Symbol("B"), s["bias"], "squared bias"),
            row("df2", sp.Symbol("df2"), s["freedom2"], "second degrees of freedom over the samples"),
            row("test_mse", r"\mathcal{E}_{\mathrm{test}}", s["test"]),
            row("train_mse", r"\mathcal{E}_{\mathrm{train}}", s["train"]),
        ]

    def derivation(self) -> list[Step]:
        rows = {e.label: e for e in self.equations()}
        k = feature_constants(self.problem)
        return [
            Step(
                "Gaussian equivalent",
                "The features sigma(W x) have the training and test errors of mu0 + mu1 W x + mu* g with fresh "
                "Gaussian g. "
                f"Here mu0 = {k['mu0']:.6g}, mu1 = {k['mu1']:.6g}, mu*^2 = {k['mustar2']:.6g}; the labels have c1 = "
                f"{k['c1']:.6g} and E y^2 = {k['second']:.6g}. "
                + (
                    "The constant is learnt for free, so that only Var y counts."
                    if k["mu0"]
                    else "The features are centred: the mean of the labels cannot be learnt, so that E y^2 counts."
                ),
            ),
            Step(
                "Renormalised ridge",
                "Ridge regression acts as population regression with the ridge z.",
                (rows["effective_ridge"], rows["G"], rows["tau"]),
            ),
            Step(
                "Errors",
                "Derivatives in z give the variance; training error = (Lambda/z)^2 test error.",
                (rows["dG"], rows["dtau"], rows["B"], rows["df2"], rows["test_mse"], rows["train_mse"]),
            ),
        ]

    def solve(self) -> Solution:
        problem, k = self.problem, feature_constants(self.problem)
        vary = k["second"] - k["c0"] ** 2 if k["mu0"] else k["second"]
        ratios = np.array(problem.grid.values("sample_ratio"))
        psi, ridge = problem.student.layers[0].width_ratio, problem.loss.ridge_per_sample
        rows = np.array([ridge_errors(psi, ratio, ridge, k["mu1"], k["mustar2"], k["c1"], vary) for ratio in ratios])
        names = (
            ("test_mse", r"\mathcal{E}_{\mathrm{test}}", "mean squared error of fresh labels"),
            ("train_mse", r"\mathcal{E}_{\mathrm{train}}", "mean squared error on the training set, without penalty"),
            ("effective_ridge", "z", "k times the renormalised ridge"),
            ("bias", "B", "squared bias"),
            ("degrees_of_freedom", r"\mathrm{df}_2", "second degrees of freedom / samples"),
        )
        variables = {
            n: Variable(("sample_ratio",), rows[:, j], latex, meaning) for j, (n, latex, meaning) in enumerate(names)
        }
        variables["label_variance"] = Variable(
            (), np.array(vary), r"\operatorname{Var} y", "error of the best constant the model can learn"
        )
        variables["interpolation_threshold"] = Variable(
            (),
            np.array(problem.student.layers[0].width_ratio),
            r"\alpha_\star",
            "sample ratio of the interpolation peak as the ridge vanishes, m = k",
        )
        return Solution({"sample_ratio": ratios}, variables)


class RandomFeaturesTheory(Theory):
    name = "random-features"
    title = "Random features with ridge, proportional limit"
    summary = (
        "Exact training and test errors of ridge regression on isotropic random features of a single-index target."
    )
    reads: ClassVar[Reads] = {
        "data": {"gaussian": ""},
        "target": {"index": "formula noise hermite"},
        "student": {"features": "layers"},
        "loss": "function ridge_per_sample",
        "algorithm": {"minimise": ""},
    }
    axes = ("sample_ratio",)
    references = ("meimontanari2022generalization", "goldt2022gaussian", "hulu2023universality")
    assumptions = (
        "inputs N(0, I_n); n, k, m go to infinity with fixed ratios; k times the ridge is fixed",
        "the activation has finite second moments; the link may be anything square integrable",
    )
    limits = (
        "mu1 = 0: nothing is learnt beyond the mean",
        "Lambda to 0 with m < k: the training error vanishes; the test error peaks at m = k",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse more than one layer, more than one field, and what is no ridge regression."""
        layers, target, loss = problem.student.layers, problem.target, problem.loss
        if len(layers) != 1 or layers[0].width_ratio is None:
            yield Refusal("student.layers", "one layer of random features with its width_ratio = k/d")
        if target.fields != ("z",) or target.noises or target.is_logit:
            why = f"a function of one field z, with additive noise only, got {target.formula!r}"
            yield Refusal("target.formula", why)
        if loss.function != "square":
            yield Refusal("loss.function", f"ridge regression, got {loss.function!r}")
        if not isinstance(loss.ridge_per_sample, float) or loss.ridge_per_sample <= 0:
            why = f"a positive number (a small one for ridgeless), got {loss.ridge_per_sample!r}"
            yield Refusal("loss.ridge_per_sample", why)

    def derive(self, problem: Problem) -> RandomFeaturesSystem:
        system = RandomFeaturesSystem(problem)
        system.references, system.assumptions = self.references, self.assumptions
        return system


THEORY = RandomFeaturesTheory()
