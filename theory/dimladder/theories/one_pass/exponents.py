"""How hard a target is for one-pass SGD from small overlaps: information, leap and generative exponents.

The information exponent (Ben Arous, Gheissari and Jagannath 2021) is the lowest degree k >= 1 in the Hermite expansion;
n ~ d, d log d, d^(k-1) samples for k = 1, 2, >= 3. The leap (Abbe, Boix-Adsera and Misiakiewicz 2023) is the largest
number of new directions, with multiplicity, that one term brings once the others are known. The generative exponent
(Damian, Pillaud-Vivien, Lee and Bruna 2024) allows any transformation of the label first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...numerics.quadrature import gauss_normal, hermite_coefficients, hermite_values
from ...problem import activation
from ...problem.few_points import FEW_POINTS
from ...problem.geometry import start
from ...problem.targets import Committee

Array = NDArray[np.float64]
DEGREE = 12
# Squared Hermite coefficients below this fraction of the target's variance count as zero.
ZERO = 1e-16


def describe(problem: Any) -> dict[str, Any]:
    """Return the exponents of the problem's target, by name.

    Returns
    -------
    dict
        ``information exponent`` always; ``leap`` for several directions; ``generative exponent`` for one. A value is
        None where no term up to degree 12 is found.
    """
    target = problem.target
    found: dict[str, Any] = {}
    if isinstance(target, Committee):
        s = start(problem)
        found["information exponent"] = committee_exponent(target.activation, s.A, s.T)
    elif target.directions == 1:
        f, kinks = link_of(target)
        found["information exponent"] = information_exponent(f, kinks)
        found["generative exponent"] = generative_exponent(f, kinks)
    else:
        coefficients = hermite_tensor(target.expression)
        found["information exponent"] = min((sum(k) for k in coefficients if any(k)), default=None)
        found["leap"] = leap(coefficients)
    return found


def describe_spectrum(problem: Any) -> dict[str, Any]:
    """Return exponent and effective dimension of the inputs, and the exponent of the error's decay.

    The effective dimension over d is (tr Sigma)^2/(d tr Sigma^2). With s_b ~ b^-(1+alpha) and shares of |w*|^2 ~
    b^-omega, a linear student at small learning rate has e_g ~ t^-(alpha + omega)/(1 + alpha) between the times
    1/(eta s_1) and 1/(eta s_L).
    """
    spectrum = problem.data.spectrum
    if spectrum is None:
        return {}
    values, shares = spectrum.blocks()
    mean = float(shares @ values)
    found = {"effective dimension / d": mean**2 / float(shares @ values**2), "largest eigenvalue": float(values.max())}
    if spectrum.exponent is not None:
        found = {"spectrum exponent": 1.0 + spectrum.exponent, **found}
        omega = getattr(getattr(problem.target, "power", None), "exponent", None)
        if omega is not None and 1 + spectrum.exponent > 0 and spectrum.exponent + omega > 0:
            found["decay exponent of linear students"] = (spectrum.exponent + omega) / (1 + spectrum.exponent)
    return found


def link_of(target: Any) -> tuple[Callable[[Array], Array], tuple[float, ...]]:
    """Return an index target of one direction as a NumPy function of its field, and its kinks."""
    link = target.expression
    (name,) = target.fields
    return (lambda z: np.asarray(link.evaluate(FEW_POINTS, **{name: z})) + 0.0 * z), link.kinks(name)


def information_exponent(f: Callable[[Array], Array], kinks: tuple[float, ...] = ()) -> int | None:
    """Return the lowest degree k >= 1 with E[f(z) He_k(z)] != 0, up to degree 12."""
    c = hermite_coefficients(f, DEGREE, kinks)
    variance = max(float(np.sum(c[1:] ** 2)), 1e-300)
    return next((k for k in range(1, DEGREE + 1) if c[k] ** 2 > ZERO * max(variance, c[0] ** 2)), None)


def committee_exponent(name: str, readout: Array, overlap: Array) -> int | None:
    """Return the information exponent of sum_m A_m g(z_m): the lowest degree whose tensor does not cancel."""
    g = activation(name)
    spread = np.sqrt(np.diag(overlap))

    def coefficients(scale: float) -> Array:
        def scaled(z: Array) -> Array:
            return np.asarray(g.evaluate(FEW_POINTS, x=scale * z)) + 0.0 * z

        return hermite_coefficients(scaled, DEGREE, tuple(q / scale for q in g.kinks()))

    weights = readout[:, None] * np.array([coefficients(float(s)) for s in spread])
    correlation = overlap / np.outer(spread, spread)
    powers = [float(weights[:, k] @ correlation**k @ weights[:, k]) for k in range(DEGREE + 1)]
    return next((k for k in range(1, DEGREE + 1) if powers[k] > ZERO * sum(abs(p) for p in powers)), None)


def generative_exponent(f: Callable[[Array], Array], kinks: tuple[float, ...] = ()) -> int | None:
    """Return the lowest degree k >= 1 with E[T(f(z)) He_k(z)] != 0 for some transformation T of the label.

    Waves T(y) = cos(w y + phase) with several frequencies stand for all T; label noise only damps them.
    """
    z, w = gauss_normal(kinks, 64 if kinks else 256)
    y = np.asarray(f(z)) + 0.0 * z
    scale = math.sqrt(float(w @ y**2)) or 1.0
    basis = hermite_values(z, DEGREE) * w
    found = np.zeros(DEGREE + 1)
    for frequency, phase in itertools.product((0.31, 0.77, 1.3), (0.0, math.pi / 2)):
        found = np.maximum(found, abs(basis @ np.cos(frequency * y / scale + phase)))
    return next((k for k in range(1, DEGREE + 1) if found[k] > 1e-7), None)


def hermite_tensor(formula: Any) -> dict[tuple[int, ...], float]:
    """Return the orthonormal Hermite coefficients of a target in z1, z2, ..., by multi-degree, each degree up to 12.

    The target must be a sum of products of one-field functions; each factor is integrated by quadrature.

    Raises
    ------
    ValueError
        For another target.
    """
    from ...symbolic import store

    parts = ("hermite-tensor", formula.text, formula.variables, formula.hermite)
    kept = store.module(parts, lambda: _tensor_source(formula), native=True)
    if kept.COEFFICIENTS is None:
        raise ValueError(kept.WHY)
    return dict(kept.COEFFICIENTS)


def _tensor_source(formula: Any) -> str:
    from ...symbolic.array_code import array_functions

    found: dict[tuple[int, ...], float] | None
    try:
        found, why = _hermite_tensor(formula), ""
    except ValueError as error:
        found, why = None, str(error)
    constants = {"COEFFICIENTS": found, "WHY": why}
    return array_functions({}, f"Hermite coefficients of {formula.text}", constants)


def _hermite_tensor(formula: Any) -> dict[tuple[int, ...], float]:
    import sympy as sp

    from ...symbolic.factors import X, expression_of
    from ...symbolic.gaussian import split_product

    count = max(int(v[1:]) for v in formula.variables)
    fields = {sp.Symbol(f"z{r}", real=True): r for r in range(1, count + 1)}
    total: dict[tuple[int, ...], float] = {}
    for functions, coupled in split_product(formula.sympy(), fields):
        if coupled is not None:
            raise ValueError(f"{coupled} couples several fields inside one function")
        rows = []
        for r in range(1, count + 1):
            if r not in functions:
                rows.append({0: 1.0})
                continue
            factor = sp.lambdify(X, expression_of(functions[r]), modules=["scipy", "numpy"])
            c = hermite_coefficients(partial(_broadcast, factor), DEGREE, (0.0,))
            rows.append({k: float(v) for k, v in enumerate(c) if abs(v) > 1e-9 * max(1.0, abs(c).max())})
        for degrees in itertools.product(*rows):
            value = math.prod(row[k] for row, k in zip(rows, degrees, strict=True))
            total[degrees] = total.get(degrees, 0.0) + value
    top = max((abs(v) for v in total.values()), default=0.0)
    return {k: v for k, v in total.items() if abs(v) > 1e-8 * top}


def _broadcast(function: Callable[[Array], Any], z: Array) -> Array:
    return np.asarray(function(z)) + 0.0 * z


def leap(coefficients: Mapping[tuple[int, ...], float]) -> int | None:
    """Return the leap: the smallest l such that every direction is reached by terms that bring at most l new ones."""
    terms = [k for k in coefficients if any(k)]
    if not terms:
        return None
    wanted = {r for k in terms for r, degree in enumerate(k) if degree}
    for size in range(1, max(map(sum, terms)) + 1):
        known: set[int] = set()
        while True:
            new = {
                r
                for k in terms
                if sum(v for q, v in enumerate(k) if q not in known) <= size
                for r, v in enumerate(k)
                if v
            } - known
            if not new:
                break
            known |= new
        if known == wanted:
            return size
    return None
