"""Training on one data set as a user states it: options, refusals, limits, checkpoints, and the simulation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError, DerivationError, DomainError, SolveError
from dimladder.numerics.random_matrix import marchenko_pastur_nodes
from dimladder.theories import find
from dimladder.theories.multi_pass import march as march_module
from dimladder_validation.simulate import simulate
from run_files import path_of

SMALL = {"solver.samples": 2048, "solver.scrambles": 4}


def run_file(name: str, overrides: dict[str, Any] | None = None) -> Any:
    return dl.load(path_of(f"multi-pass-{name}"), overrides or {})


def values(curve: Any, name: str) -> np.ndarray:
    return np.asarray(curve[name].values)


def test_ridge_regression_in_closed_form() -> None:
    curve = dl.solve(run_file("ridge"))
    assert list(curve["time"].values) == list(range(61))
    assert values(curve, "generalization_error")[[1, 5, 20, 60]] == pytest.approx(
        [0.366875, 0.12324151, 0.08836665, 0.08838843], abs=6e-9
    )
    assert values(curve, "test_loss") == pytest.approx(values(curve, "generalization_error") + 0.125, abs=1e-14)
    assert float(curve["early_stopping_time"]) == np.argmin(values(curve, "test_loss"))
    assert float(curve["best_test_loss"]) == values(curve, "test_loss").min()


def test_committee_run_file() -> None:
    """The file as it stands, at fewer samples: reference values of reshuffled batches."""
    curve = dl.solve(run_file("committee", {"solver.samples": 8192}))
    expected = {10: (0.14265, 0.23776, 0.7236), 60: (0.07272, 0.22975, 0.7557)}
    for t, row in expected.items():
        for name, value in zip(("train_loss", "test_loss", "a"), row, strict=True):
            found, error = values(curve, name)[t], values(curve, f"{name}_se")[t]
            found, error = (found[0], error[0]) if name == "a" else (found, error)
            assert abs(found - value) < 4.5 * np.hypot(error, 3e-4), (t, name)
    assert 10 < float(curve["early_stopping_time"]) < 40


def test_long_training_is_ridge_regression() -> None:
    """Minimiser of mean l + (ridge/2)|w|^2/d in the spectrum of the sample covariance."""
    ridge, noise = 0.1, 0.25
    x, w = marchenko_pastur_nodes(0.5, 4000)
    curve = dl.solve(run_file("ridge", {"algorithm.steps": 400}))
    fit = x / (x + ridge)
    assert values(curve, "M")[-1, 0, 0] == pytest.approx(float(w @ fit), abs=1e-10)
    assert values(curve, "Q")[-1, 0, 0] == pytest.approx(
        float(w @ (fit**2 + noise * x / (2.0 * (x + ridge) ** 2))), abs=1e-10
    )


def test_gradient_flow_of_particles_meets_the_spectrum() -> None:
    """A linear unit of a two-layer network is solved by particles and Richardson, the linear student exactly."""
    exact = dl.solve(run_file("ridge", {"algorithm": {"kind": "gradient-flow", "learning_rate": 1.5, "steps": 4}}))
    sampled = dl.solve(
        run_file(
            "ridge",
            {
                "algorithm": {"kind": "gradient-flow", "learning_rate": 1.5, "steps": 4, "substeps": 4, "levels": 3},
                "student": {"kind": "two-layer", "activation": "linear"}, "solver.samples": 8192,
            },
        )
    )  # fmt: skip
    assert list(exact["time"].values) == list(sampled["time"].values) == [0.0, 1.5, 3.0, 4.5, 6.0]
    for name in ("train_loss", "generalization_error", "Q", "M"):
        gap = np.abs(values(sampled, name) - values(exact, name))
        # Three levels leave an error of third order in the step, 0.09 times the curvature at the coarsest one.
        assert (gap < 5.0 * values(sampled, f"{name}_se") + 3e-4).all(), name


MINIMISE: dict[str, Any] = {
    "algorithm": {"kind": "minimise"}, "grid.sample_ratio": [2.0], "data": {"kind": "gaussian"}, "initial": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "rate", "steps"),
    [("logistic", 3.0, 120), ("softplus(2 - 2*y*f)/2", 1.0, 120)],
)
def test_long_training_reaches_the_minimiser_of_the_loss(loss: str, rate: float, steps: int) -> None:
    """Two lines of one run file change, and the estimation engine answers."""
    change = {"loss": {"function": loss, "ridge_per_sample": 0.1}}
    minimiser = dl.solve(run_file("logistic", change | MINIMISE | {"simulation": {}}))
    descent = {"algorithm": {"kind": "gradient-descent", "learning_rate": rate, "steps": steps}}
    curve = dl.solve(run_file("logistic", change | descent | {"solver.samples": 8192, "solver.scrambles": 8}))
    pairs = {"M": "m", "Q": "q", "train_loss": "train_loss", "test_loss": "test_loss"}
    for name, theirs in (pairs | {"classification_error": "classification_error"}).items():
        found, error = (float(values(curve, n)[-1].squeeze()) for n in (name, f"{name}_se"))
        assert abs(found - values(minimiser, theirs)[0]) < 4.0 * error + 2e-5, name
        assert error < 2e-3


def test_long_training_with_the_square_loss_is_exact() -> None:
    minimiser = dl.solve(run_file("ridge", MINIMISE | {"simulation": {}}))
    curve = dl.solve(run_file("ridge", {"algorithm.steps": 400}))
    assert values(curve, "M")[-1, 0, 0] == pytest.approx(values(minimiser, "m")[0], abs=1e-9)
    assert values(curve, "Q")[-1, 0, 0] == pytest.approx(values(minimiser, "q")[0], abs=1e-9)


def test_long_langevin_training_samples_the_posterior() -> None:
    """Two lines of one run file change; the bias of a finite rate is known mode by mode."""
    heat, ridge, ratio = 0.3, 0.3, 2.0
    loss = {"loss": {"function": "square", "ridge_per_sample": ridge}}
    posterior = {**MINIMISE, **loss, "algorithm": {"kind": "posterior", "temperature": heat}, "simulation": {}}
    law = dl.solve(run_file("ridge", posterior))
    x, w = marchenko_pastur_nodes(1.0 / ratio, 4000)
    decay = x + ridge
    assert values(law, "V")[0] == pytest.approx(heat / ratio * float(w @ (1.0 / decay)), abs=1e-9)
    for beta, rate in ((0.0, 0.2), (0.0, 0.4), (0.5, 0.1)):
        change = {"learning_rate": rate, "steps": round(30 * (1 - beta) / rate), "temperature": heat}
        change |= {"momentum": {"beta": beta}} if beta else {}
        curve = dl.solve(run_file("ridge", loss | {"algorithm": {"kind": "gradient-descent"} | change}))
        # Stationary variance of w' = w + v', v' = beta v - rate decay w + noise, in each mode.
        spread = heat / ratio * float(w @ (1.0 / (decay * (1.0 - rate * decay / (2.0 * (1.0 + beta))))))
        assert values(curve, "M")[-1, 0, 0] == pytest.approx(values(law, "m")[0], abs=1e-5)
        assert values(curve, "Q")[-1, 0, 0] == pytest.approx(values(law, "q")[0] + spread, abs=2e-5)


def test_small_batches_of_the_first_epoch_are_one_pass_sgd() -> None:
    """Every sample is new, and a batch of b n samples is b alpha of one-pass time at the rate eta/(alpha b)."""
    rate, ratio, ridge = 0.5, 2.0, 0.1
    one_pass = {
        "algorithm": {"kind": "one-pass", "learning_rate": rate, "weight_decay": rate * ridge}, "simulation": {},
        "student": {"kind": "two-layer", "activation": "linear"}, "data": {"kind": "gaussian"},
        "loss": {"function": "square"}, "grid.time": [0.5, 1.0, 2.0],
    }  # fmt: skip
    flow = dl.solve(run_file("ridge", one_pass))
    gaps = {}
    for parts in (100, 200, 400):
        batches = {"steps": parts, "batch_fraction": 1 / parts, "learning_rate": rate * ratio / parts}
        curve = dl.solve(run_file("ridge", {"algorithm": {"kind": "gradient-descent", "batching": "epoch"} | batches}))
        at = [parts // 4, parts // 2, parts]
        gaps[parts] = {name: values(curve, name)[at].ravel() - values(flow, name).ravel() for name in ("Q", "M")}
    for name in ("Q", "M"):
        one, two, four = (gaps[parts][name] for parts in (100, 200, 400))
        assert np.abs(four).max() > 1e-5
        # First order in the batch, then second order.
        assert np.abs(2 * four - two).max() < 1e-5
        assert 2 * four - two == pytest.approx((2 * two - one) / 4, rel=0.02)


def test_nobody_beats_bayes() -> None:
    """The same target and data; classification error of the best estimate there is."""
    change: dict[str, Any] = {"algorithm": {"kind": "bayes"}, "loss": {}, "simulation": {}}
    bayes = values(dl.solve(run_file("logistic", MINIMISE | change)), "classification_error").ravel()[0]
    curve = dl.solve(run_file("logistic", SMALL))
    best = values(curve, "classification_error").min()
    assert bayes < best < bayes + 0.01


def test_schedule_momentum_and_blocks_change_the_answer() -> None:
    base = dl.solve(run_file("ridge"))
    for change in (
        {"algorithm.schedule": "0.5*(1 + cos(pi*t/T))"},
        {"algorithm.momentum": {"beta": 0.5}},
        {"algorithm.batch_fraction": 0.5},
        {"target.flip": 0.1},
        {"data.sample_ratio": 2.1},
        {"loss": {"ridge": 0.1}},
        {"initial": {"kind": "random", "overlap": 0.3, "seed": 1}},
    ):
        other = dl.solve(run_file("ridge", change))
        assert np.abs(values(other, "Q") - values(base, "Q")).max() > 1e-3, change
    # A ridge of the summed loss is alpha times that of the mean.
    same = dl.solve(run_file("ridge", {"loss": {"ridge": 0.2}}))
    assert values(same, "Q") == pytest.approx(values(base, "Q"), abs=1e-14)


def test_one_variance_in_two_blocks_is_one_block() -> None:
    change = {"student": {"kind": "two-layer", "activation": "tanh"}, "algorithm.steps": 6} | SMALL
    spectrum = {"variances": [1.0, 1.0], "fractions": [0.3, 0.7]}
    one, two = (dl.solve(run_file("ridge", change | more)) for more in ({}, {"data.spectrum": spectrum}))
    assert values(two, "Q_block").shape == (7, 2, 1, 1)
    assert values(two, "Q_block").sum(axis=1) == pytest.approx(values(two, "Q"))
    for name in ("train_loss", "Q", "M"):
        error = np.hypot(values(one, f"{name}_se"), values(two, f"{name}_se"))
        assert (np.abs(values(one, name) - values(two, name)) < 5.0 * error + 1e-4).all(), name


def test_units_that_are_alike_move_as_one() -> None:
    """Two identical units are one of twice the readout at half the rate, and rounding does not part them."""
    change: dict[str, Any] = {"algorithm.batch_fraction": 1.0, "algorithm.steps": 20, "student.train_readout": False}
    change |= SMALL
    single = {"student.width": 1, "initial": {"kind": "explicit", "Q": [[0.6]], "M": [[0.3, 0.05]], "a": [2.0]}}
    one = dl.solve(run_file("committee", change | single | {"algorithm.learning_rate": 0.5}))
    for gap in (0.0, 1e-12):
        start = {"Q": [[0.6, 0.6 - gap], [0.6 - gap, 0.6]], "M": [[0.3, 0.05]] * 2, "a": [1.0, 1.0]}
        pair = {"initial": {"kind": "explicit"} | start, "algorithm.learning_rate": 1.0}
        two = dl.solve(run_file("committee", change | pair))
        q = values(two, "Q")
        assert np.ptp(q, axis=(1, 2)).max() < (1e-9 if gap == 0 else 1e-4)
        error = np.hypot(values(two, "Q_se")[:, 0, 0], values(one, "Q_se")[:, 0, 0])
        assert (np.abs(q[:, 0, 0] - values(one, "Q")[:, 0, 0]) < 5.0 * error + 1e-9).all()


def test_latent_fields_keep_their_covariance_on_any_spectrum() -> None:
    spectrum = {"variances": [2.5, 0.5], "fractions": [0.25, 0.75]}
    for power in (None, [0.9, 0.1], "latent"):
        change = {"data.spectrum": spectrum, "algorithm.steps": 1} | SMALL
        curve = dl.solve(run_file("ridge", change | ({} if power is None else {"target.power": power})))
        # At w = 0 the error would be E f*^2 / 2 = 1/2; the start adds E f^2 / 2 = sum s gamma / 2 = 1/2.
        assert values(curve, "generalization_error")[0] == pytest.approx(1.0, abs=1e-9)


def test_two_time_output() -> None:
    change = {"solver.output": "two-time", "algorithm.steps": 5}
    exact = dl.solve(run_file("ridge", change))
    assert values(exact, "overlap").shape == (6, 6, 1, 1)
    assert values(exact, "weight_response").shape == (6, 5, 1, 1)
    sampled = dl.solve(run_file("ridge", change | {"solver.method": "responses", "solver.samples": 8192}))
    particles = dl.solve(run_file("ridge", change | {"solver.method": "particles", "solver.samples": 8192}))
    assert "weight_response" not in particles
    for name in ("weight_response", "gradient_response", "gradient_correlation", "overlap"):
        error = values(sampled, f"{name}_se")
        assert (np.abs(values(sampled, name) - values(exact, name)) < 5.0 * error + 3e-5).all(), name
    error = values(particles, "overlap_se")
    assert (np.abs(values(particles, "overlap") - values(exact, "overlap")) < 5.0 * error + 3e-5).all()


def test_output_times_of_the_grid() -> None:
    whole = dl.solve(run_file("ridge"))
    some = dl.solve(run_file("ridge", {"grid.time": [0, 3, 60]}))
    assert np.array_equal(values(some, "Q"), values(whole, "Q")[[0, 3, 60]])
    assert float(some["early_stopping_time"]) == float(whole["early_stopping_time"])
    for time in (2.5, 61.0):
        with pytest.raises(ConfigError, match="no output at time"):
            dl.solve(run_file("ridge", {"grid.time": [0.0, time]}))


def test_workers_change_no_number_and_seeds_do() -> None:
    change = {"algorithm.steps": 5, "solver.samples": 300, "solver.scrambles": 3}
    one, two, other = (
        dl.solve(run_file("committee", change | more))
        for more in ({"solver.workers": 1}, {"solver.workers": 3}, {"solver.seed": 1})
    )
    for name in ("train_loss", "Q", "a", "test_loss"):
        assert np.array_equal(values(one, name), values(two, name))
        assert not np.array_equal(values(one, name), values(other, name))


def test_an_interrupted_solve_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = {"algorithm.steps": 6, "solver.samples": 300, "solver.scrambles": 2, "solver.workers": 1}
    whole = dl.solve(run_file("committee", change))
    change |= {"solver.checkpoint": str(tmp_path), "solver.checkpoint_every": 2}
    step, count = march_module.March._step, [0]

    def failing(self: Any) -> None:
        count[0] += 1
        if count[0] == 11:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(march_module.March, "_step", failing)
    with pytest.raises(KeyboardInterrupt):
        dl.solve(run_file("committee", change))
    saved = os.listdir(tmp_path)
    assert len(saved) == 2
    # As a process leaves it that is killed while it writes.
    (tmp_path / f".{saved[0][:60]}.abc.tmp").write_bytes(b"half")
    count[0] = 100
    resumed = dl.solve(run_file("committee", change))
    # Of twelve updates six were done in the first scramble and four in the second.
    assert count[0] == 102
    assert not os.listdir(tmp_path)
    for name in ("train_loss", "Q", "M", "a", "test_loss"):
        assert np.array_equal(values(whole, name), values(resumed, name))
    # All scrambles start from one place.
    assert values(whole, "Q_se")[0].max() == 0.0 < values(whole, "Q_se")[1].min()


def test_too_much_memory_is_refused() -> None:
    with pytest.raises(SolveError, match="memory") as caught:
        dl.solve(run_file("committee", {"solver.memory_limit": 0.01}))
    assert caught.value.status == "memory"


def test_few_particles_for_many_updates_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    change = {"algorithm.steps": 12, "solver.scrambles": 2}
    dl.solve(run_file("committee", change | {"solver.samples": 1024}))
    assert not caplog.records
    dl.solve(run_file("committee", change | {"solver.samples": 256}))
    assert "24 gradients reveal 28 %" in caplog.text


def test_a_rate_beyond_the_edge_says_when() -> None:
    change = {"algorithm.learning_rate": 30.0, "algorithm.steps": 60, "solver.samples": 256, "solver.scrambles": 2}
    phase = {"student": {"kind": "two-layer", "activation": "x**2"}, "target.formula": "z**2"}
    with pytest.raises(SolveError, match="finite") as caught:
        dl.solve(run_file("ridge", change | phase))
    assert caught.value.status == "diverged"
    assert caught.value.partial is not None
    assert np.isfinite(values(caught.value.partial, "train_loss")).all()


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"data.sample_ratio": None}, "data.sample_ratio"),
        ({"loss": {"function": "cross-entropy"}}, "loss.function"),
        ({"loss": {"function": "logistic"}}, "loss.function"),
        ({"loss": {"function": "square", "ridge_per_sample": "1e-4*k"}}, "loss.ridge"),
        ({"algorithm.momentum": {"decay": 1.0}}, "algorithm.momentum"),
        ({"algorithm.batch_fraction": 0.3, "algorithm.batching": "cyclic"}, "algorithm.batch_fraction"),
        ({"algorithm.temperature": -1.0}, "algorithm.temperature"),
        ({"algorithm.spherical": True}, "algorithm.spherical"),
        ({"student.bias": True}, "student.bias"),
        ({"data.spectrum": {"variances": [1.0, 5.0], "fractions": [1.0, 0.0]}}, "data.spectrum"),
        ({"algorithm": {"kind": "gradient-flow"}}, "algorithm.learning_rate"),
        ({"loss": {"function": "heaviside(1 - y*f)"}}, "loss.function"),
        (
            {"loss": {"function": "abs"}, "algorithm": {"kind": "gradient-flow", "learning_rate": 0.1, "steps": 2}},
            "loss.function",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_refusals(change: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError, match=path.replace(".", r"\.")):
        run_file("ridge", {"theory": "multi-pass"} | change)


@pytest.mark.parametrize(
    ("change", "kind", "where"),
    [
        ({"initial.M": [[0.5, 0.1]]}, ConfigError, "initial.M"),
        ({"initial.M": [[1.5]]}, DomainError, "initial.M"),
        ({"initial.Q": [[1.0, 0.0], [0.0, 1.0]]}, ConfigError, "initial.Q"),
        ({"initial.a": [1.0, 2.0]}, ConfigError, "initial.a"),
        ({"algorithm.schedule": "1 - t"}, ConfigError, "algorithm.schedule"),
        ({"solver.method": "closed-form", "student": {"kind": "two-layer"}}, DerivationError, "solver.method"),
        ({"solver.method": "responses", "student": {"kind": "two-layer", "activation": "relu"}}, DerivationError,
         "solver.method"),
        ({"solver.approximation": "no-responses"}, DerivationError, "solver.approximation"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(change: dict[str, Any], kind: type[Exception], where: str) -> None:
    with pytest.raises(kind) as caught:
        find("multi-pass").derive(run_file("ridge", change))
    assert caught.value.where == where  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["chain", "dense"])
def test_simulation_agrees_on_every_option(method: str) -> None:
    """Blocks, momentum, Langevin noise, reshuffled batches, trained readouts and a turned label, all at once."""
    problem = run_file(
        "committee",
        {
            "data.spectrum": {"variances": [2.0, 0.5], "fractions": [0.25, 0.75]},
            "target": {"kind": "index", "formula": "tanh(z1) + z2*n1/2", "flip": 0.1, "noise": 0.2},
            "algorithm.momentum": {"beta": 0.4}, "algorithm.batch_fraction": 0.25, "algorithm.steps": 10,
            "algorithm.temperature": 0.4,
            "loss": {"function": "log-cosh", "ridge_per_sample": 0.05}, "simulation.method": method,
            "solver.samples": 8192,
        },
    )  # fmt: skip
    curve = dl.solve(problem)
    measured = simulate(problem, d=400, replicas=32)
    for name in ("train_loss", "Q", "M", "a", "test_loss", "Q_block"):
        found, error = (np.asarray(measured[n].values)[0] for n in (name, f"{name}_se"))
        z = (found - values(curve, name)) / (np.hypot(error, values(curve, f"{name}_se")) + 1e-9)
        # Up to 1/d: twice a standard error of the 32 replicas, which is of order (32 d)^-1/2.
        assert np.abs(z[1:]).max() < 5.5, name
        assert np.sqrt(np.mean(z[1:] ** 2)) < 2.2, name


def test_chain_and_explicit_inputs_have_one_law_of_the_flow() -> None:
    change = {"algorithm.steps": 3, "simulation.replicas": 24} | SMALL
    sampled = {
        method: simulate(run_file("logistic", change | {"simulation.method": method}), d=60, replicas=48)
        for method in ("chain", "dense")
    }
    for name in ("train_loss", "Q", "M"):
        one, two = (np.asarray(s[name].values)[0] for s in sampled.values())
        error = np.hypot(*(np.asarray(s[f"{name}_se"].values)[0] for s in sampled.values()))
        assert (np.abs(one - two) < 4.5 * error + 1e-9).all(), name
