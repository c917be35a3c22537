"""Orders of convergence, dense output and error control of the integrators."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from scipy.integrate import solve_ivp

from dimladder.numerics.ode import Interpreted, integrate

RHS = "void(f8, f8[::1], f8[::1], f8[::1], f8[::1])"
JAC = "void(f8, f8[::1], f8[:, ::1], f8[::1], f8[::1])"


# A rotation coupled to a nonlinear, time-dependent scalar: y = (sin t, cos t, 1/(1 + p sin t)).
@njit(RHS)
def problem(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    dy[0] = y[1]
    dy[1] = -y[0]
    dy[2] = -p[0] * np.cos(t) * y[2] * y[2]


@njit(JAC)
def problem_jac(t, y, J, p, work):  # type: ignore[no-untyped-def]
    J[:] = 0.0
    J[0, 1] = 1.0
    J[1, 0] = -1.0
    J[2, 2] = -2.0 * p[0] * np.cos(t) * y[2]


START, P = [0.0, 1.0, 1.0], [0.3]


def exact(t: np.ndarray | float) -> np.ndarray:
    t = np.asarray(t)
    return np.stack([np.sin(t), np.cos(t), 1 / (1 + P[0] * np.sin(t))], axis=-1)


ORDERS = {"tsit5": (5, 4, (24, 48, 96)), "dp5": (5, 4, (24, 48, 96)), "dop853": (8, 7, (6, 9, 13)),
          "rodas5p": (5, 4, (24, 48, 96))}  # fmt: skip


def fixed_steps(method: str, steps: int) -> tuple[float, float]:
    """Largest error at the end, and over the interpolant, with `steps` equal steps over [0, 2]."""
    result = integrate(
        problem, START, [2.0], p=P, jac=problem_jac, method=method, rtol=0.5, atol=1e8, first_step=2.0 / steps,
        max_step=2.0 / steps, dense=True,
    )  # fmt: skip
    assert result.stats["n_steps"] == steps
    assert result.dense is not None
    fine = np.linspace(0, 2, 997)
    return float(np.abs(result.y[-1] - exact(2.0)).max()), float(np.abs(result.dense(fine) - exact(fine)).max())


@pytest.mark.parametrize("method", sorted(ORDERS))
def test_order_of_the_method(method: str) -> None:
    order, _, counts = ORDERS[method]
    errors = [fixed_steps(method, n)[0] for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(-slope - order) < 0.2, (errors, slope)


@pytest.mark.parametrize("method", sorted(ORDERS))
def test_order_of_the_interpolant(method: str) -> None:
    """Global order min(order, dense order + 1): the interpolation error of one step is O(h^(dense order + 1))."""
    _, dense_order, counts = ORDERS[method]
    counts = tuple(2 * c for c in counts) if method in ("tsit5", "dp5") else counts
    errors = [fixed_steps(method, n)[1] for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(-slope - (dense_order + 1)) < 0.3, (errors, slope)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_orders_of_bdf(order: int) -> None:
    """Each formula by itself, started on exact backward differences: the defect of one step is O(h^(order + 1))."""
    from dimladder.numerics.ode import tableaux

    table = tableaux.method("bdf").table
    gamma, alpha = table[0], table[1]

    def defect(h: float) -> float:
        # sum_j D_j / j - kappa gamma_k D_(k+1) over the exact solution e^t, against h y'.
        values = np.exp(h * -np.arange(order + 2.0))
        differences = []
        while len(values) > 1:
            values = values[:-1] - values[1:]
            differences.append(values[0])
        kappa = 1.0 - alpha[order] / gamma[order]
        left = sum(differences[j - 1] / j for j in range(1, order + 1)) - kappa * gamma[order] * differences[order]
        return abs(float(left) - h)

    steps = np.array([0.08, 0.04, 0.02])
    slope = np.polyfit(np.log(steps), np.log([defect(h) for h in steps]), 1)[0]
    assert abs(slope - (order + 1)) < 0.2


@pytest.mark.parametrize("method", ["tsit5", "dp5", "dop853", "rodas5p", "auto"])
@pytest.mark.parametrize("rtol", [1e-4, 1e-7, 1e-10])
def test_error_is_near_the_tolerance(method: str, rtol: float) -> None:
    times = np.linspace(0, 10, 23)
    result = integrate(problem, START, times, p=P, jac=problem_jac, method=method, rtol=rtol, atol=rtol, dense=True)
    assert result.status == "success"
    np.testing.assert_array_equal(result.t, times)
    ratio = np.abs(result.y - exact(times)) / (rtol * (1 + np.abs(exact(times))))
    assert ratio.max() < 10
    fine = np.linspace(0, 10, 501)
    assert result.dense is not None
    assert (np.abs(result.dense(fine) - exact(fine)) / (rtol * (1 + np.abs(exact(fine))))).max() < 10


def test_bdf_error_falls_with_the_tolerance() -> None:
    """A multistep method on an undamped rotation adds its errors up: within 100 tolerances after three turns."""
    for rtol in (1e-4, 1e-6, 1e-8):
        result = integrate(problem, START, [20.0], p=P, method="bdf", rtol=rtol, atol=rtol)
        assert np.abs(result.y[-1] - exact(20.0)).max() < 100 * rtol


@pytest.mark.parametrize("method", ["tsit5", "dop853", "rodas5p", "bdf"])
def test_against_scipy(method: str) -> None:
    """A chaotic-looking but short Lorenz arc; the oracle is SciPy's DOP853 near rounding."""

    @njit(RHS)
    def lorenz(t, y, dy, p, work):  # type: ignore[no-untyped-def]
        dy[0] = p[0] * (y[1] - y[0])
        dy[1] = y[0] * (p[1] - y[2]) - y[1]
        dy[2] = y[0] * y[1] - p[2] * y[2]

    p, y0, times = np.array([10.0, 28.0, 8 / 3]), [1.0, 2.0, 3.0], np.linspace(0, 2, 9)

    def python(t: float, y: np.ndarray) -> np.ndarray:
        dy = np.empty(3)
        lorenz(t, y, dy, p, p)
        return dy

    oracle = solve_ivp(python, (0, 2), y0, method="DOP853", rtol=1e-13, atol=1e-14, t_eval=times).y.T
    tight = 1e-9 if method == "bdf" else 1e-11
    ours = integrate(lorenz, y0, times, p=p, method=method, rtol=tight, atol=tight)
    # The flow amplifies local errors by about e^(2 * 1) to 100 over this arc, and sizes are up to 50.
    np.testing.assert_allclose(ours.y, oracle, atol=5e5 * tight if method == "bdf" else 2e4 * tight)
    slow = integrate(Interpreted(lambda t, y: python(t, y), with_parameters=False), y0, times, method=method,
                     rtol=tight, atol=tight)  # fmt: skip
    np.testing.assert_allclose(slow.y, ours.y, rtol=1e-13 if method != "bdf" else 1e-8)


def test_stepping_to_the_outputs_agrees_with_interpolation() -> None:
    times = np.linspace(0, 5, 41)
    runs = [integrate(problem, START, times, p=P, rtol=1e-9, output=how) for how in ("interpolate", "step")]
    np.testing.assert_allclose(runs[0].y, runs[1].y, atol=2e-8)
    assert runs[1].stats["n_steps"] >= 40


@pytest.mark.parametrize("method", ["tsit5", "dop853", "rodas5p", "bdf"])
@pytest.mark.parametrize(
    "times", [[], [0.0], [0.0, 0.0, 1.0, 1.0, 1.0, 2.0], [2.0], [-1.0, -2.0], [0.0, -0.5, -0.5]], ids=str
)
def test_output_times_are_exact(method: str, times: list[float]) -> None:
    result = integrate(problem, START, times, p=P, method=method, rtol=1e-8)
    assert result.status == "success"
    np.testing.assert_array_equal(result.t, times)
    assert result.y.shape == (len(times), 3)
    np.testing.assert_allclose(result.y, exact(np.array(times)), atol=1e-6)
    for row, t in zip(result.y, times, strict=True):
        if t == 0:
            np.testing.assert_array_equal(row, START)


def test_backwards_returns_to_the_start() -> None:
    there = integrate(problem, START, [3.0], p=P, rtol=1e-11, atol=1e-12)
    back = integrate(problem, there.y[-1], [1.5, 0.0], t0=3.0, p=P, rtol=1e-11, atol=1e-12, dense=True)
    np.testing.assert_allclose(back.y[-1], START, atol=1e-9)
    assert back.dense is not None
    times = np.array([3.0, 1.5, 0.2, 0.0])
    np.testing.assert_allclose(back.dense(times), exact(times), atol=1e-9)


def test_dense_output_does_not_extrapolate() -> None:
    result = integrate(problem, START, [1.0], p=P, dense=True)
    assert result.dense is not None
    assert result.dense(0.5).shape == (3,)
    assert result.dense(np.zeros((2, 2))).shape == (2, 2, 3)
    np.testing.assert_array_equal(result.dense(1.0), result.y[-1])
    with pytest.raises(ValueError, match="outside the integrated interval"):
        result.dense(1.1)


def test_finite_differences_match_the_jacobian() -> None:
    for method in ("rodas5p", "bdf"):
        given = integrate(problem, START, [5.0], p=P, jac=problem_jac, method=method, rtol=1e-7)
        differences = integrate(problem, START, [5.0], p=P, method=method, rtol=1e-7)
        np.testing.assert_allclose(given.y, differences.y, rtol=1e-6)
        assert given.stats["n_jac"] > 0
        # Every evaluation is counted: three more for each Jacobian of three columns.
        assert differences.stats["n_rhs"] >= given.stats["n_rhs"] + 3 * differences.stats["n_jac"] - 40
