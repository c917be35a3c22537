"""SGD on weights: one algorithm on every array namespace; frames and factorisations of the Gram chain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dimladder.errors import SimulationError
from dimladder.problem import Expression, activation
from dimladder.problem.update_table import Table
from dimladder_validation.simulate import streams
from dimladder_validation.simulate.base import Backend, backend_for
from dimladder_validation.simulate.model_code import code_for, derivative
from dimladder_validation.simulate.one_pass import gram_frame, sgd
from dimladder_validation.simulate.one_pass.frames import explicit, frame_of, psd_root
from dimladder_validation.simulate.one_pass.measured import population_errors
from dimladder_validation.simulate.one_pass.sgd_array import weight_sgd_array
from tables import plain

K, M, D = 3, 2, 30
TIMES = np.array([0.0, 0.5, 1.01])


def what(**changes: Any) -> Table:
    i, k = np.indices((K, K))
    q = 0.5 * np.eye(K) + 0.02 * np.cos(1 + i + k + i * k)
    i, m = np.indices((K, M))
    base: dict[str, Any] = {
        "activation": activation("erf"), "index": Expression("He1(z1) + He1(z1)*He1(z2)", "z*"),
        "q": q, "m": 0.03 * np.sin(1 + 2 * i + 3 * m + i * m), "t": np.array([[1.0, 0.2], [0.2, 1.0]]),
        "v": np.array([1.0, 0.5, -0.5]), "eta": 0.3, "eta_v": 0.1, "noise": 0.2,
    }  # fmt: skip
    return plain(**{**base, **changes})


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch, displaced, spherical, correlation": {
        "activation": activation("relu"), "batch": 3, "displacement": 0.2, "spherical": True, "loss": "correlation",
    },
    "logistic, decay, schedule": {
        "activation": activation("tanh(x) + 0.1*x"), "index": Expression("sign(z1*z2)", "z*"),
        "loss": "logistic", "decay": 0.1, "decay_v": 0.2, "schedule": "1/(1 + t)",
    },
    "kinks": {
        "activation": activation("hard-tanh"), "index": None, "teacher": activation("abs"), "readout": [0.7, -0.4],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compiled_weights_and_array_api_are_the_same_trajectories(name: str) -> None:
    table = what(**CASES[name])
    compiled = sgd.weight_sgd(table, TIMES, D, streams(3, "h", "e", D, 0, 3))
    batched = weight_sgd_array(table, TIMES, D, streams(3, "h", "e", D, 0, 3), backend_for(), chunk_numbers=2000)
    # Equal up to the order of additions, amplified by the dynamics over 30 steps.
    for a, b in ((compiled.gram, batched.gram), (compiled.a, batched.a), (compiled.bias, batched.bias)):
        assert np.abs(a - b).max() < 1e-12


def test_runs_on_a_strict_array_namespace() -> None:
    import array_api_strict as strict

    table = what(**CASES["batch, displaced, spherical, correlation"])
    times = np.array([0.0, 0.3])
    plain = weight_sgd_array(table, times, D, streams(3, "h", "e", D, 0, 2), backend_for())
    checked = weight_sgd_array(table, times, D, streams(3, "h", "e", D, 0, 2), Backend(strict))
    assert np.abs(plain.gram - checked.gram).max() < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_runs_on_torch(name: str) -> None:
    pytest.importorskip("torch")
    table = what(**CASES[name])
    plain = weight_sgd_array(table, TIMES, D, streams(3, "h", "e", D, 0, 2), backend_for())
    torch = weight_sgd_array(table, TIMES, D, streams(3, "h", "e", D, 0, 2), backend_for("torch"))
    assert np.abs(plain.gram - torch.gram).max() < 1e-12


def test_a_replica_does_not_depend_on_its_batch() -> None:
    table = what()
    many = sgd.gram_chain(table, TIMES, D, streams(1, "h", "e", D, 0, 4))
    alone = sgd.gram_chain(table, TIMES, D, streams(1, "h", "e", D, 2, 3))
    assert np.array_equal(many.gram[2], alone.gram[0])
    threaded = sgd.gram_chain(table, TIMES, D, streams(1, "h", "e", D, 0, 4), threads=3)
    assert np.array_equal(many.gram, threaded.gram)


@pytest.mark.parametrize("d", [5, 6, 50])
def test_initial_overlaps_are_exact_at_any_dimension(d: int) -> None:
    assert np.abs(explicit(what(), d, np.random.default_rng(0)).overlaps - what().gram).max() < 1e-13
    assert np.abs(frame_of(what(), d).overlaps - what().gram).max() < 1e-13


def test_singular_overlaps() -> None:
    t, m = np.ones((2, 2)), np.array([[0.5, 0.5]])
    table = what(q=np.array([[0.25]]), m=m, t=t, v=[1.0])
    start = frame_of(table, 20)
    assert start.ranks.tolist() == [1]
    assert start.columns.tolist() == [0, 2]
    assert np.allclose(start.overlaps, table.gram)
    assert np.allclose(start.moving[:, 1:], 0)
    with pytest.raises(SimulationError, match="singular"):
        frame_of(what(q=np.array([[1.0]]), m=np.array([[0.5, 0.4]]), t=t, v=[1.0]), 20)
    with pytest.raises(SimulationError, match="not positive"):
        psd_root(np.array([[1.0, 2.0], [2.0, 1.0]]), "Q")


def test_too_few_dimensions_are_refused() -> None:
    with pytest.raises(SimulationError, match="d = 4 is too small"):
        frame_of(what(), 4)


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
        gram_frame.bartlett(rng, rows, freedom, root)
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
        gram_frame.turn_lower(rows, 4, 7)
        assert np.abs(rows @ rows.T - before).max() < 1e-13 * np.abs(before).max()
        assert np.abs(rows[np.triu_indices(4, 1, 7)]).max() == 0.0
        assert (np.diag(rows) >= -1e-14).all()


def test_root_of_a_singular_gram_matrix() -> None:
    x = np.random.default_rng(3).standard_normal((4, 2))
    root = np.empty((4, 4))
    gram_frame.square_root(x @ x.T, root)
    assert np.abs(root @ root.T - x @ x.T).max() < 1e-6


FORMULAS = ["erf", "relu", "tanh(x) + 0.1*x", "gelu", "silu", "softplus", "leaky-relu", "x**3 - 3*x", "clip(x, -1, e)"]


@pytest.mark.parametrize("text", FORMULAS)
def test_compiled_units_are_the_formula_and_its_derivative(text: str) -> None:
    formula = activation(text)
    row = np.array([0.5, -1.5])
    module = code_for(what(activation=formula, index=None, teacher=activation("sin"), readout=row))
    slope = derivative(formula)
    for x in (-2.3, -0.4, 0.7, 1.9):
        g, dg, target = np.empty(1), np.empty(1), np.empty(1)
        module.model(np.array([x]), np.array([0.3, -0.8]), row, np.array([0.25]), g, dg, target)
        at = np.array([x])
        assert abs(g[0] - formula.evaluate(np, x=at)[0]) < 1e-14 * (1 + abs(g[0]))
        assert abs(dg[0] - slope.evaluate(np, x=at)[0]) < 1e-14 * (1 + abs(dg[0]))
        h = 1e-6
        central = (formula.evaluate(np, x=at + h) - formula.evaluate(np, x=at - h))[0] / (2 * h)
        assert abs(dg[0] - central) < 1e-7 * (1 + abs(central))
        assert abs(target[0] - (0.25 + 0.5 * np.sin(0.3) - 1.5 * np.sin(-0.8))) < 1e-14


def test_population_averages_are_unbiased_and_precise() -> None:
    table = what(index=None, teacher=activation("erf"), readout=[1.0, 0.5], noise=0.0)
    c = table.gram[0]
    weights = np.concatenate([table.a[0], [-1.0, -0.5]])
    scale = 1 / np.sqrt(1 + np.diag(c))
    # Saad and Solla 1995: E[erf erf] = (2/pi) asin(C_ab / sqrt((1 + C_aa)(1 + C_bb))).
    exact = 0.5 * weights @ (2 / np.pi * np.arcsin(c * np.outer(scale, scale))) @ weights
    state = np.zeros(1), table.gram[None, :, :K], table.a[None], table.bias, table.gram[:, K:, K:]
    draws = [population_errors(table, *state, np.random.default_rng(s))[0, 0, 0] for s in range(30)]
    assert np.std(draws) < 3e-3 * exact
    assert abs(np.mean(draws) - exact) < 4 * np.std(draws, ddof=1) / np.sqrt(30)


def test_blow_up_is_reported_as_nan(caplog: pytest.LogCaptureFixture) -> None:
    table = what(activation=activation("x**3"), eta=30.0)
    runs = sgd.gram_chain(table, np.array([0.0, 5.0]), D, streams(0, "h", "e", D, 0, 2))
    assert np.isfinite(runs.gram[:, 0]).all()
    assert np.isnan(runs.gram[:, 1]).all()
    assert "blew up" in caplog.text
