"""Stiff problems, the choice between explicit and implicit methods, and behaviour at fixed points."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from scipy.integrate import solve_ivp

from dimladder.numerics.ode import integrate

RHS = "void(f8, f8[::1], f8[::1], f8[::1], f8[::1])"
JAC = "void(f8, f8[::1], f8[:, ::1], f8[::1], f8[::1])"


@njit(RHS)
def robertson(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = -0.04 * y[0] + 1e4 * y[1] * y[2]
    dy[2] = 3e7 * y[1] * y[1]
    dy[1] = -dy[0] - dy[2]


@njit(JAC)
def robertson_jac(t, y, J, p, work):  # type: ignore[no-untyped-def]
    J[0, 0], J[0, 1], J[0, 2] = -0.04, 1e4 * y[2], 1e4 * y[1]
    J[2, 0], J[2, 1], J[2, 2] = 0.0, 6e7 * y[1], 0.0
    for j in range(3):
        J[1, j] = -J[0, j] - J[2, j]


@njit(RHS)
def van_der_pol(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = y[1]
    dy[1] = p[0] * (1.0 - y[0] * y[0]) * y[1] - y[0]


@njit(RHS)
def linear(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    # y' = -A y with A = H diag(p) H, H the Householder reflection along (1, ..., 1): a full matrix of known spectrum.
    n = y.size
    mean = 0.0
    for i in range(n):
        mean += y[i]
    mean *= 2.0 / n
    total = 0.0
    for i in range(n):
        work[i] = p[i] * (y[i] - mean)
        total += work[i]
    total *= 2.0 / n
    for i in range(n):
        dy[i] = -(work[i] - total)


def linear_solution(y0: np.ndarray, p: np.ndarray, t: float) -> np.ndarray:
    reflect = np.eye(len(p)) - 2.0 / len(p)
    return np.asarray(reflect @ (np.exp(-p * t) * (reflect @ y0)))


# A gradient flow with a saddle, a slow escape and a fixed point reached exactly: x' = x - x^3 - stiff relaxation of z.
@njit(RHS)
def settles(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = y[0] - y[0] ** 3
    dy[1] = -p[0] * (y[1] - y[0])
    dy[2] = -p[1] * y[2]


def oracle(rhs, y0: list[float], times: list[float], p: list[float]) -> np.ndarray:  # type: ignore[no-untyped-def]
    """SciPy's Radau at a tight tolerance."""

    def python(t: float, y: np.ndarray) -> np.ndarray:
        dy = np.empty(len(y))
        rhs.py_func(t, y, dy, p, None)
        return dy

    solution = solve_ivp(python, (0, times[-1]), y0, method="Radau", rtol=1e-10, atol=1e-15, t_eval=times)
    return np.asarray(solution.y.T)


ROBERTSON_TIMES, VAN_DER_POL_TIMES = [0.4, 40.0, 4e3, 4e5], [400.0, 700.0, 1000.0, 2000.0]


@pytest.fixture(scope="module")
def robertson_oracle() -> np.ndarray:
    return oracle(robertson, [1.0, 0.0, 0.0], ROBERTSON_TIMES, [])


@pytest.fixture(scope="module")
def van_der_pol_oracle() -> np.ndarray:
    return oracle(van_der_pol, [2.0, 0.0], VAN_DER_POL_TIMES, [1e3])


@pytest.mark.parametrize("method", ["rodas5p", "bdf", "auto"])
@pytest.mark.parametrize("given", [True, False], ids=["jacobian", "differences"])
def test_robertson(method: str, given: bool, robertson_oracle: np.ndarray) -> None:
    jac = robertson_jac if given else None
    for rtol in (1e-4, 1e-7):
        result = integrate(robertson, [1.0, 0, 0], ROBERTSON_TIMES, jac=jac, method=method, rtol=rtol, atol=1e-5 * rtol)
        assert result.status == "success"
        # Twenty tolerances at the latest time, which lies seven decades after the first steps.
        np.testing.assert_allclose(result.y, robertson_oracle, rtol=20 * rtol, atol=2e-4 * rtol)
        assert result.stats["n_rhs"] < (900 if rtol == 1e-4 else 2800)


@pytest.mark.parametrize("method", ["rodas5p", "bdf", "auto"])
def test_van_der_pol(method: str, van_der_pol_oracle: np.ndarray) -> None:
    """mu = 1000: slow branches with jumps; the position after each jump is set by the phase."""
    times = VAN_DER_POL_TIMES
    result = integrate(van_der_pol, [2.0, 0.0], times, p=[1e3], method=method, rtol=1e-6, atol=1e-9)
    assert result.status == "success"
    np.testing.assert_allclose(result.y, van_der_pol_oracle, rtol=5e-5)
    assert result.stats["n_rhs"] < 9000
    if method == "auto":
        explicit = integrate(van_der_pol, [2.0, 0.0], times[:1], p=[1e3], method="dop853", rtol=1e-6, atol=1e-9)
        assert explicit.stats["n_rhs"] > 50 * result.stats["n_rhs"]


@pytest.mark.parametrize("method", ["rodas5p", "bdf", "auto"])
def test_linear_spectrum_of_ratio_ten_thousand(method: str) -> None:
    p = np.geomspace(1e-4, 1.0, 8)
    y0 = np.cos(np.arange(8.0))
    times = [1.0, 30.0, 1e3, 2e4, 1e5]
    result = integrate(linear, y0, times, p=p, work_size=8, method=method, rtol=1e-8, atol=1e-11)
    exact = np.array([linear_solution(y0, p, t) for t in times])
    np.testing.assert_allclose(result.y, exact, atol=3e-7)
    explicit = integrate(linear, y0, times, p=p, work_size=8, method="dop853", rtol=1e-8, atol=1e-11)
    # All evaluations counted, those for Jacobians included.
    assert explicit.stats["n_rhs"] > (20 if method != "rodas5p" else 8) * result.stats["n_rhs"]


def test_auto_says_what_it_did() -> None:
    p = np.geomspace(1e-4, 1.0, 8)
    result = integrate(linear, np.ones(8), [1e5], p=p, work_size=8, rtol=1e-7)
    (switch,) = result.stats["switches"]
    assert switch.method == "bdf"
    assert 0.5 < switch.ratio < 2
    assert "stability" in result.stats["reason"]
    assert result.stats["n_jac"] > 0
    mild = integrate(linear, np.ones(8), [5.0], p=p, work_size=8, rtol=1e-7)
    assert mild.stats["switches"] == ()
    assert mild.stats["n_jac"] == 0


def test_auto_returns_to_the_explicit_method() -> None:
    """Stiff while the clock is below 50, then an oscillation that an explicit method follows cheaply."""

    @njit(RHS)
    def two_phases(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        rate = 1e4 / (1.0 + np.exp(4.0 * (t - 50.0))) + 0.01
        dy[0] = -rate * (y[0] - np.cos(0.1 * t))
        dy[1] = 3.0 * y[2]
        dy[2] = -3.0 * y[1]

    result = integrate(two_phases, [1.0, 0.0, 1e-3], [50.0, 400.0], rtol=1e-8, atol=1e-10)
    assert result.status == "success"
    assert [s.method for s in result.stats["switches"]][:2] == ["bdf", "dop853"]
    t = 400.0
    np.testing.assert_allclose(result.y[1, 1:], 1e-3 * np.array([np.sin(3 * t), np.cos(3 * t)]), atol=2e-7)


@pytest.mark.parametrize("method", ["auto", "bdf", "rodas5p"])
@pytest.mark.parametrize("rtol", [1e-5, 1e-8, 1e-10])
def test_no_thrashing_at_a_fixed_point(method: str, rtol: float) -> None:
    """The fixed point (1, 1, 0) is reached to rounding by t = 100; after that the work must not grow with the time."""
    counts = []
    for end in (1e3, 1e5, 1e7):
        result = integrate(settles, [1e-3, 1.0, 1.0], [end], p=[30.0, 0.3], method=method, rtol=rtol, atol=1e-3 * rtol)
        assert result.status == "success"
        np.testing.assert_allclose(result.y[-1], [1.0, 1.0, 0.0], atol=10 * rtol)
        counts.append(result.stats["n_rhs"])
    assert counts[2] < counts[0] + 600


def test_long_plateau_is_escaped() -> None:
    """An implicit method may not sit on the saddle: x(t) = e^t / sqrt(e^2t + 1/x0^2 - 1), whatever relaxes fast."""
    x0 = 1e-6
    times = np.array([5.0, 10.0, 13.0, 14.0, 15.0, 20.0])
    exact = 1 / np.sqrt(1 + (x0**-2 - 1) * np.exp(-2 * times))
    for method in ("auto", "bdf", "rodas5p"):
        result = integrate(settles, [x0, x0, 1.0], times, p=[1e3, 2e2], method=method, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(result.y[:, 0], exact, rtol=2e-5)


def test_dense_output_across_a_change_of_method() -> None:
    p = np.geomspace(1e-3, 1.0, 6)
    y0 = np.cos(np.arange(6.0))
    result = integrate(linear, y0, [2e4], p=p, work_size=6, rtol=1e-8, atol=1e-10, dense=True)
    (switch,) = result.stats["switches"]
    times = np.concatenate([np.geomspace(1e-2, 2e4, 200), switch.t + np.linspace(-5, 5, 21)])
    assert result.dense is not None
    exact = np.array([linear_solution(y0, p, t) for t in times])
    np.testing.assert_allclose(result.dense(times), exact, atol=3e-7)
    # The same numbers come out when the times are asked for at once.
    asked = integrate(linear, y0, np.sort(times)[:-1], p=p, work_size=6, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(asked.y, exact[np.argsort(times)][:-1], atol=3e-7)
