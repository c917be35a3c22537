"""Reused batches: reference curve, brute-force averages with kinks and noise, the one-pass limit, simulation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import DerivationError
from dimladder.symbolic.times import time_function
from dimladder.theories.one_pass import sample_averages as averages
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.one_pass.experiment import EXPERIMENT

RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "online-reuse.toml"


def test_reference_curve() -> None:
    curve = dl.solve(dl.load(RUN))
    reference = [0, -0.1240, -0.2641, -0.3952, -0.4778, -0.5136, -0.5263, -0.5304, -0.5316, -0.5321, -0.5322]
    np.testing.assert_allclose(curve["M"][:, 0, 0], reference, atol=6e-5)


def test_averages_with_kinks_noise_and_three_uses() -> None:
    """Against Monte Carlo of the update itself: four standard errors."""
    override = {
        "target.formula": "abs(He2(z)) + sign(z^3 - 2*z)", "target.noise": 0.4, "student.slope":
        "relu(x) + step(x + 0.2)", "algorithm.uses": 3, "algorithm.learning_rate": 0.3,
    }  # fmt: skip
    flow = dl.derive(dl.load(RUN, override))
    head = [0.3, 0.0, 1.0, 0.0, time_function("1").address]
    parameters = averages.parameters(head, np.ones(4), 1e-5, 0.4, averages.LEVELS[0])
    rng, eta, n = np.random.default_rng(5), 0.3, 400_000
    z, xi, noise = rng.standard_normal((3, n))
    y = np.abs(z**2 - 1) + np.sign(z**3 - 2 * z) + 0.4 * noise
    for m in (-0.6, 0.25):
        lam = m * z + math.sqrt(1 - m * m) * xi
        field, gain = lam, np.zeros(n)
        for _ in range(3):
            gradient = y * (np.maximum(field, 0) + (field > -0.2))
            gain, field = gain + gradient, field + eta * gradient
        change = eta * gain * z - m * (eta * gain * lam + eta**2 * gain**2 / 2)
        dy = np.empty(2)
        flow.module().rhs(0.0, np.array([m, 1.0]), dy, parameters, np.zeros(0))
        assert abs(dy[0] - change.mean()) < 4 * change.std() / math.sqrt(n)


@pytest.mark.parametrize("slope", ["tanh(x + 1/2)", "relu(x) + step(x + 0.2)"])
def test_tables_of_label_noise_against_its_average_in_place(slope: str) -> None:
    """What is tabulated once is what each point would average; beyond the reach of the table there is no other way."""
    changes = {"target.noise": 0.4, "student.slope": slope, "algorithm.uses": 3}
    module = dl.derive(dl.load(RUN, changes)).module()
    states = np.array([[-0.3, 1.0], [0.2, 1.3]])
    system = averages.Averages(module, [0.3, 0.0, 1.0, 0.0, 0.0], 0.4, tabulated=True)
    plain = averages.parameters(system.head, np.ones(4), 1e-7, system.noise, averages.LEVELS[0])
    # A table that reaches all of lambda, a part of it, and none.
    tables = [np.empty(0), system.tabulate(np.ones(4), 1e-7, 0.2), system.tabulate(np.ones(4), 1e-7, 1.2)]
    found = [system.at(states, np.concatenate([plain, table])) for table in tables]
    assert len(tables[2]) > len(tables[1]) > 0
    for other in found[1:]:
        np.testing.assert_allclose(found[0][:, :2], other[:, :2], atol=2e-6)


def test_one_pass_has_no_drift_at_zero_overlap() -> None:
    """He3 has information exponent 3; two uses see the cube of the label, and the drift is negative."""
    import sympy as sp

    from dimladder.numerics.quadrature import gauss_hermite

    x, w = gauss_hermite(120)
    z, lam = x[:, None], x[None, :]
    y = (z**3 - 3 * z) / math.sqrt(6)
    drift = {}
    for uses in (1, 2):
        flow = dl.derive(dl.load(RUN, {"algorithm.uses": uses}))
        (symbol, integrand), (norm, _) = flow.averages().drifts.items()
        gained = integrand.subs(sp.Symbol("G", real=True), flow.averages().gain)
        at = gained.subs({symbol: 0, norm: 1, sp.Symbol("a", real=True): 1, sp.Symbol("kappa", real=True): 0})
        f = sp.lambdify([sp.Symbol(s, real=True) for s in ("z", "lam", "y", "eta")], at)
        drift[uses] = float(w @ f(z, lam, y, 0.5) @ w)
    assert abs(drift[1]) < 1e-12
    assert drift[2] == pytest.approx(-0.02927, abs=3e-4)


def test_simulation() -> None:
    """d = 800, 32 replicas, another rate and start: four standard errors, and a wrong sign is far outside."""
    override = {"algorithm.learning_rate": 0.3, "initial.M": [[0.4]], "grid.time": [4.0, 8.0]}
    problem = dl.load(RUN, override)
    theory = dl.solve(problem)["M"].values[:, 0, 0]
    sample = EXPERIMENT.run(problem, 800, [np.random.default_rng([3, k]) for k in range(32)], backend_for())
    values = np.asarray(sample.variables["M"][1])[:, :, 0, 0]
    se = values.std(axis=0, ddof=1) / math.sqrt(32)
    assert np.all(np.abs(values.mean(axis=0) - theory) < 4 * se)
    assert np.all(np.abs(theory - 0.4) > 6 * se)


def test_bad_problems_are_refused() -> None:
    bad = ({"initial.M": [[1.5]]}, {"algorithm.uses": 0}, {"algorithm.learning_rate": -1.0}, {"target.formula": "x"},
           {"student.slope": "tnah(x)"}, {"loss.function": "square"}, {"algorithm.uses": 9})  # fmt: skip
    for override in bad:
        with pytest.raises(dl.DimladderError):
            dl.derive(dl.load(RUN, override))
    with pytest.raises(DerivationError, match="polynomial"):
        dl.solve(dl.load(RUN, {"target.formula": "sign(sin(z))"}))


def test_three_uses_with_label_noise_against_brute_force() -> None:
    """Trapezoidal sums over both fields, Gauss-Hermite over the noise; the accuracy asked for is reached."""
    from dimladder.numerics.quadrature import gauss_hermite

    changes = {"target.noise": 0.3, "algorithm.uses": 3, "initial.M": [[-0.1]], "solver.quadrature_rtol": 1e-7}
    flow = dl.derive(dl.load(RUN, changes))
    dy = np.empty(2)
    flow.module().rhs(0.0, flow.initial_state(), dy, flow.parameters(), np.zeros(0))
    u, step = np.linspace(-7.5, 7.5, 601, retstep=True)
    weight = step * np.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    z, (xi, chance) = u[:, None], gauss_hermite(100)
    lam, drift = -0.1 * z + math.sqrt(0.99) * u, 0.0
    for x, w in zip(xi, chance, strict=True):
        y = (z**3 - 3 * z) / math.sqrt(6) + 0.3 * x
        field, gain = lam, 0.0 * lam
        for _ in range(3):
            gradient = y * np.tanh(field + 0.5)
            gain, field = gain + gradient, field + 0.5 * gradient
        change = 0.5 * gain * z + 0.1 * (0.5 * gain * lam + 0.125 * gain**2)
        drift += w * float(weight @ change @ weight)
    assert dy[0] == pytest.approx(drift, abs=2e-7)


@pytest.mark.slow
def test_free_norm_square_loss_and_decay() -> None:
    """Three uses without a sphere, where output and norm matter: simulation at d = 1000, four standard errors."""
    changes = {
        "student": {"kind": "two-layer", "activation": "tanh", "readout": [0.8]}, "loss.function": "square",
        "algorithm.spherical": False, "algorithm.uses": 3, "algorithm.learning_rate": 0.4, "target.noise": 0.3,
        "algorithm.weight_decay": 0.2, "target.formula": "tanh(2*z)", "initial.M": [[0.3]], "initial.Q": [[0.8]],
        "algorithm.schedule": "1/(1 + t)", "grid.time": [1.0, 3.0],
    }  # fmt: skip
    problem = dl.load(RUN, changes)
    theory, wrong = dl.solve(problem), dl.solve(dl.replace(problem, {"algorithm.uses": 2}))
    sample = EXPERIMENT.run(problem, 1000, [np.random.default_rng([4, k]) for k in range(48)], backend_for())
    excluded = False
    for name in ("M", "Q"):
        values = np.asarray(sample.variables[name][1]).reshape(48, -1)
        se = values.std(axis=0, ddof=1) / math.sqrt(48)
        assert np.all(np.abs(values.mean(axis=0) - theory[name].values.ravel()) < 4 * se), name
        excluded |= bool(np.any(np.abs(values.mean(axis=0) - wrong[name].values.ravel()) > 6 * se))
    assert excluded
