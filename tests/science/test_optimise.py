"""Optimal schedules: reference optima, the closed form of a linear unit, and the gradient itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

import dimladder as dl
from dimladder.cli import main
from dimladder.errors import DimladderError, UsageError
from dimladder.optimise import _Search
from dimladder.problem import Problem

Rows = list[list[float]]


def committee(Q: Rows, M: Rows, noise: float, stop: float, activation: str = "erf") -> Problem:
    return dl.problem(
        "one-pass",
        target={"kind": "committee", "activation": activation, "readout": [1.0], "noise": noise},
        student={"kind": "two-layer", "width": len(Q), "activation": activation, "train_readout": False},
        algorithm={"kind": "one-pass", "learning_rate": 0.4},
        initial={"Q": Q, "M": M},
        grid={"time": [0.0, stop]},
    )


def test_two_students_leave_their_plateau_at_the_optimal_rates() -> None:
    """Reference: an independent code with its own flow, forward-backward gradients and L-BFGS-B at rtol 3e-14.

    Q_ik = 0.5 delta_ik + 0.02 cos(1 + i + k + ik), M_i = 0.1 sin(1 + 2i).
    """
    i = np.arange(2)
    Q = 0.5 * np.eye(2) + 0.02 * np.cos(1 + i[:, None] + i + np.outer(i, i))
    M = 0.1 * np.sin(1 + 2 * i)[:, None]
    found = dl.optimise(committee(Q.tolist(), M.tolist(), 0.2, 30.0), intervals=15, maximum=3.0)
    assert found.constant == pytest.approx(0.1516554038149765, rel=1e-6)
    assert found.constant_objective == pytest.approx(8.9109799299944e-3, rel=1e-9)
    assert found.objective == pytest.approx(8.01550046289215e-3, rel=1e-9)
    published = [0.27009, 0.36933, 0.49124, 0.49932, 0.3801, 0.27008, 0.19926, 0.15453, 0.12489, 0.10418, 0.08906]
    published += [0.0776, 0.06865, 0.06148, 0.05563]
    np.testing.assert_allclose(found.values, published, atol=6e-6)
    assert found.slope < 1e-6
    # The run file under the schedule is another way through the integrator, with a stop at every jump.
    again = dl.solve(found.problem, rtol=1e-10)["generalization_error"].values[-1]
    assert again == pytest.approx(found.objective, rel=1e-8)


def test_a_linear_unit_follows_its_closed_form() -> None:
    """q = 2 e_g obeys dq/dt = -2 eta q + eta^2 (q + sigma^2): eta* = q/(q + sigma^2) at every time, so that
    ln q - sigma^2/q = ln q0 - sigma^2/q0 - t. Constant on intervals of length h, the optimum is above by O(h^2).
    """
    noise, start, stop = 0.2, 1.5, 8.0

    def invariant(q: float) -> float:
        return float(np.log(q) - noise / q)

    best = brentq(lambda q: invariant(q) - invariant(start) + stop, 1e-3, start)
    assert best == pytest.approx(0.043537542387, rel=1e-9)
    gaps = []
    for intervals in (8, 16):
        problem = committee([[0.5]], [[0.0]], noise**0.5, stop, "x")
        found = dl.optimise(problem, intervals=intervals, maximum=1.9)
        gaps.append(2 * found.objective / best - 1.0)
        middle = 0.5 * (found.times[:-1] + found.times[1:])
        q = [brentq(lambda q, t=t: invariant(q) - invariant(start) + t, 1e-3, start) for t in middle]
        assert abs(found.values - np.array(q) / (np.array(q) + noise)).max() < 3.0 / intervals**2 * stop
    assert 0 < gaps[1] < gaps[0] < 0.02
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.15)


def test_the_gradient_is_that_of_the_objective() -> None:
    problem = committee([[0.6, 0.02], [0.02, 0.5]], [[0.1], [-0.05]], 0.3, 6.0)
    search = _Search(problem, "algorithm.learning_rate", "generalization_error", (), 4, {})
    values = np.array([0.5, 1.1, 0.2, 0.7])
    _, gradient = search.objective(values)
    for k in range(4):
        h = 1e-3
        moved = [search.objective(values + s * h * np.eye(4)[k])[0] for s in (-2, -1, 1, 2)]
        exact = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * h)
        assert gradient[k] == pytest.approx(exact, rel=1e-7, abs=1e-11)


def test_another_control_and_another_variable() -> None:
    """Less noise is always better: the optimum is the bound. A component of M: the most negative one."""
    problem = committee([[0.6]], [[0.2]], 0.3, 4.0)
    found = dl.optimise(problem, "target.noise", intervals=3, minimum=0.1, maximum=0.5)
    np.testing.assert_allclose(found.values, 0.1, atol=1e-7)
    assert found.problem.target.noise == pytest.approx(0.1, abs=1e-7)
    least = dl.optimise(problem, variable="M", index=(0, 0), intervals=3, maximum=1.0)
    np.testing.assert_allclose(least.values, 0.0, atol=1e-9)
    assert least.objective == pytest.approx(0.2)


def test_what_has_no_optimum_here_is_refused(runs: Path) -> None:
    problem = committee([[0.6]], [[0.2]], 0.3, 4.0)
    with pytest.raises(UsageError, match="start of the flow depends"):
        dl.optimise(problem, "initial.M.0.0")
    with pytest.raises(UsageError, match="no variable"):
        dl.optimise(problem, variable="generalisation_error")
    with pytest.raises(UsageError, match="no room"):
        dl.optimise(problem, minimum=1.0, maximum=0.5)
    with pytest.raises(UsageError, match="at least one interval"):
        dl.optimise(problem, intervals=0)
    with pytest.raises(DimladderError, match="no tangents"):
        dl.optimise(dl.load(runs / "multiscale.toml"), "data.spectrum.variances.0")


def test_the_verb_writes_a_run_file_under_the_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run.toml", tmp_path / "best.toml"
    run.write_text(committee([[0.6]], [[0.2]], 0.3, 4.0).to_toml())
    assert main(["optimise", str(run), "--intervals", "3", "--maximum", "2", "--to", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["variables"]
    reached = dl.solve(dl.load(out), rtol=1e-10)["generalization_error"].values[-1]
    assert reached == pytest.approx(answer["objective"]["values"], rel=1e-8)
    assert answer["objective"]["values"] < answer["constant_objective"]["values"]
    assert main(["optimise", str(run), "--control", "algorithm.weight_decay", "--maximum", "1", "--to", str(out)]) == 2
