"""Rest points of online SGD in the problem's own words, against closed statements and long integrations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.equilibria import _Branch

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"


def one_unit(**changes: object) -> dl.Problem:
    keys = {k.replace("__", "."): v for k, v in changes.items()}
    return dl.load(
        RUNS / "online-erf.toml",
        {
            "target.readout": [1.0], "target.overlap": [[1.0]], "target.noise": 0.0, "student.width": 1,
            "student.train_readout": False, "algorithm.learning_rate": 1.5, "initial.Q": [[0.5]], "initial.M": [[0.1]],
            "initial.a": [1.0], **keys,
        },
    )  # fmt: skip


def test_noise_free_learning_rests_at_the_teacher() -> None:
    rest = dl.equilibrium(one_unit())
    assert rest["Q"].values.ravel() == pytest.approx([1.0], abs=1e-9)
    assert rest["M"].values.ravel() == pytest.approx([1.0], abs=1e-9)
    assert rest.stats["stability"] == ["stable"]


def test_learning_is_lost_beyond_the_critical_rate() -> None:
    """Perfect learning loses stability where diffusion of the orthogonal weights beats their drift."""
    low, high = dl.critical_value(one_unit(), "algorithm.learning_rate", 0.5, 8.0, start=[1.0, 1.0])
    critical = (low + high) / 2
    # The variance s of the student field orthogonal to the teacher obeys, to first order about Q = M = 1,
    # s' = (-2 eta E[g'^2] + eta^2 E[g'^4]) s with E[g'^2] = 2/(pi sqrt 3) and E[g'^4] = 4/(pi^2 sqrt 5).
    assert critical == pytest.approx(2 * (2 / math.pi / math.sqrt(3)) / (4 / math.pi**2 / math.sqrt(5)), rel=1e-7)
    for rate, learns in ((0.97 * critical, True), (1.03 * critical, False)):
        curve = dl.solve(
            dl.replace(
                one_unit(),
                {
                    "algorithm.learning_rate": rate,
                    "initial.Q": [[1.0001]],
                    "initial.M": [[1.0]],
                    "grid.time": [0.0, 200.0],
                },
            )
        )
        errors = curve["generalization_error"].values
        assert (errors[1] < errors[0]) == learns


def test_following_a_rest_point_agrees_with_integration() -> None:
    problem = one_unit(target__noise=0.3)
    branch = dl.follow_equilibrium(problem, "algorithm.learning_rate", [0.2, 0.5, 1.0, 1.5])
    assert branch["generalization_error"].dims == ("algorithm.learning_rate",)
    for rate, error in zip((0.5, 1.5), branch["generalization_error"].values[[1, 3]], strict=True):
        long = dl.solve(
            dl.replace(problem, {"algorithm.learning_rate": rate, "grid.time": [2000.0], "solver.rtol": 1e-10})
        )
        assert error == pytest.approx(long["generalization_error"].values[0], rel=1e-6)
    # The noise floor grows with the rate, linearly for small rates.
    floor = branch["generalization_error"].values
    assert np.all(np.diff(floor) > 0)


def test_the_slope_of_a_branch_is_that_of_its_points() -> None:
    """dM/d(eta), dQ/d(eta) of the noise floor, by the implicit function, against differences of polished points."""
    branch = _Branch(one_unit(target__noise=0.3), "algorithm.learning_rate")
    for value in (0.999, 1.0, 1.001, 1.3):
        assert branch.at(value).success
    (_, low, _), (_, _, slope), (_, high, _), (_, far, _) = branch.known
    np.testing.assert_allclose(slope, (high - low) / 0.002, rtol=1e-5)
    # A guess on the tangent is off by the second order.
    assert abs(branch.known[1][1] + 0.3 * slope - far).max() < 0.2 * abs(far - branch.known[1][1]).max()


def test_the_noise_floor_of_a_linear_unit_moves_as_its_closed_form() -> None:
    """At rest M = 1 and Q - 1 = eta sigma^2/(2 - eta)."""
    problem = one_unit(
        target__noise=0.3, target__activation="x", student__activation="x", algorithm__learning_rate=0.7,
    )  # fmt: skip
    for key, exact in (
        ("algorithm.learning_rate", 2 * 0.3**2 / 1.3**2), ("target.noise", 2 * 0.7 * 0.3 / 1.3),
    ):  # fmt: skip
        branch = _Branch(problem, key)
        assert branch.at(0.7 if key == "algorithm.learning_rate" else 0.3).success
        _, y, slope = branch.known[0]
        named = dict(zip(branch.flow(0.3).names(), slope, strict=True))
        assert y.max() == pytest.approx(1 + 0.7 * 0.3**2 / 1.3, rel=1e-11)
        assert named["Q[0,0]"] == pytest.approx(exact, rel=1e-10)
        assert abs(named["M[0,0]"]) < 1e-10


def test_derivatives_of_the_equations_are_exact_without_a_printed_jacobian() -> None:
    from dimladder.numerics import equilibria

    flow = dl.derive(dl.load(RUNS / "online-erf.toml"))
    # A Jacobian decides the size of the scratch array.
    y, jac = flow.initial_state(), flow.jacobian()
    asked = {"p": flow.parameters(), "work_size": flow.work_size()}
    printed = equilibria.jacobian(flow.module().rhs, y, jac=jac, **asked)
    np.testing.assert_allclose(equilibria.jacobian(flow.module().rhs, y, **asked), printed, rtol=1e-12, atol=1e-14)


def test_escape_time_is_where_the_curve_crosses() -> None:
    problem = dl.load(RUNS / "online-erf.toml")
    time = dl.escape_time(problem, "generalization_error", 0.01, t_max=1000.0)
    there = dl.solve(dl.replace(problem, {"grid.time": [time]}))
    assert there["generalization_error"].values[0] == pytest.approx(0.01, rel=1e-6)
    assert dl.escape_time(problem, "generalization_error", 0.01, t_max=10.0) == np.inf


def test_a_theory_without_a_flow_says_so() -> None:
    with pytest.raises(dl.DimladderError, match="no equilibria"):
        dl.equilibrium(dl.load(RUNS / "hierarchical-plateaus.toml"))
