"""Derivatives of formulas, by evaluating them on numbers that carry derivatives, against sympy's."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from dimladder.problem.expressions import Expression, drop_atoms
from dimladder.problem.jets import FEW, derivatives

# Off the kinks of the formulas below, and zero.
POINTS = np.concatenate([np.linspace(-3.01, 2.97, 41), [0.0]])


@pytest.mark.parametrize(
    "text",
    [
        "x", "3.0", "x**3 - He3(x)", "tanh(x)", "erf(x)", "relu(x)", "leaky_relu(x)", "abs(x)", "sign(x)", "step(x)",
        "hardtanh(x)", "sigmoid(x)", "silu(x)", "gelu(x)", "softplus(x)", "exp(-x**2)", "2**x", "1/(1 + x**2)",
        "sqrt(1 + x**2)", "log(1 + x**2)", "sin(x)*cos(2*x)", "tan(x/4)", "sinh(x)/cosh(x)", "atan(2*x)",
        "clip(x, -1, 2)", "max(0.3, sin(x))", "min(x - 0.5, x**2)", "x*tanh(x)**2", "(1 + x**2)**(x/3)",
        "relu(tanh(x) - 0.2)**2", "log(cosh(x))",
    ],
)  # fmt: skip
def test_both_derivatives_are_those_of_algebra(text: str) -> None:
    formula, x = Expression(text), sp.Symbol("x", real=True)
    value = formula.sympy(x=x)
    first = drop_atoms(sp.diff(value, x))
    exact = sp.lambdify([x], [value, first, drop_atoms(sp.diff(first, x))], modules=["scipy", "numpy"])(POINTS)
    for found, wanted in zip(derivatives(formula, POINTS), exact, strict=True):
        np.testing.assert_allclose(found, np.broadcast_to(wanted, POINTS.shape), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(formula.derivative()(x=POINTS), derivatives(formula, POINTS)[1], rtol=1e-14)


def test_a_derivative_in_one_of_several_variables() -> None:
    formula = Expression("log(1 + exp(-y*f)) + relu(y)*f**2 + erf(y)", ("f", "y"))
    f, y = POINTS, np.where(POINTS > 0, -1.0, 1.0)
    exact = -y / (1.0 + np.exp(y * f)) + 2.0 * f * (y > 0)
    np.testing.assert_allclose(formula.derivative("f")(f=f, y=y), exact, rtol=1e-12, atol=1e-14)
    assert (Expression("erf(y)", ("f", "y")).derivative("f")(f=f, y=y) == 0.0).all()
    grid = np.outer(np.ones(3), f)
    assert formula.derivative("f")(f=grid, y=y).shape == grid.shape


def test_many_points_are_as_few() -> None:
    many = np.resize(POINTS, FEW + 1)
    gelu = Expression("gelu(x)")
    for found, few in zip(derivatives(gelu, many), derivatives(gelu, POINTS), strict=True):
        np.testing.assert_allclose(found[: POINTS.size], few, rtol=1e-14, atol=1e-16)


def test_powers_where_a_factor_vanishes() -> None:
    at = np.array([0.0, 2.0])
    for text, first, second in (("x**2", [0.0, 4.0], [2.0, 2.0]), ("x", [1.0, 1.0], [0.0, 0.0])):
        found = derivatives(Expression(text), at)
        assert (found[1].tolist(), found[2].tolist()) == (first, second)
    assert Expression("abs(x)**1.5").derivative()(x=at).tolist() == pytest.approx([0.0, 1.5 * 2**0.5])
