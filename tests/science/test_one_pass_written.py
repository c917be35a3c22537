"""Written updates whose drifts depend on the sample, or that add noise of their own: Oja's rule, Langevin noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import dimladder as dl
from dimladder.problem.update_table import table
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.one_pass import sgd
from dimladder_validation.simulate.one_pass.sgd_array import weight_sgd_array

SHARES, VARIANCES, TIMES = np.array([0.2, 0.4, 0.4]), np.array([3.0, 1.0, 0.4]), [0.0, 0.5, 1.5, 3.0]
LINEAR: dict[str, Any] = {
    "schema": 2,
    "data": {"kind": "gaussian", "spectrum": {"variances": VARIANCES.tolist(), "fractions": SHARES.tolist()}},
    "target": {"kind": "committee", "readout": [1.0], "activation": "x"},
    "student": {"kind": "two-layer", "width": 1, "activation": "x", "readout": [1.0]},
    "initial": {"kind": "explicit", "Q": [[0.7]], "M": [[0.2]]},
    "grid": {"time": TIMES},
}
OJA = "w + learning_rate*(f*x/sqrt(d) - f^2*w/d)"
BOTH = {
    "w": "w - learning_rate*a*dg(lambda_w)*error*x/sqrt(d) - 0.3*learning_rate*error^2*v/d + (0.5 + learning_rate)"
    "*zeta/sqrt(d)",
    "v": "v + 0.5*tanh(lambda_w)*lambda_v*w/d - 0.2*v/d + 0.6*learning_rate*zeta/sqrt(d)",
}


def stated(algorithm: dict[str, Any], **more: Any) -> dl.Problem:
    sections = {key: value for key, value in LINEAR.items() if key != "schema"}
    return dl.problem(**sections | {"algorithm": {"kind": "one-pass"} | algorithm} | more)


def test_ojas_rule_is_its_closed_equations() -> None:
    """E[f x] and E[f^2] of a linear unit are linear in the overlaps: written by hand, block by block."""
    eta, first = 0.3, np.concatenate([0.7 * SHARES, 0.2 * SHARES])

    def velocity(t: float, y: Any) -> Any:
        Q, M = y[:3], y[3:]
        power = VARIANCES @ Q
        dQ = 2 * eta * VARIANCES * Q - 2 * eta * power * Q + eta**2 * SHARES * VARIANCES * power
        return np.concatenate([dQ, eta * VARIANCES * M - eta * power * M])

    exact = solve_ivp(velocity, (0.0, TIMES[-1]), first, t_eval=TIMES, rtol=1e-11, atol=1e-12).y.T
    curve = dl.solve(stated({"learning_rate": eta, "update": {"w": OJA}}))
    np.testing.assert_allclose(curve["Q_block"].values[:, :, 0, 0], exact[:, :3], atol=1e-6, rtol=0)
    np.testing.assert_allclose(curve["M_block"].values[:, :, 0, 0], exact[:, 3:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["1", "1/(1 + t)"])
def test_noise_and_decay_are_a_process_of_ornstein_and_uhlenbeck(schedule: str) -> None:
    """Nothing is learned: Q^b relaxes to the share of its block, M decays; a schedule multiplies learning_rate."""
    kappa, fixed, rate = 0.8, 0.5, 0.4
    rule = {"w": "w - 0.8*w/d + (0.5 - learning_rate)*zeta/sqrt(d)"}
    curve = dl.solve(stated({"learning_rate": rate, "schedule": schedule, "update": rule}))

    def velocity(t: float, Q: Any) -> Any:
        kick = fixed - rate / (1.0 + t if schedule != "1" else 1.0)
        return -2 * kappa * Q + kick**2 * SHARES

    exact = solve_ivp(velocity, (0.0, TIMES[-1]), 0.7 * SHARES, t_eval=TIMES, rtol=1e-11, atol=1e-12).y.T
    np.testing.assert_allclose(curve["Q_block"].values[:, :, 0, 0], exact, atol=1e-8, rtol=0)
    np.testing.assert_allclose(curve["M"].values[:, 0, 0], 0.2 * np.exp(-kappa * np.array(TIMES)), atol=1e-8, rtol=0)


def noisy(**rows: str) -> dl.Problem:
    """Both rules, or other rows in the place of theirs."""
    rule = {"learning_rate": 0.4, "schedule": "1/(1 + t/2)", "batch_size": 2, "vectors": {"v": "w"}}
    data = {"kind": "gaussian", "spectrum": {"variances": [1.5, 0.6], "fractions": [0.4, 0.6]}}
    target = LINEAR["target"] | {"noise": 0.2}
    return stated(rule | {"update": BOTH | rows}, data=data, target=target, grid={"time": [0.0, 1.0, 2.0]})


def test_arrays_take_the_steps_of_the_compiled_loop() -> None:
    what, times = table(noisy()), np.array([0.0, 0.5, 1.0])
    backend = backend_for()
    one, two = (
        run([np.random.default_rng(seed) for seed in (1, 2)])
        for run in (
            lambda streams: sgd.weight_sgd(what, times, 40, streams),
            lambda streams: weight_sgd_array(what, times, 40, streams, backend),
        )
    )
    np.testing.assert_allclose(one.gram, two.gram, atol=1e-12, rtol=0)
    np.testing.assert_allclose(one.bias, two.bias, atol=1e-12, rtol=0)


def test_the_chain_follows_both() -> None:
    """Every block overlap of both vectors, d = 240, 150 replicas; the terms in question are twenty standard errors."""
    problem = noisy()
    what, system, d = table(problem), dl.derive(problem), 240
    times = np.array([0.0, 1.0, 2.0])
    gram = sgd.gram_chain(what, times, d, [np.random.default_rng(seed) for seed in range(150)]).gram[:, 1:]
    mean, se = gram.mean(axis=0), gram.std(axis=0, ddof=1) / np.sqrt(len(gram))
    flow: Any = system
    curve = flow.solve().variables
    for name, at in (("Q_block", (0, 0)), ("M_block", (0, 2))):
        gap = np.asarray(curve[name].values)[1:, :, 0, 0] - mean[:, :, at[0], at[1]]
        assert np.abs(gap / se[:, :, at[0], at[1]]).max() < 4.0, name
    both = np.asarray(curve["Q"].values)[1:] - mean[:, :, :2, :2].sum(axis=1)
    spread = gram[:, :, :, :2, :2].sum(axis=2)
    assert np.abs(both / (spread.std(axis=0, ddof=1) / np.sqrt(len(gram)))).max() < 4.0
    other = dl.solve(noisy(v="v - 0.2*v/d"))
    assert np.abs(other["Q"].values[1:, 1, 1] - mean[:, :, 1, 1].sum(axis=1)).min() > 0.1


def test_every_symbol_has_its_words() -> None:
    assert dl.derive(noisy()).notation().missing == ()
