"""Equilibria, their stability, branches and folds, critical parameters and escape times, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from dimladder.numerics import continuation, equilibria

RHS = "void(f8, f8[::1], f8[::1], f8[::1], f8[::1])"
JAC = "void(f8, f8[::1], f8[:, ::1], f8[::1], f8[::1])"


# x' = p0 + p1 x - x^3, z' = p2 (x^2 - z): pitchfork at p0 = 0, folds at p0 = +-2 (p1/3)^(3/2), a slaved direction.
@njit(RHS)
def cubic(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = p[0] + p[1] * y[0] - y[0] ** 3
    dy[1] = p[2] * (y[0] * y[0] - y[1])


@njit(JAC)
def cubic_jac(t, y, J, p, work):  # type: ignore[no-untyped-def]
    J[0, 0], J[0, 1] = p[1] - 3.0 * y[0] ** 2, 0.0
    J[1, 0], J[1, 1] = 2.0 * p[2] * y[0], -p[2]


@njit(RHS)
def focus(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = p[0] * y[0] - y[1]
    dy[1] = y[0] + p[0] * y[1]


@pytest.mark.parametrize("jac", [None, cubic_jac], ids=["differences", "jacobian"])
def test_find_reaches_the_stable_equilibrium(jac) -> None:  # type: ignore[no-untyped-def]
    found = equilibria.find(cubic, [1e-3, 0.3], p=[0.0, 1.7, 40.0], jac=jac)
    assert found.success
    np.testing.assert_allclose(found.y, [np.sqrt(1.7), 1.7], rtol=1e-13)
    np.testing.assert_allclose(found.eigenvalues, [-3.4, -40.0], rtol=1e-8)
    assert (found.stability, found.unstable_directions) == ("stable", 0)
    np.testing.assert_allclose(found.relaxation_rate, 3.4, rtol=1e-8)


def test_polish_finds_the_saddle() -> None:
    found = equilibria.polish(cubic, [0.2, 0.1], p=[0.0, 1.7, 40.0])
    assert found.success
    np.testing.assert_allclose(found.y, [0.0, 0.0], atol=1e-13)
    assert (found.stability, found.unstable_directions) == ("unstable", 1)
    np.testing.assert_allclose(found.eigenvalues, [1.7, -40.0], rtol=1e-8)


def test_marginal_and_complex() -> None:
    assert equilibria.polish(focus, [0.3, 0.1], p=[0.0]).stability == "marginal"
    stable = equilibria.polish(focus, [0.3, 0.1], p=[-0.2])
    np.testing.assert_allclose(sorted(stable.eigenvalues.imag), [-1.0, 1.0], rtol=1e-9)
    assert stable.stability == "stable"
    assert equilibria.polish(focus, [0.3, 0.1], p=[0.2]).unstable_directions == 2


def test_failures_are_reported() -> None:
    turning = equilibria.find(focus, [1.0, 0.0], p=[0.0], t_max=50.0)
    assert turning.status == "not_converged"
    assert "is still 0.96" in turning.message  # max(|cos 50|, |sin 50|)
    growing = equilibria.find(focus, [1.0, 0.0], p=[1.0], t_max=1e4)
    assert growing.status == "blow_up"

    @njit(RHS)
    def nowhere(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = 1.0 + y[0] * y[0]

    assert equilibria.polish(nowhere, [0.5]).status == "not_converged"


def test_follow_passes_both_folds() -> None:
    """The S-shaped curve from the lower to the upper branch: stable, unstable between the folds, stable."""
    fold = 2 * (1.5 / 3) ** 1.5
    start = equilibria.polish(cubic, [-2.0, 4.0], p=[-2.0, 1.5, 5.0])
    branch = continuation.follow(cubic, start.y, p=[-2.0, 1.5, 5.0], index=0, stop=2.0, jac=cubic_jac)
    assert branch.status == "success"
    x = branch.y[:, 0]
    np.testing.assert_allclose(branch.parameter, x**3 - 1.5 * x, atol=1e-9)
    assert (np.diff(x) > 0).all()
    assert len(branch.folds) == 2
    assert len(branch.crossings) == 2
    np.testing.assert_array_equal(branch.unstable_directions, (np.abs(x) < np.sqrt(0.5)).astype(int))
    # The extreme points of the curve lie within the square of a step of the folds.
    up, down = branch.folds
    np.testing.assert_allclose([branch.parameter[up], branch.parameter[down]], [fold, -fold], atol=0.02)


def test_critical_parameter_of_the_pitchfork() -> None:
    def stable(p1: float) -> bool:
        return equilibria.polish(cubic, [0.0, 0.0], p=[0.0, p1, 1.0]).stability == "stable"

    low, high = equilibria.critical_parameter(stable, -1.0, 2.5, rtol=1e-6)
    assert -1e-6 < low <= high < 1e-6
    with pytest.raises(ValueError, match="at both ends"):
        equilibria.critical_parameter(stable, -2.0, -1.0)


def test_critical_parameter_of_the_fold() -> None:
    """The lower branch exists up to the fold: found by whether the flow stays on it."""

    def stays(p0: float) -> bool:
        return bool(equilibria.find(cubic, [-1.5, 2.0], p=[p0, 1.5, 5.0], t_max=1e7).y[0] < 0)

    low, high = equilibria.critical_parameter(stays, 0.0, 1.5, rtol=1e-7)
    np.testing.assert_allclose([low, high], 2 * 0.5**1.5, rtol=1e-5)


@pytest.mark.parametrize("x0", [1e-3, 1e-7])
def test_escape_time_of_a_saddle(x0: float) -> None:
    """x' = x - x^3 from x0: e^2t = (1/x0^2 - 1) / (1/x^2 - 1), here until x = 1/2."""
    level = njit("f8(f8, f8[::1], f8[::1])")(lambda t, y, p: y[0] - 0.5)
    t, y = equilibria.escape_time(cubic, [x0, 0.0], level, p=[0.0, 1.0, 50.0], t_max=100.0)
    np.testing.assert_allclose(t, 0.5 * np.log((x0**-2 - 1) / 3), rtol=1e-7)
    np.testing.assert_allclose(y[0], 0.5, atol=1e-12)
    never, _ = equilibria.escape_time(cubic, [x0, 0.0], level, p=[0.0, -1.0, 50.0], t_max=100.0)
    assert never == np.inf
