"""A problem of the shared language as what the equations need: loss, label law, spectrum, prior, ratios."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DerivationError
from ...problem.activations import activation
from ...problem.expressions import Expression
from ...problem.targets import power_shares
from . import spectrum as spectra
from .bayes_channel import BayesChannel
from .bayes_pairs import PairChannel
from .channel import Loss
from .labels import LabelLaw, form_of_target, stored_form
from .penalty import NORMAL, Prior, sparse
from .priors import prior_named
from .system import Question

if TYPE_CHECKING:
    from ...problem import Problem
    from ...problem.targets import Index


@dataclass(frozen=True)
class BayesQuestion:
    """What the Bayes-optimal curve needs.

    Attributes
    ----------
    channel : BayesChannel or PairChannel
    prior : object
        Of `priors`.
    cells : tuple of (share, strength)
        Shares of the dimensions, and eigenvalue times mean square of w* in each.
    ratios : tuple of float
    starts : tuple of str
    """

    channel: BayesChannel | PairChannel
    prior: Any
    cells: tuple[tuple[float, float], ...]
    ratios: tuple[float, ...]
    starts: tuple[str, ...]
    rho: float


def target_law(problem: Problem) -> LabelLaw:
    """Return the law of the label of an index target."""
    return label_law_of(problem.target)


def label_law_of(target: Index, mean: float = 0.0, scale: float = 1.0) -> LabelLaw:
    """Return the law of the label where the field of the formula is mean + scale z."""
    share = target.outliers.probability if target.outliers is not None else 0.0
    numbers = float(target.flip), float(target.noise), share
    if mean == 0.0 and scale == 1.0:
        return stored_form(target).law(*numbers, target.formula)

    def placed(expression: Any) -> Any:
        import sympy as sp

        field = next((s for s in expression.free_symbols if s.name in ("z", "z1")), None)
        return expression if field is None else expression.subs(field, mean + scale * sp.Symbol("z", real=True))

    return form_of_target(target, placed).law(*numbers, target.formula)


def latent_variance(problem: Problem) -> float:
    """Return E z^2: the target's overlap."""
    overlap = problem.target.overlap
    return float(overlap[0][0]) if overlap else 1.0


def input_spectrum(problem: Problem) -> spectra.Covariance:
    """Return the inputs' spectrum with the target's power."""
    rho, given, power = latent_variance(problem), problem.data.spectrum, problem.target.power
    if given is None:
        om, shares = np.ones(1), np.ones(1)
    else:
        om, shares = given.blocks()
    if power == "latent":
        # The target acts on unscaled features: |w*|^2 in a block falls as 1/om.
        keep = om > 0.0
        t = np.where(keep, shares / np.where(keep, om, 1.0), 0.0)
    else:
        t = np.asarray(power_shares(power, shares), dtype=float)
    keep = om > 0.0
    return spectra.spectrum(shares[keep], om[keep], t[keep], rho)


def seen_by(problem: Problem) -> spectra.Covariance:
    """Return what the readout sees: the inputs, features on them, or measured covariances."""
    student = problem.student
    if getattr(student, "covariances", None) is not None:
        omega, phi, psi, teacher = (_measured(student.covariances, name) for name in ("omega", "phi", "psi", "teacher"))
        return spectra.triple(omega, phi, psi, teacher, teacher.size)
    base = input_spectrum(problem)
    layers = getattr(student, "layers", ())
    if not layers:
        return base
    if student.readout_variance > 0.0:
        return spectra.tangent(base, layers[0].activation, layers[0].width_ratio, student.readout_variance)
    return spectra.through_layers(
        base, [activation(layer.activation) for layer in layers], [layer.width_ratio for layer in layers]
    )


def _measured(covariances: Any, name: str) -> Any:
    """Return an array of a file that the student names."""
    path = getattr(covariances, name)
    try:
        return np.load(path, allow_pickle=False).astype(float)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DerivationError(
            f"{path!r} cannot be read as an array", where=f"student.covariances.{name}", why=reason,
            hint="write it with numpy.save",
        ) from error  # fmt: skip


def coordinate_prior(problem: Problem) -> Prior:
    """Return the law of w* for a penalty that acts coordinate by coordinate."""
    prior = problem.target.prior
    kind = prior if isinstance(prior, str) else prior.kind
    if kind == "normal":
        return Prior()
    if kind == "gauss-bernoulli":
        return sparse(prior.rate)
    raise DerivationError(
        "a penalty other than l2 needs coordinates that are normal, or normal and zero",
        where=f"target.prior = {kind!r}", hint='use prior = "normal" or { kind = "gauss-bernoulli", rate = ... }',
    )  # fmt: skip


def loss_of(problem: Problem) -> Loss:
    """Return the loss as a formula."""
    form = problem.loss.form
    return _known_loss(form.name, form.expression.text)


@lru_cache(maxsize=256)
def _known_loss(name: str, formula: str) -> Loss:
    """Return the one loss of a formula: what it has worked out is kept."""
    return Loss(name, formula)


def penalty_of(problem: Problem) -> Loss | None:
    """Return the penalty as a function of one weight, or None for l2."""
    text = problem.loss.penalty
    if text == "l2":
        return None
    return _known_penalty(text)


@lru_cache(maxsize=256)
def _known_penalty(text: str) -> Loss | None:
    formula = Expression("abs(w)" if text == "l1" else text, ("w",))
    # At points of all sizes: to import sympy takes longer than a solve.
    w = np.random.default_rng(0).standard_normal(200) * np.geomspace(1e-3, 1e3, 200)
    with np.errstate(all="ignore"):
        if (abs(formula.evaluate(np, w=w) - w**2 / 2) <= 1e-12 * w**2).all():
            return None
    return _known_loss(text, re.sub(r"\bw\b", "f", formula.text))


def minimiser_question(problem: Problem) -> Question:
    """Return what the minimiser's equations need."""
    loss, solver = problem.loss, problem.solver
    per_sample = loss.ridge_per_sample is not None
    strength = loss.ridge_per_sample if per_sample else loss.ridge
    penalty = penalty_of(problem)
    return Question(
        loss=loss_of(problem),
        law=target_law(problem),
        covariance=seen_by(problem),
        ratios=problem.grid.values("sample_ratio"),
        ridge=None if strength == "optimal" else float(strength),
        per_sample=per_sample,
        optimise=loss.optimise,
        penalty=penalty,
        prior=coordinate_prior(problem) if penalty is not None else NORMAL,
        constant=bool(problem.student.bias),
        wants_signs=loss.form.two_valued,
        resampling=getattr(problem.algorithm, "resampling", "none"),
        fraction=getattr(problem.algorithm, "fraction", 1.0),
        rtol=min(solver.rtol, 1e-3),
        damping=solver.damping,
        max_iterations=solver.max_iterations,
    )


def bayes_question(problem: Problem) -> BayesQuestion:
    """Return what the Bayes-optimal curve needs."""
    covariance = input_spectrum(problem)
    prior = problem.target.prior
    kind, rate = (prior, 1.0) if isinstance(prior, str) else (prior.kind, prior.rate)
    # T = share om^2 t.
    cells = tuple(
        (float(p), float(T / (p * om)))
        for p, om, T in zip(covariance.shares, covariance.eigenvalues, covariance.powers, strict=True)
        if p > 0.0
    )
    if not math.isclose(sum(p * s for p, s in cells), covariance.rho, rel_tol=1e-9):
        raise DerivationError(
            "a single direction that carries the target is learnt at once", where="data.spectrum",
            why="a block of fraction 0 holds a part of w*", hint="give every block a share of the dimensions",
        )  # fmt: skip
    channel: BayesChannel | PairChannel
    if problem.target.directions == 2:
        channel = PairChannel(problem.target)
    else:
        channel = BayesChannel(target_law(problem), covariance.rho)
    return BayesQuestion(
        channel,
        prior_named(kind, rate),
        cells,
        problem.grid.values("sample_ratio"),
        tuple(problem.grid.start or ("uninformed",)),
        covariance.rho,
    )


def spectral_question(problem: Problem) -> tuple[LabelLaw, Any, tuple[float, ...]]:
    """Return the label law, T(y) or None for the optimal one, and the sample ratios."""
    from ...problem.checks import formula

    text = problem.algorithm.preprocessing
    preprocessing = None
    if text != "optimal":
        expression = formula("preprocessing", text, ("y",))

        def preprocessing(y: Any) -> Any:
            return np.broadcast_to(np.asarray(expression.evaluate(np, y=y), dtype=float), np.shape(y))

    law = target_law(problem)
    if not law.discrete:
        # The likelihood must be one that the table knows.
        BayesChannel(law, 1.0)
    return law, preprocessing, problem.grid.values("sample_ratio")
