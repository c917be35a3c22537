"""Fixed-point solvers: known roots, hard iterations, honest failures."""

import math

import numpy as np
import pytest

from dimladder.numerics import fixedpoint
from dimladder.numerics.native import njit

MAP = "void(f8[::1], f8[::1], f8[::1], f8[::1])"


@njit(MAP, error_model="numpy")
def cosine(x, out, p, work):
    out[0] = math.cos(p[0] * x[0])


@njit(MAP, error_model="numpy")
def repelling(x, out, p, work):
    # Slope -p at the fixed point x = 1: undamped iteration diverges for p > 1.
    out[0] = 1.0 - p[0] * (x[0] - 1.0) + 0.01 * (x[0] - 1.0) ** 2
    out[1] = x[0] * x[0]


@njit(MAP, error_model="numpy")
def never(x, out, p, work):
    out[0] = x[0] + 1.0 + x[0] * x[0]


@njit(MAP, error_model="numpy")
def undefined(x, out, p, work):
    out[0] = math.sqrt(-1.0 - x[0] * x[0])


@njit(MAP, error_model="numpy")
def positive_only(x, out, p, work):
    out[0] = math.nan if x[0] <= 0.0 else 1e-6 * x[0] + 1e-7 / x[0]


def test_known_root_to_rounding():
    result = fixedpoint.solve(cosine, [0.3], [1.0], rtol=1e-14)
    assert result.success
    assert result.x[0] == pytest.approx(0.7390851332151607, rel=2e-15)


@pytest.mark.parametrize("memory", [0, 4])
def test_iteration_alone_converges(memory):
    result = fixedpoint.solve(cosine, [0.3], [1.0], rtol=1e-12, memory=memory, newton_steps=0)
    assert result.success
    assert result.x[0] == pytest.approx(0.7390851332151607, rel=1e-11)
    assert result.stats["newton_steps"] == 0


@pytest.mark.parametrize("slope", [0.5, 3.0, 30.0])
def test_repelling_fixed_points_are_reached(slope):
    result = fixedpoint.solve(repelling, [1.7, 0.0], [slope], damping=1.0)
    assert result.success, result.message
    np.testing.assert_allclose(result.x, [1.0, 1.0], rtol=1e-10)


def test_plain_iteration_reduces_its_damping_when_it_diverges():
    result = fixedpoint.solve(repelling, [1.5, 0.0], [3.0], damping=1.0, memory=0, newton_steps=0, rtol=1e-9)
    assert result.success
    assert result.stats["damping"] < 0.5


def test_failure_says_residual_component_and_damping():
    result = fixedpoint.solve(never, [0.1], names=["q"], max_iterations=200)
    assert not result.success
    assert result.status == "max_iterations"
    for word in ("residual", "q", "damping"):
        assert word in result.message


def test_leaving_the_domain_is_reported():
    result = fixedpoint.solve(undefined, [0.1], names=["V"])
    assert result.status == "left_domain"
    assert "V" in result.message


def test_lower_bounds_hold_everywhere():
    result = fixedpoint.solve(positive_only, [5.0], lower=0.0, rtol=1e-12)
    assert result.success, result.message
    assert result.x[0] == pytest.approx(np.sqrt(1e-7 / (1 - 1e-6)), rel=1e-10)


def test_following_a_curve_equals_solving_each_point():
    table = np.linspace(0.2, 1.2, 30)[:, None]
    curve = fixedpoint.follow(cosine, [0.5], table, rtol=1e-13)
    alone = [fixedpoint.solve(cosine, [0.5], row, rtol=1e-13).x[0] for row in table]
    np.testing.assert_allclose([r.x[0] for r in curve], alone, rtol=1e-13)
    # Warm starts by the secant save evaluations.
    assert sum(r.stats["evaluations"] for r in curve[2:]) < 30 * 12


def test_geometric_bisection_spans_decades_and_refuses_without_a_bracket():
    root = fixedpoint.bisect_geometric(lambda z: z - 3e-11, 1e-20, 1e5)
    assert root == pytest.approx(3e-11, rel=1e-13)
    with pytest.raises(ValueError, match="no sign change"):
        fixedpoint.bisect_geometric(lambda z: z + 1.0, 1e-3, 1e3)
