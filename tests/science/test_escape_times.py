"""Escape times against the exact solution of the one-dimensional flow of a single-index target."""

from __future__ import annotations

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import SimulationError, UsageError
from dimladder_validation.simulate.one_pass.escape import EscapeTimes, escape_times

RUN = """
schema = 2
[target]
kind = "index"
formula = "He2(z)/sqrt(2)"
[student]
kind = "two-layer"
width = 1
activation = "(x**2 - 1)/sqrt(2)"
readout = [1.0]
[algorithm]
kind = "one-pass"
learning_rate = 0.05
spherical = true
[loss]
function = "correlation"
[initial]
Q = [[1.0]]
M = [[0.06]]
[grid]
time = [0.0, 1.0]
"""


def test_escape_of_a_quadratic_link_from_a_small_overlap() -> None:
    """dm/dt = 2 eta m (1 - m^2) - (eta^2/2) m E[(g' y)^2] with |w| = 1 (Ben Arous, Gheissari, Jagannath 2021).

    For g = f* = h_2, E[(g' y)^2] = 2 (1 + 4 m^2). Starting at m0 well above d^-1/2 = 0.01, the mean
    follows the flow; corrections are of order 1/(d m0^2) = 3 %.
    """
    d, eta, m0, m1 = 10_000, 0.05, 0.06, 0.5
    found = escape_times(dl.loads(RUN), d, threshold=m1, horizon=100.0, replicas=24, seed=1)
    assert found.escaped == 1.0
    m = np.linspace(m0, m1, 200_001)
    # E[(g' y)^2] = 2 E[lambda^2 h_2(z)^2] = 2 (1 + 2 m^2 + ...): lambda = m z + sqrt(1-m^2) u, E[z^2 h_2^2] = 5.
    second = 2.0 * (m**2 * 5.0 + (1.0 - m**2))
    rate = 2 * eta * m * (1 - m**2) - 0.5 * eta**2 * m * second
    time = np.trapezoid(1 / rate, m)
    mean, se = found.mean()
    assert abs(mean - time) < 4 * se + 0.03 * time
    assert se < 0.06 * time
    median, median_se = found.quantile()
    assert abs(median - time) < 4 * median_se + 0.03 * time


def test_censored_replicas_are_not_averaged() -> None:
    times = EscapeTimes(10, 0.5, np.array([1.0, 2.0, 3.0, np.inf]), 5.0)
    assert times.escaped == 0.75
    assert times.quantile(0.5)[0] == 3.0
    with pytest.raises(SimulationError, match="25 % of the replicas"):
        times.mean()


def test_threshold_is_checked() -> None:
    with pytest.raises(SimulationError, match="threshold"):
        escape_times(dl.loads(RUN), 100, threshold=1.5)


@pytest.mark.parametrize(
    ("variable", "index", "said"),
    [("nope", (), "no variable 'nope'"), ("M", (), r"such as \(0, 0\)"), ("M", (0, 1), "no component"),
     ("generalization_error", (0,), "give no index"), ("generalisation_error", (), "'generalization_error'")],
)  # fmt: skip
def test_what_escapes_must_be_a_component_of_the_theory(variable: str, index: tuple[int, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        dl.escape_time(dl.loads(RUN), variable, 0.5, 10.0, index)


def test_levels_and_times_must_be_numbers() -> None:
    for level, last in ((0.5, -1.0), (0.5, np.inf), (np.nan, 1.0)):
        with pytest.raises(UsageError, match="are numbers"):
            dl.escape_time(dl.loads(RUN), "M", level, last, (0, 0))
