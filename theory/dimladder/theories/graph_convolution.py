"""One linear graph convolution on the contextual stochastic block model, trained by ridge regression on part of the
nodes.

N nodes with labels y = +-1 in equal number, adjacency ``A = (lambda/N) y y^T + Xi`` (after centring and scaling;
entries of Xi of variance 1/N), features ``X = sqrt(mu/N) y u^T + Z/sqrt F`` with |u| = 1 and F = N/gamma columns. The
network is ``h = (A + c) X w``; a fraction tau of the nodes trains w by ``(1/(tau N)) sum (h_i - y_i)^2 + (r/N)
|w|^2``: the run file's ``sum (h_i - y_i)^2/2 + (ridge/2) |w|^2`` with ``r = ridge/tau``, or ``r = gamma
ridge_per_sample``. As N -> infinity the risks are those at the stationary point of a free energy of nine scalars,
closed for c = 0. Source: Shi, Pan, Hu & Dokmanic, arXiv:2212.13069; free energy derived in
docs/theory/graph-convolution.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import SolveError
from ..problem import Problem
from ..problem.grids import Simulation
from ..symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .base import Reads, Refusal, Theory

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


RISKS = (
    OrderParameter(
        "test_risk", ("train_fraction",), r"R_{\mathrm{test}}", "mean of (h_i - y_i)^2 over unlabelled nodes"
    ),
    OrderParameter(
        "train_risk", ("train_fraction",), r"R_{\mathrm{train}}", "mean of (h_i - y_i)^2 over labelled nodes"
    ),
    OrderParameter(
        "test_accuracy", ("train_fraction",), r"\mathrm{Acc}", "fraction of unlabelled nodes with sign h_i = y_i"
    ),
)
UNKNOWNS = ("beta", "s", "theta", "Q", "nu", "m", "chi", "q", "k")
# Between these Newton's method meets the stationary point of a self-loop to ten digits.
LEAST_RIDGE, LARGEST_RIDGE = 1e-20, 1e5
POSITIVE = (True, True, True, True, False, False, True, True, False)
CONSTANTS = ("gamma", "mu", "lam", "c", "tau", "r")


def expressions() -> dict[str, Any]:
    """The closed forms of c = 0 and the free energy of any c, in sympy."""
    import sympy as sp

    beta, s, theta, big_q, nu, m, chi, q, k = sp.symbols(" ".join(UNKNOWNS), real=True)
    gamma, mu, lam, c, tau, r = sp.symbols(" ".join(CONSTANTS), real=True)
    shift, field, gain = lam * m - 1, sp.sqrt(mu / gamma) * k, beta / s
    # One labelled and one unlabelled node, minimised over z = (X w)_i and averaged over its Gaussian fields.
    labelled = (
        gain * (big_q + shift**2) / 2
        + chi * (field**2 + q) / 2
        - ((gain * c * shift + nu - chi * field) ** 2 + gain**2 * c**2 * big_q + beta**2 + chi**2 * q)
        / (2 * (gain * c**2 + theta + chi))
    )
    unlabelled = chi * (field**2 + q) / 2 - ((nu - chi * field) ** 2 + beta**2 + chi**2 * q) / (2 * (theta + chi))
    free = (
        beta * s / 2 - beta**2 / 4 + tau * r * q / gamma + tau * labelled + (1 - tau) * unlabelled
        - theta * big_q / 2 - nu * m - chi * (q - k**2) / (2 * gamma)
    )  # fmt: skip
    mean_z, var_z = -(nu - chi * field) / (theta + chi), (beta**2 + chi**2 * q) / (theta + chi) ** 2
    # c = 0: regression on a Gaussian mixture; t is the renormalised ridge.
    t, g = sp.symbols("t g", nonnegative=True)
    overlap = lam**2 * (1 + mu) * g / (1 + (1 + mu) * g)
    return {
        "free_energy": free,
        "test_risk": big_q + c**2 * var_z + (lam * m + c * mean_z - 1) ** 2,
        "train_risk": beta**2 / (4 * tau),
        "margin": lam * m + c * mean_z,
        "spread": big_q + c**2 * var_z,
        "resolvent": sp.Eq(g, 1 / (t + gamma / (1 + g)), evaluate=False),
        "ridge": sp.Eq(r, t * (gamma * tau - 1 + t * g) / (gamma * tau), evaluate=False),
        "overlap": overlap,
    }


class RidgeOnGraph(FixedPoint):
    """Stationary point of the free energy at every train fraction."""

    order_parameters = RISKS
    letters = r"""
    g             :: resolvent of the features' covariance
    t             :: ridge, renormalised
    r             :: ridge in units of the labelled nodes
    \gamma        :: nodes a feature :: data.gamma
    \tau          :: fraction of the nodes that are labelled
    \varphi       :: signal that is seen through the features
    \lambda       :: strength of the communities in the graph :: data.homophily
    \mu           :: strength of the communities in the features :: data.mu
    \psi          :: mean output on a node, in units of its label
    \sigma        :: standard deviation of the output
    d             :: degrees of freedom, over the labelled nodes
    \Phi          :: distribution function of the standard normal
    \mathcal{F}   :: free energy, stationary in its arguments
    c             :: self-loop: weight of a node's own features :: student.self_loop
    \beta, s, \theta, Q, \nu, m, \chi, q, k :: arguments of the free energy
    """

    def equations(self) -> list[Equation]:
        import sympy as sp

        nice = {sp.Symbol("lam", real=True): sp.Symbol("lambda", real=True)}
        e = {k: v.subs(nice) for k, v in expressions().items()}
        student = self.problem.student
        if student.self_loop == 0:
            resolvent, ridge = e["resolvent"], e["ridge"]
            phi = r"\varphi"
            return [
                Equation.of("resolvent", resolvent.lhs, resolvent.rhs, "Marchenko-Pastur"),
                Equation.of("ridge", ridge.lhs, ridge.rhs, "t: renormalised ridge; t = 0 for r = 0, gamma tau > 1"),
                Equation.of("overlap", phi, e["overlap"], "signal seen through the features"),
                Equation(
                    "test_risk",
                    r"R_{\mathrm{test}} = (1-\psi)^2 + \sigma^2,\quad \psi = \varphi/(1+\varphi)",
                ),
                Equation(
                    "spread",
                    r"\sigma^2 = \frac{(t\varphi)' + d}{(1+\varphi)^2(1-d)},\quad d = "
                    r"\frac1\tau\Bigl(\frac{tg}{1+g}\Bigr)'",
                ),
                Equation("train_risk", r"R_{\mathrm{train}} = (r/t)^2 R_{\mathrm{test}}"),
                Equation("test_accuracy", r"\mathrm{Acc} = \Phi(\psi/\sigma)"),
            ]
        accuracy = sp.erfc(-e["margin"] / sp.sqrt(2 * e["spread"])) / 2
        return [
            Equation.of("free_energy", r"\mathcal{F}", e["free_energy"], "stationary in " + ", ".join(UNKNOWNS)),
            Equation.of("test_risk", r"R_{\mathrm{test}}", e["test_risk"]),
            Equation.of("train_risk", r"R_{\mathrm{train}}", e["train_risk"]),
            Equation.of("test_accuracy", r"\mathrm{Acc}", accuracy),
        ]

    def derivation(self) -> list[Step]:
        return [
            Step(
                "Regression on a mixture",
                "Given X, row i of A X is y_i a + S^{1/2} g_i with a = (lambda/N) X^T y and S = X^T X/N: without a "
                "self-loop the nodes are independent "
                "draws of a Gaussian mixture in F dimensions, and the risks follow from the resolvent of a spiked "
                "Wishart matrix.",
            ),
            Step(
                "Self-loop",
                "With c different from 0 a node sees its own features, which also are in X. Two Gaussian "
                "comparisons, for Xi and for Z, "
                "leave one scalar minimisation per labelled and unlabelled node, and a free energy of nine scalars.",
            ),
            Step("Equations", "Stationarity gives the risks.", tuple(self.equations())),
        ]

    def module(self) -> ModuleType:
        from ..symbolic import store

        return store.module(("graph-convolution",), _source)

    def python(self) -> str:
        from ..symbolic import store

        return store.source(self.module())

    def solve(self) -> Solution:
        """Return risks and accuracy at every train fraction; infinite risk at the interpolation threshold gamma tau
        = 1 without ridge.
        """
        import numpy as np

        fractions = self._fractions
        return Solution({"train_fraction": np.array(fractions)}, _named([self.risks(f) for f in fractions]))

    @property
    def _fractions(self) -> tuple[float, ...]:
        return tuple(self.problem.grid.values("train_fraction"))

    # --- what derivatives need ---

    def roots(self) -> Array | None:
        """Return log t without a self-loop, else the nine unknowns, at every train fraction.

        Positive unknowns by their logarithm, nu, m and k in units of theta sqrt(Q), sqrt(Q) and sqrt(q). None without a
        ridge, or with one that is too large for the stationary point.
        """
        import numpy as np

        data, student = self.problem.data, self.problem.student
        rows: list[Any] = []
        for f in self._fractions:
            ridge = self.strength(f)
            if student.self_loop == 0 and ridge > 0:
                rows.append([math.log(renormalised_ridge(data.gamma, f, ridge)[0])])
            elif student.self_loop != 0 and LEAST_RIDGE <= ridge <= LARGEST_RIDGE:
                x, _ = self._stationary(f, ridge)
                rows.append(np.where(POSITIVE, np.log(np.where(POSITIVE, x, 1.0)), x / _scales(x)))
            else:
                return None
        return np.array(rows)

    def residual(self, states: Array) -> Array:
        import numpy as np

        data, found = self.problem.data, []
        for row, f in zip(states, self._fractions, strict=True):
            ridge = self.strength(f)
            if len(row) == 1:
                t = math.exp(row[0])
                found.append([shrinkage(t, data.gamma, f) - ridge / t])
            else:
                x = _unscaled(row)
                found.append(self.module().derivatives(x, self._parameters(f, ridge))[0] * _scales(x))
        return np.array(found)

    def variables(self, states: Array) -> dict[str, Variable]:
        data, found = self.problem.data, []
        for row, f in zip(states, self._fractions, strict=True):
            ridge = self.strength(f)
            if len(row) == 1:
                t = math.exp(row[0])
                found.append(read_without_self_loop(data.gamma, data.mu, data.homophily, f, t, ridge / t)[:3])
            else:
                found.append(self._observed(_unscaled(row), self._parameters(f, ridge)))
        return _named(found)

    def _parameters(self, fraction: float, ridge: float, part: float = 1.0, start: float | None = None) -> Array:
        """Return `CONSTANTS`, a part of the way from `start` and no self-loop to the problem's own."""
        import numpy as np

        data = self.problem.data
        lam = data.homophily if start is None else start + part * (data.homophily - start)
        return np.array([data.gamma, data.mu, lam, part * self.problem.student.self_loop, fraction, ridge])

    def _observed(self, state: Array, p: Array) -> tuple[float, float, float]:
        test, train, margin, spread = self.module().observe(state, p)
        return test, train, _accuracy(margin, spread)

    def strength(self, fraction: float) -> float:
        """The ridge r of the free energy at one train fraction."""
        loss = self.problem.loss
        if loss.ridge_per_sample is not None:
            return float(self.problem.data.gamma * loss.ridge_per_sample)
        return float((loss.ridge or 0.0) / fraction)

    def risks(self, fraction: float) -> tuple[float, float, float]:
        """(test risk, train risk, test accuracy) at one train fraction.

        Raises
        ------
        SolveError
            If Newton's method does not reach the stationary point.
        """
        student = self.problem.student
        data = self.problem.data
        ridge = self.strength(fraction)
        if ridge == 0 and abs(data.gamma * fraction - 1) < 1e-12:
            return math.inf, 0.0, 0.5
        if student.self_loop == 0:
            return without_self_loop(data.gamma, data.mu, data.homophily, fraction, ridge)[:3]
        if ridge < LEAST_RIDGE and data.gamma * fraction < 1:
            # Interpolation without ridge is a boundary of the stationary point: a ridge below rounding stands in.
            test, train, accuracy = self._with_self_loop(fraction, LEAST_RIDGE)
            return test, train * (ridge / LEAST_RIDGE) ** 2, accuracy
        if ridge <= LARGEST_RIDGE:
            return self._with_self_loop(fraction, ridge)
        # The weights, of order 1/ridge, drown in rounding beside the labels. Everything is analytic in 1/ridge.
        import numpy as np

        nodes = np.array([1.0, 2.0, 4.0]) / LARGEST_RIDGE
        values = np.array([self._with_self_loop(fraction, 1 / x) for x in nodes])
        others = [np.delete(nodes, i) for i in range(3)]
        weights = [np.prod((1 / ridge - o) / (x - o)) for x, o in zip(nodes, others, strict=True)]
        test, train, accuracy = np.array(weights) @ values
        return float(test), float(train), float(accuracy)

    def _with_self_loop(self, fraction: float, ridge: float) -> tuple[float, float, float]:
        return self._observed(*self._stationary(fraction, ridge))

    def _stationary(self, fraction: float, ridge: float) -> tuple[Array, Array]:
        """Return the stationary point, followed from that without a self-loop, and the constants there."""
        data, generated = self.problem.data, self.module()
        start = data.homophily if abs(data.homophily) > 0.2 else math.copysign(0.2, data.homophily)
        state = _start(data.gamma, data.mu, start, fraction, ridge)
        done, step = 0.0, 0.25
        while done < 1.0:
            ahead = min(1.0, done + step)
            p = self._parameters(fraction, ridge, ahead, start)
            found = _newton(generated, state, p)
            if found is not None:
                state, done, step = found, ahead, min(2 * step, 1.0)
            else:
                step /= 2
                if step < 1e-4:
                    raise SolveError(
                        "the stationary point of the graph convolution was lost",
                        status="not-converged",
                        where=f"train_fraction = {fraction:g}, self_loop = {p[3]:.3g}, homophily = {p[2]:.3g}",
                        hint="a larger ridge keeps the problem away from its singular points, such as gamma tau = 1",
                    )
        return state, p


def _named(rows: Sequence[tuple[float, float, float]]) -> dict[str, Variable]:
    import numpy as np

    table = np.array(rows)
    return {p.name: Variable(p.dims, table[:, k], p.latex, p.meaning) for k, p in enumerate(RISKS)}


def _accuracy(margin: float, spread: float) -> float:
    return 0.5 * math.erfc(-margin / math.sqrt(2 * spread)) if spread > 0 else float(margin > 0)


def resolvent(t: float, gamma: float) -> tuple[float, float]:
    """g(t) = (1/F) tr(Z^T Z/F + t)^{-1} for t > 0, or t = 0 with gamma > 1; and the root R of g' = -(g^2 + g)/R."""
    b = t + gamma - 1
    root = math.hypot(b, 2 * math.sqrt(t))
    # t g^2 + (t + gamma - 1) g - 1 = 0; the form without cancellation on either side.
    return (2 / (b + root) if b > 0 else (root - b) / (2 * t)), root


def without_self_loop(
    gamma: float, mu: float, lam: float, tau: float, ridge: float
) -> tuple[float, float, float, float, float]:
    """(test risk, train risk, accuracy, psi, variance of h about its mean) for c = 0, up to the one scalar t.

    Every difference of nearly equal numbers is taken by hand, so that ridges of 1e-300 and 1e12 lose no digit.
    """
    return read_without_self_loop(gamma, mu, lam, tau, *renormalised_ridge(gamma, tau, ridge))


def shrinkage(t: float, gamma: float, tau: float) -> float:
    """ridge/t = 1 - (1 - t g)/(gamma tau)."""
    return (gamma * tau - 1 + t * resolvent(t, gamma)[0]) / (gamma * tau)


def renormalised_ridge(gamma: float, tau: float, ridge: float) -> tuple[float, float]:
    """Return t and ridge/t for c = 0."""
    from ..numerics.scalars import find_root

    # Without ridge t is 0 above the interpolation threshold, and here below it.
    bare = (1 - tau) * (1 / tau - gamma)
    if ridge == 0:
        return (bare, 0.0) if bare > 0 else (0.0, shrinkage(0.0, gamma, tau))
    # ridge < t < ridge + 1/tau, because shrinkage < 1 and t g/(1 + g) < t/(1 + t).
    low, high = max(ridge, bare), ridge + 1 / tau
    t = math.exp(
        find_root(
            lambda log_t: shrinkage(math.exp(log_t), gamma, tau) - ridge / math.exp(log_t),
            math.log(low) - 1e-12, math.log(high) + 1e-12, xtol=1e-15, rtol=1e-14,
        )
    )  # fmt: skip
    return t, ridge / t


def read_without_self_loop(
    gamma: float, mu: float, lam: float, tau: float, t: float, ratio: float
) -> tuple[float, float, float, float, float]:
    """Return what `without_self_loop` does, from t and ratio = ridge/t."""
    g, root = resolvent(t, gamma)
    # (t g)'/g^2: both sides of the quadratic of g differentiated, without the cancellation at large t, where g ~ 1/t.
    moved = gamma / ((1 + g) * root * g)
    loads = 1 + (1 + mu) * g
    # phi and psi in units of g, (t phi)', d and the spread in units of g^2: at large ridge all of these are tiny.
    phi = lam**2 * (1 + mu) / loads
    phi_moved = lam**2 * (1 + mu) * (moved + 1 + mu) / loads**2
    freedom = (moved + 1) / ((1 + g) ** 2 * tau)
    left = ratio + t * moved * g * g / (gamma * tau)  # 1 - d
    spread = (phi_moved + freedom) / ((1 + g * phi) ** 2 * left)
    psi = phi / (1 + g * phi)
    test = spread * g * g + 1 / (1 + g * phi) ** 2
    return test, ratio**2 * test, _accuracy(psi, spread), psi * g, spread * g * g


def _start(gamma: float, mu: float, lam: float, tau: float, ridge: float) -> Array:
    """The nine unknowns at c = 0, from the closed form."""
    import numpy as np

    test, train, _, psi, big_q = without_self_loop(gamma, mu, lam, tau, ridge)
    m = psi / lam
    shift = lam * m - 1
    beta, s = 2 * math.sqrt(tau * train), math.sqrt(tau * test)
    theta = tau * beta / s
    nu = theta * lam * shift
    k = m * math.sqrt(mu * gamma) / (1 + mu)
    chi = -(1 + mu) * (nu + m * theta) / m
    q = ((big_q - m**2) * (theta + chi) ** 2 - beta**2) / chi**2
    return np.array([beta, s, theta, big_q, nu, m, chi, q, k])


def _scales(x: Array) -> Array:
    """Return the size of every unknown; they differ by many orders of magnitude when the ridge is tiny.

    nu, m and k change sign where c = -lambda.
    """
    import numpy as np

    beta, s, theta, big_q, _, _, chi, q, _ = np.abs(x)
    return np.array([beta, s, theta, big_q, theta * math.sqrt(big_q), math.sqrt(big_q), chi, q, math.sqrt(q)])


def _unscaled(row: Array) -> Array:
    """Return the nine unknowns of the coordinates in which `RidgeOnGraph.roots` gives them."""
    import numpy as np

    x = np.where(POSITIVE, np.exp(np.where(POSITIVE, row, 0.0)), 0.0)
    return np.where(POSITIVE, x, row * _scales(x))


def _newton(generated: ModuleType, state: Array, p: Array) -> Array | None:
    """Stationary point near `state`, or None."""
    import numpy as np

    x = state.copy()
    for _ in range(40):
        slope, curvature = generated.derivatives(x, p)
        scale = _scales(x)
        system = curvature * scale[:, None] * scale[None, :]
        rows = np.abs(system).max(axis=1)
        if not np.all(np.isfinite(system)) or np.any(rows == 0):
            return None
        try:
            step = scale * np.linalg.solve(system / rows[:, None], -slope * scale / rows)
        except np.linalg.LinAlgError:
            return None
        size = float(np.max(np.abs(step) / scale))
        x = x + step * min(1.0, 0.5 / size if size > 0 else 1.0)
        if x[1] <= 0 or x[3] <= 0 or x[7] <= 0:
            return None
        if size < 1e-11:
            return x
    return x if size < 1e-8 else None


def _source() -> str:
    """Print the gradient and the Hessian of the free energy, and the observables."""
    import sympy as sp

    from ..symbolic.printing import HEADER, assignments

    e = expressions()
    unknowns = sp.symbols(" ".join(UNKNOWNS), real=True)
    gradient = [sp.diff(e["free_energy"], u) for u in unknowns]
    pairs = [(i, j) for i in range(len(unknowns)) for j in range(i + 1)]
    hessian = [sp.diff(gradient[i], unknowns[j]) for i, j in pairs]
    load = [f"    {', '.join(UNKNOWNS)} = x", f"    {', '.join(CONSTANTS)} = p"]
    # The prefix must not collide with the unknown s.
    shared, values = assignments([*gradient, *hessian], prefix="w_")
    lines = [HEADER.format(title="Free energy of a graph convolution: derivatives and observables")]
    lines += [
        "",
        "def derivatives(x, p):",
        *load,
        *shared,
        "    slope = np.empty(9)",
        "    curvature = np.empty((9, 9))",
    ]
    lines += [f"    slope[{i}] = {v}" for i, v in enumerate(values[: len(unknowns)])]
    lines += [
        f"    curvature[{i}, {j}] = curvature[{j}, {i}] = {v}"
        for (i, j), v in zip(pairs, values[len(unknowns) :], strict=True)
    ]
    lines += ["    return slope, curvature", "", ""]
    shared, values = assignments([e[n] for n in ("test_risk", "train_risk", "margin", "spread")], prefix="w_")
    lines += ["def observe(x, p):", *load, *shared, f"    return {', '.join(values)}"]
    return "\n".join(lines) + "\n"


class GraphConvolutionTheory(Theory):
    """Homophily and double descent."""

    name = "graph-convolution"
    title = "One graph convolution on the contextual stochastic block model"
    summary = (
        "Ridge regression on convolved node features: risks and accuracy against the labelled fraction, with "
        "double descent at gamma tau = 1."
    )
    reads: ClassVar[Reads] = {
        "data": {"block-model": "gamma mu homophily"},
        "student": {"graph-convolution": "self_loop"},
        "loss": "function ridge ridge_per_sample",
        "algorithm": {"minimise": ""},
    }
    coordinates: ClassVar = {"train_fraction": (r"labelled fraction $\tau$", "")}
    axes = ("train_fraction",)
    simulation = Simulation(sizes=(400, 800, 1600), replicas=8)
    references = ("shi2024homophily",)
    assumptions = (
        "N, F -> infinity at gamma = N/F; labels in equal number; dense graph, so that the adjacency noise is Gaussian",
        "the adjacency is not symmetric in the Gaussian model; the published work finds the symmetric one alike",
        "squared loss, one linear layer",
    )
    limits = (
        "gamma tau = 1 without ridge: the risk diverges",
        "mu = 0: only the graph tells the classes apart",
        "self_loop = 0: the sign of the homophily does not matter",
    )

    def checks(self, problem: Problem) -> Iterable[Refusal]:
        """Refuse another loss, an optimal ridge, and a fraction that leaves nothing to train on or to test on."""
        if problem.loss.function != "square":
            yield Refusal("loss.function", f"the squared loss, got {problem.loss.function!r}")
        for key in ("ridge", "ridge_per_sample"):
            if isinstance(getattr(problem.loss, key), str):
                yield Refusal(f"loss.{key}", f"a number, got {getattr(problem.loss, key)!r}")
        if any(not v < 1 for v in problem.grid.values("train_fraction")):
            yield Refusal("grid.train_fraction", "numbers between 0 and 1, both excluded")

    def derive(self, problem: Problem) -> RidgeOnGraph:
        """Return the stationarity conditions."""
        return RidgeOnGraph(problem)


THEORY = GraphConvolutionTheory()
