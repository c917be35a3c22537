"""The system of the giant-step theory: equations, and their evaluation over draws of the first layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DomainError
from ...problem import Problem, activation
from ...problem.clusters import Clusters
from ...problem.data import Images
from ...problem.one_step import (
    DRAWS,
    Network,
    batch_sizes,
    dimension,
    draw,
    mixture,
    polynomial_degree,
    readout_ridge,
    samples,
    step,
    width,
)
from ...problem.targets import ClusterLabels
from ...symbolic.hermite_moments import PolynomialModel, polynomial_model
from ...symbolic.systems import Equation, FixedPoint, OrderParameter, Solution, Step, Variable
from .degrees import Signal, needed_degree
from .equivalents import RidgeErrors, many_bulks, one_bulk
from .features import FeatureMoments, LabelLaw, feature_moments, label_law

Array = NDArray[np.float64]


class GiantStepSystem(FixedPoint):
    """Deterministic equivalents of the readout, given the first layer after the step."""

    letters = r"""
    F             :: first layer at its start
    \hat F        :: first layer after the step
    G             :: gradient
    \eta          :: size of the step
    \vartheta     :: strength of the spikes in the inputs
    \theta, \theta_c :: average of $y\varphi$, over all samples or in a cluster
    n             :: dimension of the input :: limit.n
    \alpha        :: share of the exponent that the step has :: algorithm.split
    \beta         :: exponent of step and spikes together :: algorithm.total
    \bar a        :: mean of the readouts at the start
    w             :: weights of the readout; readouts at the start where it stands in the spike
    v             :: direction of the spike
    \Delta        :: rest of the gradient
    \tilde X, \tilde y :: batch of the step and its labels
    m             :: samples of the readout
    k             :: width
    b             :: standard deviation of a pre-activation
    h_j           :: Hermite coefficients of the activation
    h_{\star}     :: size of what the polynomial model takes for noise
    \sigma        :: activation
    Z             :: standard Gaussian
    \ell          :: degree of the polynomial model
    j             :: degrees
    c, c'         :: clusters
    \rho_c        :: share of a cluster
    \varphi       :: features
    y             :: label
    \Omega, \Omega_c :: second moments of the features
    \zeta, \zeta_c :: ridge, renormalised
    \lambda       :: ridge of the readout :: loss.ridge or loss.ridge_per_sample
    B, B_c        :: squared error without the noise of the fit
    e_c           :: second moment of the label in a cluster
    S             :: resolvent of the features
    T_{cc'}       :: how the noise of one cluster reaches another
    E_c, E^{\mathrm{train}}_c :: error in a cluster, on fresh points and on the readout's sample
    \mathrm{df}_2 :: second degrees of freedom, over the samples
    q, q'         :: clusters with the projections on spikes and target
    \mu_q, \Omega_q, \rho_q, \zeta_q, E_q, B_q, y_q :: the same, given cluster and projections
    a_q, s, \kappa_q :: means, deviations and projections of pre-activations
    c_0, c_p      :: Hermite coefficients of the activation, unit by unit
    p             :: degrees
    r             :: correlations of the units' pre-activations
    R             :: resolvent of the readout's Hessian
    \hat V        :: curvature that the samples give the readout
    V             :: response of the output
    f             :: force of a sample on the output
    \mathcal{M}_V :: Moreau envelope of the loss
    \xi           :: standard Gaussian
    \mathbb{E}_{\xi} :: average over $\xi$
    \mathrm{He}_0 :: Hermite polynomial of leading coefficient 1
    \Phi          :: distribution function of the standard normal
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        # Names of the errors: classification errors for the losses of labels -1 and +1.
        self.classifies = problem.loss.form.name != "square" and problem.loss.form.two_valued
        self.test, self.train = ("classification_error", "train_classification_error") if self.classifies else (
            "test_mse", "train_mse"
        )  # fmt: skip
        self.test_hermite, self.train_hermite = f"{self.test}_hermite", f"{self.train}_hermite"
        self.order_parameters = self._order_parameters()

    def _order_parameters(self) -> tuple[OrderParameter, ...]:
        grid = ("sample_ratio",)
        kind = "probability of a wrong sign" if self.classifies else "mean squared error"
        rows = [
            OrderParameter(self.test, grid, r"\mathcal{E}_{\mathrm{test}}", f"{kind} on fresh points"),
            OrderParameter(
                self.train, grid, r"\mathcal{E}_{\mathrm{train}}", f"{kind} on the readout's sample, without penalty"
            ),
            OrderParameter(
                "penalty", grid, r"\mathcal{P}", "(ridge/2)|w|^2 of the fitted readout, the other part of its objective"
            ),
            OrderParameter(
                "train_objective",
                grid,
                r"\mathcal{L}_{\mathrm{train}} + \mathcal{P}",
                "what the readout minimises: mean loss on its sample (half the squared error) and penalty",
            ),
            OrderParameter(
                self.test_hermite, grid, r"\mathcal{E}_{\mathrm{test}}^{(\ell)}", f"{kind} of the polynomial model"
            ),
            OrderParameter(
                "relative_error",
                grid,
                r"\mathcal{E}_{\mathrm{test}}/\operatorname{Var} y",
                "test error over that of the best constant",
            ),
        ]
        if self.problem.loss.form.name != "square":
            rows += [
                OrderParameter("test_loss", grid, r"\mathcal{L}_{\mathrm{test}}", "mean loss on fresh points"),
                OrderParameter(
                    "train_loss", grid, r"\mathcal{L}_{\mathrm{train}}", "mean loss on the readout's sample"
                ),
            ]
        return (
            *rows,
            OrderParameter(
                "step_overlap",
                grid,
                r"\cos^2(v, \xi)",
                "squared cosine of the gradient's spike and the target direction",
            ),
            OrderParameter("hermite_degree", (), r"\ell", "degree of the polynomial model"),
            OrderParameter("hermite_degree_needed", (), r"\ell_\star", "degree that the exponents need"),
        )

    # --- ingredients ---

    def data(self) -> Clusters:
        """The clusters at the problem's n."""
        return mixture(self.problem, dimension(self.problem))

    def polynomial(self, data: Clusters) -> PolynomialModel:
        """The equivalent polynomial at the bulk scale b = sqrt(n/tr Sigma)."""
        return polynomial_model(self._activation, polynomial_degree(self.problem.algorithm), data.bulk_scale)

    @property
    def _activation(self) -> Any:
        return activation(self.problem.student.layers[0].activation)

    def degrees(self) -> tuple[int, int]:
        """(degree of the polynomial model, degree needed by the sharper rule)."""
        algorithm, target, data = self.problem.algorithm, self.problem.target, self.problem.data
        signal: Signal = "clusters"
        if not isinstance(target, ClusterLabels):
            signal = "random" if target.direction == "random" else "aligned"
        return polynomial_degree(algorithm), needed_degree(
            algorithm.total, algorithm.split, signal, isinstance(data, Images) or _spiked(data)
        )

    def shares_bulk(self) -> bool:
        """Whether all clusters have the same bulk spectrum."""
        if isinstance(self.problem.data, Images):
            return False
        rows = self.problem.data.eigenvalues()
        return all(row == rows[0] for row in rows)

    # --- evaluation ---

    @property
    def conditional(self) -> bool:
        """Whether readouts are solved given the distinguished projections."""
        return self.problem.loss.form.name != "square" or self.problem.algorithm.equivalent == "conditional"

    @property
    def one_bulk(self) -> bool:
        """Whether all clusters are taken to share their bulk."""
        choice = self.problem.algorithm.equivalent
        return choice == "one-bulk" or (choice == "auto" and self.shares_bulk())

    def ridge(self, moments: FeatureMoments, weights: Array, count: int, ridge: float) -> RidgeErrors:
        """Deterministic equivalent of the ridge readout."""
        method = one_bulk if self.one_bulk else many_bulks
        return method(moments.omegas, moments.thetas, moments.seconds, weights, count, ridge)

    def evaluate(self, data: Clusters, law: LabelLaw, net: Network, count: int) -> dict[str, float]:
        """Errors of network and polynomial model for one stepped first layer."""
        problem = self.problem
        sigma, model = self._activation, self.polynomial(data)
        found: dict[str, float] = {}
        if self.conditional:
            from .conditional import conditional_errors

            found |= conditional_errors(problem, data, net, sigma, count, None)
            polynomial = conditional_errors(problem, data, net, sigma, count, model)
            found |= {self.test_hermite: polynomial[self.test], self.train_hermite: polynomial[self.train]}
        else:
            ridge = readout_ridge(problem, count, data.n)
            errors, polynomial_errors = (
                self.ridge(feature_moments(problem, data, net.stepped, sigma, law, m), data.weights, count, ridge)
                for m in (None, model)
            )
            found |= {self.test: errors.test, self.train: errors.train, "penalty": 0.5 * ridge * errors.norm}
            found |= {self.test_hermite: polynomial_errors.test, self.train_hermite: polynomial_errors.train}
        loss = found["train_loss"] if "train_loss" in found else 0.5 * found["train_mse"]
        found["train_objective"] = loss + found["penalty"]
        found["relative_error"] = found[self.test] / self.baseline(data, law)
        if data.target is not None:
            found["step_overlap"] = float(
                (net.spike @ data.target) ** 2 / (net.spike @ net.spike) / (data.target @ data.target)
            )
        return found

    def baseline(self, data: Clusters, law: LabelLaw) -> float:
        """Error of the best constant predictor: Var y, or the smaller class probability.

        Raises
        ------
        DomainError
            If the labels are constant: there is nothing to learn, and no scale for the errors.
        """
        mean, second = float(data.weights @ law.means), float(data.weights @ law.seconds)
        found = min(0.5 * (1 + mean), 0.5 * (1 - mean)) if self.classifies else second - mean**2
        if found <= 1e-14 * second:
            raise DomainError(
                "all labels are equal",
                where="target, data.weights",
                why=f"their variance is {second - mean**2:.2g} at a mean square of {second:.3g}",
                hint="use a formula that depends on z, target.noise, or two clusters of positive weight",
            )
        return found

    def limit_errors(self) -> Array | None:
        """Errors as n grows at fixed k * ridge, shape (2, sample_ratio), where a formula is known: isotropic data,
        beta < 1."""
        problem = self.problem
        data, algorithm = problem.data, problem.algorithm
        if isinstance(data, Images) or isinstance(problem.target, ClusterLabels) or problem.loss.form.name != "square":
            return None
        isotropic = (
            not _spiked(data) and data.means == "zero" and all(e == 1.0 for row in data.eigenvalues() for e in row)
        )
        if not isotropic or algorithm.total * algorithm.split >= 1:
            return None
        from .degrees import surviving_monomials
        from .limits import one_step_limit

        kept = (
            surviving_monomials(algorithm.total, algorithm.split, "random", spiked=False)
            if algorithm.rate_factor
            else []
        )
        degree = max([b for _, b in kept], default=0)
        n = dimension(problem)
        rows = [
            one_step_limit(
                self._activation,
                problem.target.expression,
                psi=problem.student.layers[0].width_ratio,
                alpha=ratio,
                ridge=readout_ridge(problem, count, n) * width(problem, n),
                degree=degree,
                batch_ratio=algorithm.batch_ratio,
                noise=problem.target.noise,
            )
            for ratio, count in zip(problem.grid.values("sample_ratio"), samples(problem, n), strict=True)
        ]
        return np.array(rows).T

    def solve(self) -> Solution:
        problem = self.problem
        n, ratios = dimension(problem), np.array(problem.grid.values("sample_ratio"))
        data = self.data()
        law = label_law(problem, data)
        rows: list[list[dict[str, float]]] = []
        for index in range(problem.limit.draws or DRAWS):
            stream = np.random.default_rng(np.random.SeedSequence(problem.limit.seed, spawn_key=(index,)))
            drawn = draw(problem, data, stream)
            pairs = zip(samples(problem, n), batch_sizes(problem, n), strict=True)
            rows.append([self.evaluate(data, law, step(problem, drawn, batch), count) for count, batch in pairs])
        meaning = {p.name: p for p in self.order_parameters}
        variables: dict[str, Variable] = {}
        for name in rows[0][0]:
            table = np.array([[entry[name] for entry in row] for row in rows])
            p = meaning.get(name)
            variables[name] = Variable(
                ("sample_ratio",), table.mean(axis=0), p.latex if p else "", p.meaning if p else name.replace("_", " ")
            )
            if len(rows) > 1:
                error = table.std(axis=0, ddof=1) / math.sqrt(len(rows))
                variables[f"{name}_se"] = Variable(
                    ("sample_ratio",), error, long_name=f"standard error of {name} over draws"
                )
        chosen, needed = self.degrees()
        variables["hermite_degree"] = Variable((), np.array(float(chosen)), r"\ell", "degree of the polynomial model")
        variables["hermite_degree_needed"] = Variable(
            (), np.array(float(needed)), r"\ell_\star", "degree that the exponents need"
        )
        variables["label_variance"] = Variable(
            (), np.array(self.baseline(data, law)), r"\operatorname{Var} y", "error of the best constant"
        )
        limit = self.limit_errors()
        if limit is not None:
            variables["test_mse_limit"] = Variable(
                ("sample_ratio",), limit[0], r"\mathcal{E}_{\infty}", "test error as n grows (isotropic data)"
            )
            variables["train_mse_limit"] = Variable(
                ("sample_ratio",), limit[1], "", "training error as n grows (isotropic data)"
            )
        message = (
            ""
            if chosen >= needed
            else (
                f"the polynomial model has degree {chosen}, the exponents need {needed}: expect "
                f"{self.test_hermite} to differ"
            )
        )
        if isinstance(problem.data, Images):
            note = "images are not a Gaussian mixture: compare with the experiment before trusting the curve"
            message = f"{message}; {note}" if message else note
        return Solution({"sample_ratio": ratios}, variables, message=message, stats={"draws": len(rows), "n": n})

    # --- equations ---

    def hermite_coefficients(self) -> list[Equation]:
        """The polynomial's coefficients: closed forms in the bulk scale b where sympy finds them quickly, integrals
        else."""
        import sympy as sp

        from ...problem.activations import name_of

        text = self.problem.student.layers[0].activation
        z, b = sp.Symbol("z", real=True), sp.Symbol("b", positive=True)
        degree, _ = self.degrees()
        model = self.polynomial(self.data())
        easy = name_of(text) in ("relu", "sign", "step", "abs", "linear", "quadratic")
        # On each half line the easy activations are polynomials.
        halves = {
            "relu": (0, b * z),
            "sign": (-1, 1),
            "step": (0, 1),
            "abs": (-b * z, b * z),
            "linear": (b * z, b * z),
            "quadratic": ((b * z) ** 2, (b * z) ** 2),
        }
        density = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
        rows = []
        for j, value in enumerate(model.coefficients):
            note = f"{value:.12g} at b = {model.scale:.8g}"
            if easy:
                left, right = halves[name_of(text)]
                he = sp.expand(sp.Rational(1, 1) * sp.sqrt(2) ** (-j) * sp.hermite(j, z / sp.sqrt(2)))
                closed = sp.integrate(sp.expand(left * he) * density, (z, -sp.oo, 0)) + sp.integrate(
                    sp.expand(right * he) * density, (z, 0, sp.oo)
                )
                rows.append(Equation.of(f"h{j}", f"h_{{{j}}}", sp.simplify(closed / sp.factorial(j)), note))
            else:
                rows.append(
                    Equation(
                        f"h{j}",
                        rf"h_{{{j}}} = \frac{{1}}{{{j}!}}\,\mathbb E\left[\mathrm{{He}}_{{{j}}}(Z)\,\sigma(bZ)\right]",
                        None,
                        note,
                    )
                )
        total = r"h_{\star}^2 = \mathbb E\,\sigma(bZ)^2 - \sum_{j\le\ell} j!\,h_j^2"
        rows.append(
            Equation(
                "h_star", total, None, f"h_* = {model.noise:.12g}; sigma_l(z) = sum_j h_j He_j(z/b) + h_* g, g fresh"
            )
        )
        assert degree == model.degree
        return rows

    def equations(self) -> list[Equation]:
        rows = [
            Equation("step", r"\hat F = F + \eta G,\quad \eta = n^{\alpha\beta},\ \vartheta = n^{(1-\alpha)\beta}"),
            Equation("spike", r"G = \bar a\, w v^\top + \Delta,\quad v = \tilde X^\top \tilde y/(m\sqrt k)"),
            *self.hermite_coefficients(),
        ]
        if self.conditional:
            from .conditional import equations as conditional_equations

            return rows + conditional_equations(self.problem)
        if self.one_bulk:
            return [
                *rows,
                Equation(
                    "Omega",
                    r"\Omega = \sum_c \rho_c\, \mathbb E[\varphi\varphi^\top|c],\quad \theta = \sum_c\rho_c\,\mathbb "
                    r"E[y\varphi|c]",
                ),
                Equation("zeta", r"\zeta = \lambda + \frac{\zeta}{m}\operatorname{tr}\,\Omega(\Omega+\zeta)^{-1}"),
                Equation("weights", r"w = (\Omega+\zeta)^{-1}\theta"),
                Equation("bias", r"B = \mathbb E\,y^2 - 2\theta\cdot w + w\cdot\Omega w"),
                Equation(
                    "left",
                    r"1-\mathrm{df}_2 = \frac\lambda\zeta + \frac\zeta m\operatorname{tr}\,\Omega(\Omega+\zeta)^{-2}",
                ),
                Equation("test_mse", r"\mathcal E_{\mathrm{test}} = \frac{B}{1-\mathrm{df}_2}"),
                Equation(
                    "penalty",
                    r"\mathcal P = \frac\lambda2\Big[|w|^2 + \frac{\mathcal E_{\mathrm{test}}}m\operatorname{tr}\,"
                    r"\Omega(\Omega+\zeta)^{-2}\Big]",
                ),
                Equation(
                    "train_mse",
                    r"\mathcal E_{\mathrm{train}} = \left(\frac{\lambda}{\zeta}\right)^2\mathcal E_{\mathrm{test}}",
                ),
            ]
        return [
            *rows,
            Equation("S", r"S = \Big(1 + \sum_c \frac{\rho_c}{\zeta_c}\Omega_c\Big)^{-1}"),
            Equation("zeta", r"\zeta_c = \lambda + \frac1m\operatorname{tr}\,\Omega_c S"),
            Equation("weights", r"w = S\sum_c\frac{\rho_c}{\zeta_c}\theta_c"),
            Equation("bias", r"B_c = e_c - 2\theta_c\cdot w + w\cdot\Omega_c w"),
            Equation("T", r"T_{cc'} = \frac1m\operatorname{tr}\,\Omega_cS\,\Omega_{c'}S"),
            Equation("test_mse", r"E_c = B_c + \sum_{c'}\frac{T_{cc'}\rho_{c'}E_{c'}}{\zeta_{c'}^2}"),
            Equation("train_mse", r"E^{\mathrm{train}}_c = (\lambda/\zeta_c)^2 E_c"),
            Equation(
                "penalty",
                r"\mathcal P = \frac\lambda2\Big[|w|^2 + "
                r"\sum_c\frac{\rho_cE_c}{m\,\zeta_c^2}\operatorname{tr}\,\Omega_cS^2\Big]",
            ),
        ]

    def derivation(self) -> list[Step]:
        rows = self.equations()
        by = {e.label: e for e in rows}
        chosen, needed = self.degrees()
        rest = [e for e in rows if e.label not in ("step", "spike", "h_star") and not e.label.startswith("h")]
        polynomial = tuple(e for e in rows if e.label.startswith("h"))
        text = (
            f"Published rule: degree {chosen} is enough (ceil(beta/(1 - beta)), at least 1, capped). "
            f"Sharper: a monomial of the two shifts survives iff a dF + b dG < 1/2; here degree {needed} is needed."
        )
        return [
            Step(
                "Gradient",
                "With a fresh batch the gradient is one spike plus a remainder too small to matter.",
                (by["step"], by["spike"]),
            ),
            Step(
                "Conditional Gaussian equivalence",
                "Given the cluster and the projections on spikes, target and v, "
                "features may be replaced by "
                "Gaussian vectors with the same conditional mean and covariance.",
            ),
            Step("Polynomial model", text, polynomial),
            Step(
                "Readout",
                "Deterministic equivalent for the exact second moments of the features of each drawn first layer.",
                tuple(rest),
            ),
        ]


def _spiked(data: Any) -> bool:
    """Whether the clusters spread over a few directions."""
    return any(strength > 0 for row in data.spikes for strength in row)
