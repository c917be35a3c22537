"""The printed equations are the computed ones: every binding evaluated independently at the solution."""

from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy as sp

from dimladder.solve import derive, load, replace

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
        _gaussian(lambda z: _margin_loss(loss, y * mean + s * z), [(1 - y * mean) / s]),
        mpmath.ncdf(-y * mean / s),
    )


def _margin_loss(loss, u):
    return max(0, 1 - u) if loss == "hinge" else mpmath.log1p(mpmath.exp(-u))


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
    result = system.fixed_points(np.array([1.3]), np.array([0.07]))[0]
    assert result.success
    g = system.program
    vector = system.parameters(1.3, 0.07)
    values = {s: mpmath.mpf(float(v)) for s, v in zip(g.parameters, vector, strict=False)}
    values |= {s: mpmath.mpf(float(x)) for s, x in zip(g.state, result.x, strict=True)}
    state = dict(values)

    def number(expression):
        return mpmath.mpf(sp.sympify(expression).subs(values).evalf(25))

    for binding in g.bindings:
        if binding.call:
            v, q, _, mean, _ = (number(a) for a in binding.arguments)
            y = system.laws[int(binding.call.removeprefix("law_"))].values[0]
            found = dict(zip(("f", "ff", "fv", "fl", "ft", "fe"), _channel(loss, y, mean, v, q), strict=True))
            values |= {s: found[str(s).split("_")[0]] for s in binding.symbols}
        else:
            values[binding.symbols[0]] = number(binding.rhs)
    for symbol, rhs in g.updates.items():
        assert float(number(rhs)) == pytest.approx(float(state[symbol]), rel=2e-9), str(symbol)
    # And the observables that the generated code returns.
    seen = np.empty(len(system.module().OBSERVABLES))
    system.module().observe(result.x, vector, seen)
    found = dict(zip(system.module().OBSERVABLES, seen, strict=True))
    for name, expression in g.observables.items():
        assert found[name] == pytest.approx(float(number(expression)), rel=1e-8), name


@pytest.mark.parametrize("name", ["estimation-mixture", "giant-step-mixture"])
def test_equations_print(name):
    system = derive(load(RUNS / f"{name}.toml"))
    text = system.latex()
    assert text.count("=") >= 7
    assert len(system.explain()) > 500
    assert "def " in system.python()
