"""SGD on weights: one algorithm on every array namespace; frames and factorisations of the Gram chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dimladder.errors import SimulationError
from dimladder.problem import Expression, activation
from dimladder_validation.simulate import gram_kernel, sgd, streams
from dimladder_validation.simulate.base import Backend, backend_for
from dimladder_validation.simulate.two_layer import (
    Link,
    explicit_weights,
    frame,
    model_module,
    population_means,
    psd_root,
)

K, M, D = 3, 2, 30
TIMES = np.array([0.0, 0.5, 1.01])


def dynamics(**changes: Any) -> sgd.Dynamics:
    i, k = np.indices((K, K))
    q = 0.5 * np.eye(K) + 0.02 * np.cos(1 + i + k + i * k)
    i, m = np.indices((K, M))
    base: dict[str, Any] = {
        "activation": activation("erf"), "link": Link.formula(Expression("He1(z1) + He1(z1)*He1(z2)", "z*")),
        "q": q, "m": 0.03 * np.sin(1 + 2 * i + 3 * m + i * m), "t": np.array([[1.0, 0.2], [0.2, 1.0]]),
        "v": np.array([1.0, 0.5, -0.5]), "eta": 0.3, "eta_v": 0.1, "noise": 0.2,
    }  # fmt: skip
    return sgd.Dynamics(**{**base, **changes})


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch, displaced, spherical, correlation": {
        "activation": activation("relu"), "batch": 3, "displacement": 0.2, "spherical": True, "loss": "correlation",
    },
    "logistic, decay, schedule": {
        "activation": activation("tanh(x) + 0.1*x"), "link": Link.formula(Expression("sign(z1*z2)", "z*")),
        "loss": "logistic", "decay": 0.1, "decay_v": 0.2, "schedule": Expression("1/(1 + t)", ("t",)),
    },
    "kinks": {"activation": activation("hard-tanh"), "link": Link.committee(activation("abs"), [0.7, -0.4])},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiled_weights_and_array_api_are_the_same_trajectories(name: str) -> None:
    what = dynamics(**CASES[name])
    compiled = sgd.weight_sgd(what, TIMES, D, streams(3, "h", "e", D, 0, 3))
    batched = sgd.weight_sgd_array(what, TIMES, D, streams(3, "h", "e", D, 0, 3), backend_for(), chunk_numbers=2000)
    # Equal up to the order of additions, amplified by the dynamics over 30 steps.
    for a, b in ((compiled.q, batched.q), (compiled.m, batched.m), (compiled.v, batched.v)):
        assert np.abs(a - b).max() < 1e-12


def test_runs_on_a_strict_array_namespace() -> None:
    import array_api_strict as strict

    what = dynamics(**CASES["batch, displaced, spherical, correlation"])
    times = np.array([0.0, 0.3])
    plain = sgd.weight_sgd_array(what, times, D, streams(3, "h", "e", D, 0, 2), backend_for())
    checked = sgd.weight_sgd_array(what, times, D, streams(3, "h", "e", D, 0, 2), Backend(strict))
    assert np.abs(plain.q - checked.q).max() < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_runs_on_torch(name: str) -> None:
    pytest.importorskip("torch")
    what = dynamics(**CASES[name])
    plain = sgd.weight_sgd_array(what, TIMES, D, streams(3, "h", "e", D, 0, 2), backend_for())
    torch = sgd.weight_sgd_array(what, TIMES, D, streams(3, "h", "e", D, 0, 2), backend_for("torch"))
    assert np.abs(plain.q - torch.q).max() < 1e-12


def test_a_replica_does_not_depend_on_its_batch() -> None:
    what = dynamics()
    many = sgd.gram_chain(what, TIMES, D, streams(1, "h", "e", D, 0, 4))
    alone = sgd.gram_chain(what, TIMES, D, streams(1, "h", "e", D, 2, 3))
    assert np.array_equal(many.q[2], alone.q[0])
    threaded = sgd.gram_chain(what, TIMES, D, streams(1, "h", "e", D, 0, 4), threads=3)
    assert np.array_equal(many.q, threaded.q)


@pytest.mark.parametrize("d", [5, 6, 50])
def test_initial_overlaps_are_exact_at_any_dimension(d: int) -> None:
    what = dynamics()
    teacher, w = explicit_weights(frame(what.q, what.m, what.t), d, np.random.default_rng(0))
    assert np.abs(w @ w.T - what.q).max() < 1e-13
    assert np.abs(w @ teacher.T - what.m).max() < 1e-13
    assert np.abs(teacher @ teacher.T - what.t).max() < 1e-13


def test_singular_overlaps() -> None:
    t = np.ones((2, 2))
    m = np.array([[0.5, 0.5]])
    start = frame(np.array([[0.25]]), m, t)
    assert start.directions == 2
    rank = start.teacher.shape[1]
    assert np.allclose(start.students[:, :rank] @ start.teacher.T, m)
    assert np.allclose(start.students[:, rank:], 0)
    with pytest.raises(SimulationError, match="singular T"):
        frame(np.array([[1.0]]), np.array([[0.5, 0.4]]), t)
    with pytest.raises(SimulationError, match="not positive"):
        psd_root(np.array([[1.0, 2.0], [2.0, 1.0]]), "Q")


def test_too_few_dimensions_are_refused() -> None:
    with pytest.raises(SimulationError, match="d = 4 is too small"):
        sgd.check_dimension(dynamics(), 4)


def test_times_between_steps_are_interpolated() -> None:
    steps, low, high, weight = sgd.recorded_steps(np.array([0.0, 0.1, 0.25, 0.25 + 1e-14]), 8)
    assert list(steps) == [0, 1, 2]
    assert list(steps[low]) == [0, 0, 2, 2]
    assert list(steps[high]) == [0, 1, 2, 2]
    assert np.allclose(weight, [0, 0.8, 0, 0])


@pytest.mark.parametrize(("rows", "freedom"), [(3, 20), (3, 2), (4, 4), (2, 0)])
def test_bartlett_gives_wishart_moments(rows: int, freedom: int) -> None:
    rng = np.random.default_rng(1)
    root, draws = np.empty((rows, rows)), []
    for _ in range(4000):
        gram_kernel._bartlett(rng, rows, freedom, root)
        draws.append(root @ root.T)
    w = np.array(draws)
    # E[W] = f I, Var[W_ij] = f (1 + delta_ij); four thousand draws, five standard errors.
    mean_error = np.sqrt(freedom * (1 + np.eye(rows)) / 4000)
    assert (np.abs(w.mean(0) - freedom * np.eye(rows)) <= 5 * mean_error + 1e-12).all()
    variance = freedom * (1 + np.eye(rows))
    assert np.allclose(w.var(0), variance, rtol=0.25 if freedom else 0, atol=1e-12)


def test_reflections_keep_the_gram_matrix() -> None:
    rng = np.random.default_rng(2)
    for rank in (1, 2, 4):
        rows = rng.standard_normal((4, rank)) @ rng.standard_normal((rank, 7))
        before = rows @ rows.T
        gram_kernel._lower(rows, 4, 7)
        assert np.abs(rows @ rows.T - before).max() < 1e-13 * np.abs(before).max()
        assert np.abs(rows[np.triu_indices(4, 1, 7)]).max() == 0.0
        assert (np.diag(rows) >= -1e-14).all()


def test_root_of_a_singular_gram_matrix() -> None:
    x = np.random.default_rng(3).standard_normal((4, 2))
    root = np.empty((4, 4))
    gram_kernel._root(x @ x.T, root)
    assert np.abs(root @ root.T - x @ x.T).max() < 1e-6


FORMULAS = ["erf", "relu", "tanh(x) + 0.1*x", "gelu", "silu", "softplus", "leaky-relu", "x**3 - 3*x", "clip(x, -1, e)"]


@pytest.mark.parametrize("text", FORMULAS)
def test_compiled_units_are_the_formula_and_its_derivative(text: str) -> None:
    formula = activation(text)
    module = model_module(formula, Link.committee(activation("sin"), [0.5, -1.5]))
    slope = sgd.derivative(formula)
    for x in (-2.3, -0.4, 0.7, 1.9):
        g, dg = np.empty(1), np.empty(1)
        target = module.model(np.array([x, 0.3, -0.8]), g, dg)
        at = np.array([x])
        assert abs(g[0] - formula.evaluate(np, x=at)[0]) < 1e-14 * (1 + abs(g[0]))
        assert abs(dg[0] - slope.evaluate(np, x=at)[0]) < 1e-14 * (1 + abs(dg[0]))
        h = 1e-6
        central = (formula.evaluate(np, x=at + h) - formula.evaluate(np, x=at - h))[0] / (2 * h)
        assert abs(dg[0] - central) < 1e-7 * (1 + abs(central))
        assert abs(target - (0.5 * np.sin(0.3) - 1.5 * np.sin(-0.8))) < 1e-14


def test_population_averages_are_unbiased_and_precise() -> None:
    what = dynamics(link=Link.committee(activation("erf"), [1.0, 0.5]))
    model = model_module(what.activation, what.link).model
    c = np.block([[what.q, what.m], [what.m.T, what.t]])
    weights = np.concatenate([what.v, [-1.0, -0.5]])
    scale = 1 / np.sqrt(1 + np.diag(c))
    # Saad and Solla 1995: E[erf erf] = (2/pi) asin(C_ab / sqrt((1 + C_aa)(1 + C_bb))).
    exact = 0.5 * weights @ (2 / np.pi * np.arcsin(c * np.outer(scale, scale))) @ weights
    draws = [
        population_means(what.q[None], what.m[None], what.t, what.v[None], model, np.random.default_rng(s))[0, 0]
        for s in range(30)
    ]
    assert np.std(draws) < 3e-3 * exact
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws, ddof=1) / np.sqrt(30)


def test_blow_up_is_reported_as_nan(caplog: pytest.LogCaptureFixture) -> None:
    what = dynamics(activation=activation("x**3"), eta=30.0)
    runs = sgd.gram_chain(what, np.array([0.0, 5.0]), D, streams(0, "h", "e", D, 0, 2))
    assert np.isfinite(runs.q[:, 0]).all()
    assert np.isnan(runs.q[:, 1]).all()
    assert "blew up" in caplog.text
