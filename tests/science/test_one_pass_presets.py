"""Named update rules on any width and data law: flows against the finite-d experiment, and limits of each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem import apply_overrides
from dimladder.theories.one_pass.displaced import DisplacedFlow
from dimladder.theories.one_pass.general.flow import GeneralFlow
from dimladder_validation import simulate

TWO: dict[str, Any] = {
    "target": {"kind": "committee", "readout": [1.0]},
    "student": {"kind": "two-layer", "width": 2},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.5},
    "initial": {"Q": [[0.8, 0.1], [0.1, 0.6]], "M": [[0.2], [0.05]]},
    "grid": {"time": [0.0, 1.0, 2.0, 3.0]},
}
CLUSTERS: dict[str, Any] = {
    "data": {"kind": "mixture", "weights": [0.3, 0.7], "means": [[1.0], [-0.5]], "variances": [[0.5, 1.4], [1.2, 0.3]],
             "spectrum": {"fractions": [0.5, 0.5]}},
    "target": {"kind": "cluster-labels"},
    "student": {"kind": "two-layer", "width": 2, "bias": True},
    "algorithm": {"kind": "one-pass", "learning_rate": 0.5},
    "initial": {"Q": [[0.8, 0.1], [0.1, 0.6]], "means": [[0.2], [0.1]], "bias": [0.3, -0.2]},
    "grid": {"time": [0.0, 1.0, 2.0]},
}  # fmt: skip


def stated(base: dict[str, Any], changes: dict[str, Any]) -> dl.Problem:
    return dl.problem(**apply_overrides(base, changes))


def deviations(curve: Any, runs: Any) -> tuple[float, float]:
    """Return max and r.m.s. of theory - 2 x(2d) + x(d) in standard errors, over all variables but the start."""
    found = []
    for name in curve.dataset.data_vars:
        if f"{name}_se" not in runs.dataset or name == "T":
            continue
        (one, two), (at, there) = runs[name].values, runs[f"{name}_se"].values
        se = np.sqrt(4 * there**2 + at**2)
        seen = se > 1e-9
        found.append((np.abs(curve[name].values - 2 * two + one)[seen] / se[seen]).ravel())
    z = np.concatenate(found)
    return float(z.max()), float(np.sqrt(np.mean(z**2)))


def agree(problem: dl.Problem, wrong: dl.Problem, replicas: int = 48) -> None:
    """The chain at d = 100 and 200, extrapolated, meets the flow; the flow of another problem is excluded."""
    runs = simulate(problem, d=[100, 200], replicas=replicas, seed=3)
    worst, typical = deviations(dl.solve(problem), runs)
    assert worst < 4.5, (worst, typical)
    assert typical < 1.6, (worst, typical)
    assert deviations(dl.solve(wrong), runs)[0] > 6


@pytest.mark.parametrize("rule", [{"displacement": -0.5, "weight_decay": 0.3}, {"uses": 2, "spherical": True}])
def test_one_unit_is_averaged_as_by_split_quadrature(rule: dict[str, Any]) -> None:
    """Two programs for the same flow: over all fields, and over one of each kind with labels tabulated; 2e-6."""
    problem = stated(TWO, {
        "target": {"kind": "index", "formula": "tanh(2*z)"}, "student.width": 1,
        "student.activation": "tanh", "algorithm": TWO["algorithm"] | rule, "initial.Q": [[0.8]], "initial.M": [[0.3]],
        "grid.time": [0.0, 1.0], "solver": {"rtol": 1e-7},
    })  # fmt: skip
    narrow = dl.derive(problem)
    assert isinstance(narrow, DisplacedFlow)
    wide = GeneralFlow(problem).solve().variables
    for name, variable in narrow.solve().variables.items():
        np.testing.assert_allclose(wide[name].values, variable.values, atol=2e-6, err_msg=name)


def test_displaced_gradients_of_two_units() -> None:
    """A look-ahead against its order: the reference state of another program at t = 3 (2e-3), and the chain."""
    problem = stated(TWO, {"algorithm.displacement": -1.0})
    curve = dl.solve(problem)
    np.testing.assert_allclose(curve["Q"].values[-1].ravel(), [0.8132, -0.1826, -0.1826, 0.6036], atol=3e-3)
    np.testing.assert_allclose(curve["M"].values[-1].ravel(), [0.5081, 0.3477], atol=3e-3)
    agree(problem, stated(TWO, {"algorithm.displacement": 1.0}))


@pytest.mark.parametrize("rule", [{"displacement": 0.6}, {"uses": 2, "batch_size": 2}])
def test_displaced_gradients_of_clusters_with_biases(rule: dict[str, Any]) -> None:
    """Blocks, means and biases: each source moves the fields by its own |x|^2/d."""
    problem = stated(CLUSTERS, {"algorithm": CLUSTERS["algorithm"] | rule})
    agree(problem, stated(CLUSTERS, {}))
