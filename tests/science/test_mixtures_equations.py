"""The printed equations are the computed ones: every binding evaluated independently at the solution."""

from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy.special import ndtr

from dimladder.solve import derive, load, replace
from dimladder.theories.mixtures import kernels
from dimladder.theories.mixtures.state_evolution import hinge_channel

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
MIXTURE = load(RUNS / "estimation-mixture.toml")


def _gaussian(f, kinks=()):
    density = lambda z: mpmath.exp(-(z**2) / 2) / mpmath.sqrt(2 * mpmath.pi)  # noqa: E731
    points = sorted({-12.0, 12.0, *np.linspace(-6, 6, 7), *(k for k in kinks if abs(k) < 12)})
    return mpmath.quad(lambda z: f(z) * density(z), points)


def _prox(loss, u, v):
    """argmin l(p) + (p - u)^2/(2 v) for a margin loss, by mpmath."""
    if loss == "hinge":
        return u + v if u < 1 - v else max(u, mpmath.mpf(1)) if u > 1 else mpmath.mpf(1)
    low, high = u, u + v
    return mpmath.findroot(lambda p: p - u - v / (1 + mpmath.exp(p)), (low, high), solver="anderson", tol=1e-24)


def _channel(loss, y, mean, v, q):
    s = mpmath.sqrt(q)
    kinks = [(1 - v - y * mean) / s, (1 - y * mean) / s] if loss == "hinge" else []

    def at(z):
        u = y * mean + s * z
        return u, _prox(loss, u, v)

    def curvature(z):
        u, p = at(z)
        if loss == "hinge":
            return 1 / v if 1 - v < u < 1 else 0
        second = 1 / (1 + mpmath.exp(p)) / (1 + mpmath.exp(-p))
        return second / (1 + v * second)

    def value(z):
        p = at(z)[1]
        return max(0, 1 - p) if loss == "hinge" else mpmath.log1p(mpmath.exp(-p))

    return (
        y * _gaussian(lambda z: (at(z)[1] - at(z)[0]) / v, kinks),
        _gaussian(lambda z: ((at(z)[1] - at(z)[0]) / v) ** 2, kinks),
        _gaussian(curvature, kinks),
        _gaussian(value, kinks),
    )


@pytest.mark.parametrize("loss", ["logistic", "hinge", "square"])
def test_printed_equations_vanish_at_the_solution(loss):
    """Off the notes' parameters: unequal weights and covariances, three bulk groups' worth of structure."""
    system = derive(
        replace(
            MIXTURE,
            {
                "loss.function": loss,
                "loss.ridge": 0.07,
                "grid.sample_ratio": [1.3],
                "data": {
                    "kind": "mixture",
                    "weights": [0.4, 0.6],
                    "means": [[1.2, 0.0], [-0.4, 0.8]],
                    "variances": [[0.7, 1.9], [1.1, 0.4]],
                    "spectrum": {"fractions": [0.35, 0.65]},
                },
            },
        )
    )
    result = system.fixed_points(np.array([1.3]))[0]
    assert result.success
    g = system._program()
    values = {s: mpmath.mpf(float(system.parameter_values(1.3)[str(s)])) for s in g.parameters}
    values |= {s: mpmath.mpf(float(x)) for s, x in zip(g.state, result.x, strict=True)}
    state = dict(values)

    def number(expression):
        return mpmath.mpf(sp.sympify(expression).subs(values).evalf(25))

    for binding in g.bindings:
        if binding.call:
            arguments = [number(a) for a in binding.arguments]
            values |= dict(zip(binding.symbols, _channel(loss, *arguments), strict=True))
        else:
            values[binding.symbols[0]] = number(binding.rhs)
    for symbol, rhs in g.updates.items():
        assert float(number(rhs)) == pytest.approx(float(state[symbol]), rel=2e-9), str(symbol)
    # And the observables that the generated code returns.
    vector = np.array([system.parameter_values(1.3)[n] for n in system.parameter_names()])
    found = dict(zip(system.module().OBSERVABLES, system.module().observe(result.x, vector), strict=True))
    for name, expression in g.observables.items():
        assert found[name] == pytest.approx(float(number(expression)), rel=1e-8), name


@pytest.mark.parametrize(("mean", "v", "q"), [(0.4, 0.7, 1.3), (-2.0, 5.0, 0.3), (1.0, 0.05, 9.0)])
@pytest.mark.parametrize("y", [-1.0, 1.0])
def test_hinge_closed_form_is_the_integral(mean, v, q, y):
    closed = [float(e.evalf(20)) for e in map(sp.sympify, hinge_channel(*map(sp.Float, (y, mean, v, q))))]
    exact = [float(e) for e in _channel("hinge", y, mpmath.mpf(mean), mpmath.mpf(v), mpmath.mpf(q))]
    np.testing.assert_allclose(closed, exact, atol=1e-12)
    out = np.empty((4, 1))
    kernels.node_channels(kernels.HINGE, np.array([y]), np.array([mean]), v, q, out)
    np.testing.assert_allclose(out[:, 0], exact, atol=1e-12)


@pytest.mark.parametrize("v", [0.01, 3.0, 40.0, 5e4])
def test_logistic_prox_solves_its_equation(v):
    """Bare Newton steps cycle for v above about 30; the bracket must hold everywhere."""
    for u in np.linspace(-40, 40, 81):
        for guess in (-1e3, u, 1e3):
            p = kernels.logistic_prox(u, v, guess)
            slope = 1 + v / 4
            assert abs(p - u - v / (1 + np.exp(min(p, 700)))) <= 2e-14 * slope * (1 + abs(p))


def test_teacher_channel_against_two_dimensional_quadrature():
    mean, v, q, overlap, nu_mean, nu_var, cuts = 0.3, 2.0, 1.5, 0.8, -0.2, 1.1, np.array([-0.5, 0.9])
    x = np.linspace(-9, 9, 40001)
    w = np.exp(-(x**2) / 2)
    w = w / w.sum()
    for loss, code in (("logistic", kernels.LOGISTIC), ("hinge", kernels.HINGE)):
        found = kernels.teacher_channel(code, mean, v, q, overlap, nu_mean, nu_var, cuts, -1.0)
        omega = mean + np.sqrt(q) * x
        centre, spread = nu_mean + overlap / q * (omega - mean), np.sqrt(nu_var - overlap**2 / q)
        # y = +1 between the cuts.
        plus = ndtr((cuts[1] - centre) / spread) - ndtr((cuts[0] - centre) / spread)
        prox = np.vectorize(
            lambda u, loss=loss: float(kernels.margin_response(1 if loss == "logistic" else 2, u, v, u)[1])
        )
        mean_f = w @ (plus * prox(omega) - (1 - plus) * prox(-omega))
        second = w @ (plus * prox(omega) ** 2 + (1 - plus) * prox(-omega) ** 2)
        tolerance = 1e-10 if loss == "logistic" else 1e-7
        assert found[0] == pytest.approx(mean_f, abs=tolerance)
        assert found[1] == pytest.approx(second, abs=tolerance)
        # The derivative in the teacher's mean, by finite differences of E f.
        h = 1e-5
        up, down = (
            kernels.teacher_channel(code, mean, v, q, overlap, nu_mean + s * h, nu_var, cuts, -1.0)[0] for s in (1, -1)
        )
        assert found[4] == pytest.approx((up - down) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("name", ["estimation-mixture", "giant-step-mixture"])
def test_equations_print(name):
    system = derive(load(RUNS / f"{name}.toml"))
    text = system.latex()
    assert text.count("=") >= 7
    assert len(system.explain()) > 500
    assert "def " in system.python()
