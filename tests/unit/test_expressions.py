"""User formulas: the same values by arrays, by sympy, and by hand; nothing but formulas gets through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from dimladder.problem import ACTIVATIONS, Expression, activation

X = np.array([-2.3, -1.0, -0.4, 0.3, 0.9, 1.7])


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_arrays_and_algebra_agree(name: str) -> None:
    formula = activation(name)
    (symbol,) = formula.sympy().free_symbols
    expected = [float(formula.sympy().subs(symbol, sp.Float(x, 30))) for x in X]
    np.testing.assert_allclose(formula.evaluate(np, x=X), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_derivatives_are_finite_differences(name: str) -> None:
    formula, h = activation(name), 1e-6
    points = X[np.abs(np.abs(X) - 1) > 0.01]
    difference = (formula.evaluate(np, x=points + h) - formula.evaluate(np, x=points - h)) / (2 * h)
    np.testing.assert_allclose(formula.derivative()(x=points), difference, rtol=1e-7, atol=1e-8)


def test_erf_the_activation_is_not_erf_the_function() -> None:
    assert activation("erf").evaluate(np, x=np.array([1.0]))[0] == pytest.approx(math.erf(1 / math.sqrt(2)), rel=1e-15)
    assert activation("erf(x)").evaluate(np, x=np.array([1.0]))[0] == pytest.approx(math.erf(1.0), rel=1e-15)


@pytest.mark.parametrize(
    ("convention", "scale"), [("orthonormal", 1 / math.sqrt(6)), ("probabilists", 1.0), ("factorial", 1 / 6)]
)
def test_hermite_conventions(convention: str, scale: float) -> None:
    formula = Expression("He3(z)", ("z",), convention)  # type: ignore[arg-type]
    expected = scale * (X**3 - 3 * X)
    np.testing.assert_allclose(formula.evaluate(np, z=X), expected, rtol=1e-13)
    z = next(iter(formula.sympy().free_symbols))
    np.testing.assert_allclose([float(formula.sympy().subs(z, x)) for x in X], expected, rtol=1e-13)


def test_numbered_variables_sort_as_numbers() -> None:
    assert Expression("z10 + z2*z1", "z*").variables == ("z1", "z2", "z10")


@pytest.mark.parametrize(
    ("text", "kinks"),
    [
        ("relu(2*x - 1)", (0.5,)), ("abs(x + 3) + tanh(x)", (-3.0,)), ("hardtanh(x/2)", (-2.0, 2.0)), ("tanh(x)", ()),
        ("clip(x, -1, 4)", (-1.0, 4.0)), ("max(x, 2 - x)", (1.0,)), ("relu(x)*relu(1 - x)", (0.0, 1.0)),
    ],
)  # fmt: skip
def test_kinks(text: str, kinks: tuple[float, ...]) -> None:
    assert Expression(text).kinks() == pytest.approx(kinks)


def test_kinks_that_cannot_be_known_are_an_error() -> None:
    with pytest.raises(ValueError, match="not affine"):
        Expression("relu(x**2 - 1)").kinks()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("__import__('os')", "unknown function"), ("x.real", "not allowed"), ("y + 1", "unknown name 'y'"),
        ("tahn(x)", "did you mean .*'tanh'"), ("tanh(x, x)", "takes 1 argument"),
        ("x +", "not a formula"), ("", "not a formula"),
        ("[x]", "not allowed"), ("x if x else 1", "not allowed"), ("True", "not allowed"), ("lambda: 1", "not allowed"),
    ],
)  # fmt: skip
def test_what_is_not_a_formula_is_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + word.replace("(", r"\(")):
        Expression(text)


def test_any_array_namespace() -> None:
    strict = pytest.importorskip("array_api_strict")
    for text in ("tanh(x) + 0.1*x", "relu(x)", "He4(x)", "sigmoid(2*x)**2", "clip(x, -1, 1)", "x^2 + pi", "gelu(x)"):
        values = Expression(text).evaluate(strict, x=strict.asarray(X))
        np.testing.assert_allclose(np.asarray(values), Expression(text).evaluate(np, x=X), rtol=1e-13)


FORMULAS = st.recursive(
    st.sampled_from(["x", "1.5", "2", "pi", "0.25"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["tanh", "sin", "erf", "relu", "abs", "He2", "sigmoid"]), inner).map(
            lambda t: f"{t[0]}({t[1]})"
        ),
    ),
    max_leaves=6,
)


@given(text=FORMULAS, x=st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3))
def test_random_formulas_agree_with_sympy(text: str, x: float) -> None:
    formula = Expression(text)
    symbols = formula.sympy().free_symbols
    exact = float(formula.sympy().subs(dict.fromkeys(symbols, x)).evalf(30))
    value = float(np.asarray(formula.evaluate(np, x=np.array([x]))).ravel()[0])
    assert value == pytest.approx(exact, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(1/0)*x", "divides by zero"), ("0**-1*x", "divides by zero"), ("x/(2 - 2)", "divides by zero"),
        ("2**10000*x", "larger than 1e+100"), ("9**9**9*x", "larger than"), ("10**10**7*x", "larger than"),
        ("exp(1000)*x", "larger than"), ("log(0)*x", "larger than"), ("1e400*x", "larger than"),
        ("(-1)**0.5*x", "not a real number"), ("sqrt(-1)*x", "not a real number"), ("log(-2) + x", "not a real number"),
        ("He171(x)", "at most 100"), ("He10000000(x)", "at most 100"), ("He99999999999999999999(x)", "at most 100"),
        ("x**101", "at most 100"), ("(x**50)**3", "degree 150"), ("x**60*x**60", "degree 120"),
        ("He60(x*x)", "degree 120"),
        ("(x + tanh(x) + exp(x))**100", "terms"), ("*".join(["x"] * 1000), "nested 1000 deep"),
        ("+".join(["x"] * 2000), "nested 2000 deep"), ("-" * 5000 + "x", "nested too deeply"),
        ("(" * 300 + "x" + ")" * 300, "not a formula"), ("x*" + "9" * 5000, "not a formula"),
        ("x" * 20_000, "20000 characters"), ("1if x", "not a formula"), ("x\0", "not a formula"),
    ],
)  # fmt: skip
def test_formulas_that_no_computer_can_work_with_are_refused_at_once(text: str, said: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Expression(text)
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("text", ["z0", "z07", "z201", "z" + "9" * 400, "z1 + z٣"])
def test_numbered_variables_have_bounded_ascii_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"numbered|unknown name"):
        Expression(text, "z*")


@pytest.mark.parametrize(
    ("text", "value"),
    [("2**60*x", 2.0**60 * 0.5), ("7**80*x", 7.0**80 * 0.5), ("x**100", 0.5**100), ("3**2*x", 4.5), ("2**-2*x", 0.125)],
)
def test_large_whole_numbers_mean_the_same_to_arrays_and_algebra(text: str, value: float) -> None:
    formula = Expression(text)
    assert formula.evaluate(np, x=np.array([0.5]))[0] == pytest.approx(value, rel=1e-14)
    assert float(formula.sympy().subs(sp.Symbol("x", real=True), sp.Rational(1, 2))) == pytest.approx(value, rel=1e-14)


@given(st.text(alphabet="xyHe0123456789.+-*/^(), tanhrelumifsqgpw", max_size=60))
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        formula = Expression(text)
    except ValueError:
        return
    with np.errstate(all="ignore"):
        formula.evaluate(np, x=np.array([0.3, -2.0]))
