"""The Jacobian of online SGD, derived backwards through the averages, against differences of the right-hand side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import dimladder as dl
from dimladder.numerics.ode import integrate
from dimladder.symbolic.adjoints import adjoint, partial_derivative
from dimladder.symbolic.nodes import Correlation, DensityAtZero, Schur, SignMoment4
from dimladder.symbolic.programs import Program

TEXT = """
schema = 2
[target]
{target}
noise = 0.2
[student]
kind = "two-layer"
width = 3
activation = "{student}"
train_readout = {trained}
[algorithm]
kind = "one-pass"
learning_rate = 0.6
readout_learning_rate = 0.4
{algorithm}
[initial]
Q = [[0.8, 0.1, 0.0], [0.1, 0.6, -0.1], [0.0, -0.1, 0.7]]
M = [[0.2, 0.1], [-0.1, 0.3], [0.25, -0.2]]
a = [0.9, -0.7, 1.2]
[grid]
time = [0.0, 1.0]
"""
COMMITTEE = 'kind = "committee"\nreadout = [1.0, 0.7]\noverlap = [[1.0, 0.2], [0.2, 0.8]]\nactivation = '


def problem(student: str, target: str, algorithm: str = "", trained: bool = True) -> dl.Problem:
    return dl.loads(TEXT.format(student=student, target=target, algorithm=algorithm, trained=str(trained).lower()))


def differences(flow: Any, y: np.ndarray, t: float) -> np.ndarray:
    """Fourth-order central differences of the right-hand side."""
    p, work, n = flow.parameters(), np.zeros(flow.work_size()), len(y)
    columns = np.empty((n, n))
    for k in range(n):
        values = []
        for step in (-2, -1, 1, 2):
            moved, out = y.copy(), np.empty(n)
            moved[k] += step * 2e-4
            flow.module().rhs(t, moved, out, p, work)
            values.append(out)
        columns[:, k] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * 2e-4)
    return columns


@pytest.mark.parametrize(
    ("student", "target", "algorithm", "trained"),
    [
        ("erf", COMMITTEE + '"erf"', "weight_decay = 0.2\nbatch_size = 2", True),
        ("erf", COMMITTEE + '"erf"', "spherical = true", False),
        ("erf", COMMITTEE + '"erf"', 'spherical = true\n[loss]\nfunction = "correlation"', True),
        ("erf", COMMITTEE + '"relu"', 'regime = "gradient-flow"\nschedule = "1/(1 + t)"', True),
        ("erf", 'kind = "index"\nformula = "z1 + z1*z2"', "spherical = true", True),
        ("He2(x) + 0.3*x", COMMITTEE + '"He3(x)"', 'regime = "noise-dominated"', False),
        ("relu", COMMITTEE + '"relu"', "spherical = true", True),
    ],
    ids=["erf", "sphere", "correlation", "ReLU teacher", "multi-index", "noise only", "ReLU"],
)
def test_jacobian_is_the_derivative(student: str, target: str, algorithm: str, trained: bool) -> None:
    flow = dl.derive(problem(student, target, algorithm, trained))
    jac = flow.jacobian()
    y = flow.initial_state()
    matrix = np.full((len(y), len(y)), np.nan)
    jac(0.3, y, matrix, flow.parameters(), np.zeros(flow.work_size()))
    expected = differences(flow, y, 0.3)
    assert abs(matrix - expected).max() < 2e-9 * max(1.0, abs(expected).max())
    assert np.linalg.matrix_rank(expected) >= len(y) // 2


def test_implicit_methods_use_it() -> None:
    """The same curve, with fewer evaluations by the columns of every Jacobian."""
    p = dl.replace(problem("erf", COMMITTEE + '"erf"'), {"solver.method": "bdf", "grid.time": [0.0, 50.0, 200.0]})
    flow = dl.derive(p)
    asked = flow.integration()
    assert asked["jac"] is not None
    with_jac = integrate(y0=flow.initial_state(), p=flow.parameters(), **asked)
    without = integrate(y0=flow.initial_state(), p=flow.parameters(), **{**asked, "jac": None})
    assert with_jac.success
    assert with_jac.y == pytest.approx(without.y, abs=1e-6)
    assert without.stats["n_rhs"] - with_jac.stats["n_rhs"] >= len(flow.initial_state())
    assert dl.derive(dl.replace(p, {"solver.method": "auto"})).integration()["jac"] is None


def test_sums_of_erfs_and_quadrature_have_none() -> None:
    assert dl.derive(problem("tanh", COMMITTEE + '"tanh"')).jacobian() is None
    assert dl.derive(problem("silu", COMMITTEE + '"erf"')).jacobian() is None


# Adjoints -------------------------------------------------------------------------------------------------------------


def test_adjoint_of_a_program_is_its_gradient() -> None:
    """Every node that kernels use, in a chain where names are used more than once, and entries that may coincide."""
    C = sp.IndexedBase("C")
    p, q, r = sp.symbols("p q r", integer=True)
    S, E = sp.symbols("S E", real=True)
    one, two, three = C[p, p], C[p, q], C[r, r]
    program = Program(
        [(S, Schur(one, two, two, three)), (E, sp.asin(Correlation(two, S, three)) * DensityAtZero(S) + S**2)],
        E * two + SignMoment4(E / 10, S / 10, two / 5, two / 7, S / 9, one / 8),
    )
    back = adjoint(program)
    flat = program.value.subs(E, program.statements[1][1]).subs(S, program.statements[0][1])
    names = {one: sp.Symbol("x1"), two: sp.Symbol("x2"), three: sp.Symbol("x3")}
    point = {names[one]: 1.3, names[two]: 0.4, names[three]: 0.9}

    def number(expression: Any) -> float:
        return float(expression.xreplace(names).doit().subs(point).evalf(20))

    values = {S: number(program.statements[0][1])}
    values[E] = number(program.statements[1][1].subs(S, values[S]))
    for name, expression in back.statements:
        values[name] = number(expression.subs(values))
    assert set(back.gradient) == {one, two, three}
    for entry, derivative in back.gradient.items():
        step = 1e-4
        ends = []
        for sign in (-2, -1, 1, 2):
            moved = {**point, names[entry]: point[names[entry]] + sign * step}
            ends.append(float(flat.xreplace(names).doit().subs(moved).evalf(20)))
        expected = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
        assert number(derivative.subs(values)) == pytest.approx(expected, rel=1e-9)


def test_entries_are_independent_whatever_their_indices() -> None:
    C = sp.IndexedBase("C")
    p, q = sp.symbols("p q", integer=True)
    assert partial_derivative(C[p, p] * C[p, q], C[p, q]) == C[p, p]
