"""Closed form = quadrature = Monte Carlo for averages of products of functions of Gaussian fields."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy as sp

from dimladder.numerics import orthant
from dimladder.numerics.orthant import orthant_probability4
from dimladder.symbolic.factors import X, decompose, differentiate, expression_of
from dimladder.symbolic.gaussian import (
    Averager,
    Law,
    average,
    average_expression,
)
from dimladder.symbolic.nodes import Expectation, SignMoment4

FUNCTIONS = {
    "linear": X,
    "cubic": X**3 - X + 2,
    "erf": sp.erf(X / sp.sqrt(2)),
    "steep erf": sp.erf(2 * X),
    "relu": X * sp.Heaviside(X, 0),
    "leaky": X * sp.Heaviside(X, 0) + sp.Rational(1, 10) * X,
    "abs": sp.Abs(X),
    "sign": sp.sign(X),
    "step": sp.Heaviside(X, 0),
    "sin": sp.sin(sp.Rational(7, 5) * X + sp.Rational(1, 3)),
    "exp": sp.exp(X / 2),
    "gaussian": sp.exp(-(X**2) / 2),
    "gelu": X * (1 + sp.erf(X / sp.sqrt(2))) / 2,
    "x sin": X * sp.sin(X),
}

schur, sign_moment4 = orthant.schur.of_numbers, orthant.sign_moment4.of_numbers


def covariance(size: int, seed: int) -> np.ndarray:
    W = np.random.default_rng(seed).standard_normal((size, size + 3)) / math.sqrt(size + 3)
    return W @ W.T


def exact(C: np.ndarray) -> sp.Matrix:
    return sp.Matrix(C.shape[0], C.shape[1], lambda a, b: sp.Float(C[a, b], 20))


def value(result: object) -> float:
    return float(sp.N(result))


PAIRS = [("erf", "steep erf"), ("relu", "relu"), ("sign", "erf"), ("cubic", "gelu"), ("sin", "x sin"), ("exp", "cubic"),
         ("gaussian", "erf"), ("abs", "leaky"), ("step", "relu"), ("sin", "gaussian"),
         ("linear", "steep erf")]  # fmt: skip


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_two_fields_closed_form_is_quadrature(names: tuple[str, str]) -> None:
    C = covariance(2, 5)
    functions = [FUNCTIONS[n] for n in names]
    closed = average(dict(enumerate(functions)), Law.of_matrix(exact(C)))
    assert not closed.has(Expectation)
    x, y = sp.symbols("x y", real=True)
    number, error = Expectation(functions[0].subs(X, x) * functions[1].subs(X, y), (x, y), exact(C)).numerical(1e-12)
    assert error < 1e-11
    assert value(closed) == pytest.approx(number, abs=1e-11)


MANY = [("relu", "relu", "relu"), ("step", "step", "relu", "relu"), ("sign", "sign", "sign", "sign"),
        ("erf", "erf", "erf", "erf"),
        ("gaussian", "gaussian", "erf", "erf"), ("sin", "sin", "sin", "sin"), ("gelu", "abs", "sign"),
        ("cubic", "relu", "erf"),
        ("exp", "exp", "cubic")]  # fmt: skip


@pytest.mark.parametrize("names", MANY, ids="-".join)
def test_three_and_four_fields_closed_form_is_monte_carlo(names: tuple[str, ...]) -> None:
    C = covariance(len(names), 7)
    closed = value(Averager(Law.of_matrix(exact(C))).average({k: decompose(FUNCTIONS[n]) for k, n in enumerate(names)}))
    f = np.random.default_rng(1).standard_normal((400_000, len(names))) @ np.linalg.cholesky(C).T
    product = np.ones(len(f))
    for k, n in enumerate(names):
        product = product * sp.lambdify(X, FUNCTIONS[n], modules=["scipy", "numpy"])(f[:, k])
    assert closed == pytest.approx(product.mean(), abs=4.5 * product.std() / math.sqrt(len(f)))


def test_saad_solla_four_point_function() -> None:
    """The tilted covariance gives the arcsine of Saad and Solla (1995), there in Lambda_0, Lambda_1, Lambda_2."""
    C = covariance(4, 3)
    c = lambda a, b: C[a, b]  # noqa: E731
    L4 = (1 + c(0, 0)) * (1 + c(1, 1)) - c(0, 1) ** 2
    L0 = L4 * c(2, 3) - c(1, 2) * c(1, 3) * (1 + c(0, 0)) - c(0, 2) * c(0, 3) * (1 + c(1, 1))
    L0 += c(0, 1) * c(0, 2) * c(1, 3) + c(0, 1) * c(0, 3) * c(1, 2)
    L1, L2 = (
        L4 * (1 + c(q, q))
        - c(1, q) ** 2 * (1 + c(0, 0))
        - c(0, q) ** 2 * (1 + c(1, 1))
        + 2 * c(0, 1) * c(0, q) * c(1, q)
        for q in (2, 3)
    )
    published = 4 / math.pi**2 / math.sqrt(L4) * math.asin(L0 / math.sqrt(L1 * L2))
    g = decompose(FUNCTIONS["erf"])
    derived = Averager(Law.of_matrix(exact(C))).average({0: differentiate(g), 1: differentiate(g), 2: g, 3: g})
    assert value(derived) == pytest.approx(published, abs=1e-15)


def test_polynomials_match_isserlis() -> None:
    """E[x1 x2 x3 x4] and E[x1^2 x2^4] as sums over pairings, symbolically."""
    C = sp.Matrix(4, 4, lambda a, b: sp.Symbol(f"C{min(a, b)}{max(a, b)}"))
    law = Law.of_matrix(C)
    assert average(dict.fromkeys(range(4), X), law) == C[0, 1] * C[2, 3] + C[0, 2] * C[1, 3] + C[0, 3] * C[1, 2]
    assert sp.expand(average({0: X**2, 1: X**4}, law) - 3 * C[0, 0] * C[1, 1] ** 2 - 12 * C[0, 1] ** 2 * C[1, 1]) == 0


def test_mehler() -> None:
    """E[He_m(x) He_n(y)] = delta_mn n! rho^n for unit variances."""
    rho = sp.Symbol("rho")
    law = Law.of_matrix(sp.Matrix([[1, rho], [rho, 1]]))
    he = [sp.Integer(1), X, X**2 - 1, X**3 - 3 * X, X**4 - 6 * X**2 + 3]
    for m, n in itertools.product(range(5), repeat=2):
        assert sp.expand(average({0: he[m], 1: he[n]}, law) - (sp.factorial(n) * rho**n if m == n else 0)) == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_stein(name: str) -> None:
    """E[x y-function] = C_xy E[derivative], with jumps giving delta functions."""
    C = exact(covariance(2, 9))
    g = decompose(FUNCTIONS[name])
    law = Law.of_matrix(C)
    left = Averager(law).average({0: decompose(X), 1: g})
    right = C[0, 1] * Averager(law).average({1: differentiate(g)})
    assert value(left) == pytest.approx(value(right), abs=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_decomposition_keeps_the_function(name: str) -> None:
    g = FUNCTIONS[name]
    for x in (-1.3, 0.4, 2.1):
        back = expression_of(decompose(g)).subs(X, x)
        assert float(back) == pytest.approx(float(g.subs(X, x)), abs=1e-14)


def test_no_closed_form_stays_a_node_and_is_computed() -> None:
    node = average(
        {0: sp.tanh(X), 1: sp.tanh(X) + X}, Law.of_matrix(sp.Matrix([[1, sp.Rational(1, 2)], [sp.Rational(1, 2), 2]]))
    )
    assert node.has(Expectation)
    assert "mathbb{E}" in sp.latex(node)
    grid = np.linspace(-9, 9, 721)
    weight = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    x, u = np.meshgrid(grid, grid, indexing="ij")
    y = x / 2 + math.sqrt(7 / 4) * u
    assert value(node) == pytest.approx(weight @ (np.tanh(x) * (np.tanh(y) + y)) @ weight, abs=1e-11)


def test_one_field_quadrature_is_mpmath() -> None:
    mpmath.mp.dps = 30
    density = lambda u: mpmath.exp(-u * u / 2) / mpmath.sqrt(2 * mpmath.pi)  # noqa: E731
    want = mpmath.quad(
        lambda u: density(u) * mpmath.tanh(2 * u) ** 2 * mpmath.log(1 + mpmath.exp(u)), [-10, -2, 0, 2, 10]
    )
    x = sp.Symbol("x", real=True)
    number, error = Expectation(sp.tanh(2 * x) ** 2 * sp.log(1 + sp.exp(x)), (x,), [[1]]).numerical(1e-13)
    assert error < 1e-12
    assert number == pytest.approx(float(want), abs=1e-13)


def test_quadrature_splits_kinks_and_reports_its_error() -> None:
    x, y = sp.symbols("x y", real=True)
    C = exact(covariance(2, 2))
    node = Expectation(sp.Max(x - 1, 0) * sp.tanh(y) * sp.Heaviside(y + sp.Rational(1, 3)), (x, y), C)
    number, error = node.numerical(1e-12)
    assert error < 1e-11
    f = np.random.default_rng(0).standard_normal((1_000_000, 2)) @ np.linalg.cholesky(covariance(2, 2)).T
    sample = np.maximum(f[:, 0] - 1, 0) * np.tanh(f[:, 1]) * (f[:, 1] > -1 / 3)
    assert number == pytest.approx(sample.mean(), abs=4.5 * sample.std() / 1000)


def test_average_expression_of_a_multi_index_target() -> None:
    z1, z2 = sp.symbols("z1 z2", real=True)
    law = Law.of_matrix(sp.eye(2))
    assert average_expression((z1 + z1 * z2) ** 2, {z1: 0, z2: 1}, law) == 2
    coupled = average_expression(sp.tanh(z1 + z2) ** 2, {z1: 0, z2: 1}, law)
    assert 0.3 < value(coupled) < 0.6


def plackett_oracle(R: np.ndarray) -> float:
    """S4 along the path that scales all correlations together, in 25 digits."""
    mpmath.mp.dps = 25
    R = mpmath.matrix(R.tolist())
    r = lambda a, b, t: R[a, b] * t if a != b else mpmath.mpf(1)  # noqa: E731

    def slope(t: mpmath.mpf) -> mpmath.mpf:
        total = mpmath.mpf(0)
        for i, j in itertools.combinations(range(4), 2):
            k, l = (m for m in range(4) if m not in (i, j))
            det = 1 - r(i, j, t) ** 2
            c = lambda a, b, i=i, j=j, det=det: r(a, b, t) - (  # noqa: E731
                r(i, a, t) * r(i, b, t) + r(j, a, t) * r(j, b, t)
                - r(i, j, t) * (r(i, a, t) * r(j, b, t) + r(j, a, t) * r(i, b, t))
            ) / det  # fmt: skip
            total += (
                R[i, j] * 4 / mpmath.pi**2 / mpmath.sqrt(det) * mpmath.asin(c(k, l) / mpmath.sqrt(c(k, k) * c(l, l)))
            )
        return total

    return float(mpmath.quad(slope, [0, 0.5, 0.9, 1]))


def correlations(size: int, seed: int) -> np.ndarray:
    W = np.random.default_rng(seed).standard_normal((4, size))
    C = W @ W.T
    s = np.sqrt(np.diag(C))
    return C / np.outer(s, s)


@pytest.mark.parametrize(("size", "seed"), [(4, 0), (4, 1), (4, 5), (5, 2), (8, 3), (30, 4)])
def test_sign_moment_of_four(size: int, seed: int) -> None:
    R = correlations(size, seed)
    entries = R[np.triu_indices(4, 1)]
    assert sign_moment4(*entries) == pytest.approx(plackett_oracle(R), abs=1e-13)
    for p in itertools.permutations(range(4)):
        permuted = R[np.ix_(p, p)]
        assert sign_moment4(*permuted[np.triu_indices(4, 1)]) == pytest.approx(sign_moment4(*entries), abs=1e-13)


def test_sign_moment_special_cases() -> None:
    """Independent pairs factorise; identical fields pair off; P4 of equal correlations 1/2 is 1/5."""
    assert sign_moment4(0.5, 0, 0, 0, 0, -0.3) == pytest.approx(
        (2 / math.pi) ** 2 * math.asin(0.5) * math.asin(-0.3), abs=1e-16
    )
    assert sign_moment4(1.0, 0.2, 0.7, 0.2, 0.7, 0.4) == pytest.approx(2 / math.pi * math.asin(0.4), abs=1e-9)
    assert orthant_probability4(*[0.5] * 6) == pytest.approx(0.2, abs=1e-14)


def signs_in_a_plane(phi: np.ndarray, height: float = 0.0, along: float = 0.0) -> float:
    """E of the product of the signs of R cos(theta - phi), theta uniform, by arcs between the lines of change.

    With a height h times the sign of one more field, of correlation h with the plane and with direction `along` in it:
    on an arc its mean integrates to asin(h sin(theta - along)).
    """
    edges = np.sort(np.concatenate([(phi + math.pi / 2) % (2 * math.pi), (phi - math.pi / 2) % (2 * math.pi)]))
    edges = np.append(edges, edges[0] + 2 * math.pi)
    middle = (edges[1:] + edges[:-1]) / 2
    product = np.prod(np.sign(np.cos(middle[:, None] - phi)), axis=1)
    arcs = np.diff(np.arcsin(height * np.sin(edges - along))) if height else np.diff(edges)
    return float(product @ arcs) / (2 * math.pi)


@pytest.mark.parametrize("spread", [math.pi, 0.1, 1e-3])
def test_signs_of_fields_in_a_plane(spread: float) -> None:
    """Singular correlations, of fields up to nearly parallel: the conditional ones have modulus one."""
    rng = np.random.default_rng(4)
    for _ in range(200):
        phi = rng.uniform(-spread, spread, 4)
        R = np.cos(phi[:, None] - phi)
        assert sign_moment4(*R[np.triu_indices(4, 1)]) == pytest.approx(signs_in_a_plane(phi), abs=1e-9)


@pytest.mark.parametrize("spread", [math.pi, 0.1])
def test_three_of_four_signs_in_a_plane(spread: float) -> None:
    rng = np.random.default_rng(5)
    for place in itertools.islice(itertools.cycle(range(4)), 200):
        phi, height, along = rng.uniform(-spread, spread, 3), rng.uniform(0.1, 0.99), rng.uniform(-math.pi, math.pi)
        R = np.ones((4, 4))
        inside = [k for k in range(4) if k != place]
        R[np.ix_(inside, inside)] = np.cos(phi[:, None] - phi)
        R[place, inside] = R[inside, place] = height * np.cos(phi - along)
        want = signs_in_a_plane(phi, height, along)
        assert sign_moment4(*R[np.triu_indices(4, 1)]) == pytest.approx(want, abs=1e-11)


def test_plackett_slope_is_the_derivative() -> None:
    r = sp.symbols("r0:6", real=True)
    point = dict(zip(r, correlations(9, 1)[np.triu_indices(4, 1)], strict=True))
    for q in range(6):
        slope = float(SignMoment4(*r).diff(r[q]).subs(point))
        up, down = ({**point, r[q]: point[r[q]] + s * 1e-5} for s in (1, -1))
        change = (sign_moment4(*up.values()) - sign_moment4(*down.values())) / 2e-5
        assert slope == pytest.approx(change, abs=1e-9)


def test_schur_keeps_relative_accuracy() -> None:
    """1 - r^2 at r = 1 - 1e-12, where the plain difference has four digits."""
    r = 1 - 1e-12
    mpmath.mp.dps = 40
    want = float(1 - mpmath.mpf(r) ** 2)
    assert schur(1.0, r, r, 1.0) == pytest.approx(want, rel=1e-15)
