"""Gradients after a trial step on the same sample: exact drifts, published growth rates, one-pass limit, simulation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.theories.one_pass.displaced import DisplacedFlow
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.one_pass.experiment import EXPERIMENT

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "online-look-ahead.toml"


def drift(override: dict[str, Any]) -> np.ndarray:
    flow = dl.derive(dl.load(RUN, override))
    dy = np.empty(2)
    flow.module().rhs(0.0, flow.initial_state(), dy, flow.parameters(), np.zeros(0))
    return dy / float(flow.problem.algorithm.learning_rate)  # type: ignore[attr-defined]


def relu_drift(link: np.polynomial.Polynomial, m: float, q: float, rho: float) -> float:
    """E[g z] of a relu student: at fixed z the average over lambda is a truncated normal moment, in closed form."""
    from scipy.integrate import quad
    from scipy.special import ndtr

    s = math.sqrt(q - m * m)

    def at(z: float) -> float:
        y = float(link(z))
        # (1 - rho)(y - lambda) where the trial step leaves the unit active.
        c = (max(0.0, -rho * y / (1 - rho)) - m * z) / s
        density = math.exp(-c * c / 2) / math.sqrt(2 * math.pi)
        weight = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return (1 - rho) * ((y - m * z) * float(ndtr(-c)) - s * density) * z * weight

    points = sorted(float(r.real) for r in link.roots() if abs(r.imag) < 1e-9)
    return float(quad(at, -11, 11, points=points, limit=1000, epsabs=1e-12)[0])


HE3 = np.polynomial.Polynomial([0, -3, 0, 1])
HE4 = np.polynomial.Polynomial([3, 0, -6, 0, 1])


def test_drift_of_a_relu_against_truncated_moments() -> None:
    for m, q, rho in ((0.0, 1.0, 0.1), (-0.3, 0.7, 0.25), (0.2, 0.5, 0.1)):
        override = {"initial.M": [[m]], "initial.Q": [[q]], "algorithm.displacement": rho}
        assert drift(override)[0] == pytest.approx(relu_drift(HE3, m, q, rho), abs=2e-7)
    # Published growth of He4 along the decay of the norm: the sign changes on the way.
    rates = []
    for q in (1.0, 0.561, 0.397, 0.308):
        override = {"target.formula": "He4(z)", "initial.M": [[1e-3]], "initial.Q": [[q]]}
        rates.append(drift(override)[0] / 1e-3)
        assert rates[-1] == pytest.approx(relu_drift(HE4, 1e-3, q, 0.1) / 1e-3, abs=2e-3)
    np.testing.assert_allclose(rates, [-0.29, -0.10, 0.11, 0.32], atol=0.03)


def test_fast_oscillations_against_brute_force() -> None:
    """cos(3 x) after a trial step of size z^2: hundreds of radians; trapezoidal sums, and the error stated is small."""
    changes = {
        "target.formula": "z**2", "student.activation": "cos(3*x)", "student.readout": [0.8], "loss.function":
        "correlation", "algorithm.displacement": 1.0, "algorithm.learning_rate": 0.2, "initial.M": [[0.1]],
        "initial.Q": [[0.9]], "solver.quadrature_rtol": 1e-5, "grid.time": [0.0, 0.01],
    }  # fmt: skip
    curve = dl.solve(dl.load(RUN, changes))
    assert curve.stats["quadrature_error"] < 1e-5
    u, step = np.linspace(-7.0, 7.0, 2001, retstep=True)
    weight = step * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    dM = dQ = 0.0
    for z, w in zip(u, weight, strict=True):
        lam = 0.1 * z + math.sqrt(0.89) * u
        gain = -2.4 * z**2 * np.sin(3 * (lam - 2.4 * z**2 * np.sin(3 * lam)))
        dM += 0.2 * w * float(weight @ gain) * z
        dQ += w * float(weight @ (0.4 * gain * lam + 0.04 * gain**2))
    found = drift(changes) * 0.2
    np.testing.assert_allclose(found, [dM, dQ], atol=4e-6)
    np.testing.assert_allclose(found, [2.153e-5, 0.346155], atol=4e-6)


def test_reference_curve() -> None:
    curve = dl.solve(dl.load(RUN))
    np.testing.assert_allclose(curve["M"].values[1:, 0, 0], [-0.0115, -0.0228, -0.0341, -0.0453, -0.0566], atol=1.5e-4)
    np.testing.assert_allclose(curve["Q"].values[1:, 0, 0], [0.9223, 0.8513, 0.7867, 0.7277, 0.6740], atol=1e-4)
    assert float(curve["generalization_error"][0]) == pytest.approx((6 + 0.5) / 2, rel=1e-7)
    plain = dl.solve(dl.load(RUN, {"algorithm.displacement": 0.0}))
    np.testing.assert_allclose(plain["M"].values, 0.0, atol=1e-7)
    assert float(plain["Q"].values[-1, 0, 0]) == pytest.approx(0.6199, abs=6e-5)


@pytest.mark.slow
def test_without_displacement_it_is_plain_sgd() -> None:
    """The same numbers as the flow of plain SGD, whose averages are derived in another way; so with weight decay."""
    override = {
        "target.formula": "relu(z)", "target.noise": 0.3, "algorithm.displacement": 0.0, "algorithm.learning_rate": 0.4,
        "initial.M": [[0.1]], "grid.time": [1.0, 4.0, 20.0], "algorithm.weight_decay": 0.1,
        "algorithm.schedule": "step(3 - t) + exp(-t/20)",
    }  # fmt: skip
    problem = dl.load(RUN, override)
    other, curve = dl.solve(problem), DisplacedFlow(problem).solve().variables
    for name in ("M", "Q", "generalization_error"):
        np.testing.assert_allclose(np.ravel(curve[name].values), other[name].values.ravel(), atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "override",
    [
        {"grid.time": [10.0, 50.0]},
        {
            "target.formula": "relu(z)", "algorithm.displacement": -0.4, "algorithm.learning_rate": 0.3,
            "target.noise": 0.5, "initial.M": [[0.3]], "initial.Q": [[0.8]], "grid.time": [2.0, 6.0],
        },
    ],
)  # fmt: skip
def test_simulation(override: dict[str, Any]) -> None:
    """The chain at d = 1500, 64 replicas: four standard errors; the other sign of the displacement is excluded."""
    problem = dl.load(RUN, override)
    curve = dl.solve(problem)
    flipped = dl.solve(dl.replace(problem, {"algorithm.displacement": -problem.algorithm.displacement}))
    sample = EXPERIMENT.run(problem, 1500, [np.random.default_rng([2, k]) for k in range(64)], backend_for())
    excluded = False
    for name in ("M", "Q"):
        values = np.asarray(sample.variables[name][1]).reshape(64, -1)
        se = values.std(axis=0, ddof=1) / 8
        assert np.all(np.abs(values.mean(axis=0) - curve[name].values.ravel()) < 4 * se), name
        excluded |= bool(np.any(np.abs(values.mean(axis=0) - flipped[name].values.ravel()) > 6 * se))
    assert excluded


def test_bad_problems_are_refused() -> None:
    bad: tuple[dict[str, Any], ...] = (
        {"initial.M": [[2.0]]}, {"algorithm.learning_rate": -1.0}, {"loss.function": "hinj"},
        {"student.activation": "rleu"}, {"initial.Q": [[1.0, 0.0], [0.0, 1.0]]}, {"algorithm.uses": 2},
        {"algorithm.momentum": {"beta": 0.5}, "algorithm.uses": 2, "algorithm.displacement": 0.0},
        {"algorithm.regime": "gradient-flow"},
    )  # fmt: skip
    for override in bad:
        with pytest.raises(dl.DimladderError):
            dl.derive(dl.load(RUN, override))


@pytest.mark.slow
def test_a_fast_oscillating_student_is_averaged_and_says_how_well() -> None:
    """cos(3x) on z^2 with displacement 1: fields that turn hundreds of times; against Monte Carlo of the update."""
    problem = dl.load(RUN, {
        "target.formula": "z**2", "loss.function": "correlation", "algorithm.displacement": 1.0,
        "student": {"kind": "two-layer", "activation": "cos(3*x)", "readout": [0.8]}, "algorithm.learning_rate": 0.2,
        "initial.M": [[0.1]], "initial.Q": [[0.9]],
    })  # fmt: skip
    flow: Any = dl.derive(problem)
    dy = np.empty(2)
    flow.module().rhs(0.0, flow.initial_state(), dy, flow.parameters(), np.zeros(0))
    _, error, _ = flow._choose(flow.initial_state()[None, :])
    z, xi = np.random.default_rng(8).standard_normal((2, 4_000_000))
    lam = 0.1 * z + math.sqrt(0.9 - 0.01) * xi
    gradient = lambda field: -2.4 * np.sin(3 * field) * z**2  # noqa: E731
    gain = gradient(lam + gradient(lam))
    both = np.stack([0.2 * gain * z, 0.4 * gain * lam + 0.04 * gain**2])
    se = both.std(axis=1) / math.sqrt(z.size)
    assert error < 0.02
    assert np.all(abs(dy - both.mean(axis=1)) < 4 * se + error * abs(both).mean(axis=1))
    assert np.all(4 * se < 0.01)
