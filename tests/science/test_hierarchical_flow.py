"""First-layer dynamics: closed solutions, limits, and simulated neurons."""

import math
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder_validation.simulate.base import backend_for
from dimladder_validation.simulate.hierarchical.flow import neurons

CPU = backend_for("cpu", "float32")
RUN = Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "hierarchical-flow.toml"


def drift(problem):
    return dl.derive(problem).drift


def test_run_file_is_logistic():
    problem = dl.load(RUN)
    curve = dl.solve(problem, rtol=1e-11, atol=1e-13)
    rate, t = drift(problem).rate, curve["time"].values
    # b = E[P h_2] E[g'] = 0.72948 for tanh(2h); E[sigma(sigma) h_2] = 0.034073: both checked by Monte Carlo elsewhere.
    assert rate == pytest.approx(2 * 0.5 * 0.7294775 * 0.0340729, rel=1e-5)
    grown = 0.05 / 0.95 * np.exp(2 * rate * t)
    np.testing.assert_allclose(curve["subspace_overlap"], grown / (1 + grown), rtol=1e-9)
    assert float(curve["escape_time"]) == pytest.approx(math.log(19) / (2 * rate), rel=1e-10)


def test_escape_time_grows_like_log_d():
    times = {d: dl.derive(dl.load(RUN, {"limit.d": d})).escape_time() for d in (10_000, 1_000_000)}
    rate = drift(dl.load(RUN)).rate
    # log((1 - q0)/q0) with q0 = d^(-1/2): one half log d per e-fold of 2 rate.
    assert times[1_000_000] - times[10_000] == pytest.approx(0.5 * math.log(100) / (2 * rate), rel=0.01)


def test_rate_by_monte_carlo():
    # The population step itself, at d_eff = 4000 in the direction of a random neuron: E[f* s'(w.x) x] . P_W* w.
    problem = dl.load(RUN, {"target.link": "h + 0.4*He3(h)", "target.features": [{"2": 0.6, "4": 0.8}]})
    g = drift(problem)
    rng = np.random.default_rng(0)
    z = rng.standard_normal(4_000_000)
    inner = np.tanh(z - 0.3) - 0.7912 * z
    twice = np.tanh(inner - 0.3) - 0.7912 * inner
    values = twice * (z**2 - 1) / math.sqrt(2)
    se = values.std() / math.sqrt(z.size)
    assert abs(values.mean() - g.activation[2]) < 4 * se
    assert g.slope == pytest.approx(1.0, abs=1e-12)  # E[g'(h)], unit variance: He_3' has no mean
    assert g.feature == 0.6
    assert g.rate == pytest.approx(2 * 0.5 * 0.6 * g.activation[2], rel=1e-12)


@pytest.mark.parametrize("readout", ["ones", "rademacher", "gaussian", [1.0, 2.0, -1.0]])
def test_flow_is_a_replicator_equation(readout):
    problem = dl.load(RUN, {"target.readout": readout, "algorithm.step": 3.0})
    curve = dl.solve(problem, rtol=1e-11, atol=1e-14)
    g, t = drift(problem), curve["time"].values
    grown = g.initial * np.exp(2 * g.rate * g.values * t[:, None])
    total = grown.sum(axis=1) + 1 - g.initial.sum()
    np.testing.assert_allclose(curve["subspace_overlap"], grown.sum(axis=1) / total, rtol=1e-8)
    crossing = float(curve["escape_time"])
    at = g.initial * np.exp(2 * g.rate * g.values * crossing)
    assert at.sum() == pytest.approx(1 - g.initial.sum(), rel=1e-9)


def test_map_tends_to_the_flow_at_first_order():
    gaps = []
    for step in (1.0, 0.5):
        steps = round(200 / step)
        settings = {"algorithm.step": step, "grid.time": [0.0, float(steps)]}
        flow = float(dl.solve(dl.load(RUN, settings))["subspace_overlap"][-1])
        discrete = float(dl.solve(dl.load(RUN, {**settings, "algorithm.map": True}))["subspace_overlap"][-1])
        gaps.append(abs(discrete - flow))
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(1.0, abs=0.2)


def test_map_is_the_normalised_step():
    problem = dl.load(RUN, {"algorithm.map": True, "algorithm.step": 4.0, "grid.time": [0.0, 1.0, 2.0, 7.0]})
    values = dl.solve(problem)["subspace_overlap"].values
    rate, q = drift(problem).rate, 0.05
    expected = [q]
    for _ in range(7):
        inside, outside = math.sqrt(q) * (1 + rate * (1 - q)), math.sqrt(1 - q) * (1 - rate * q)
        q = inside**2 / (inside**2 + outside**2)
        expected.append(q)
    np.testing.assert_allclose(values, [expected[0], expected[1], expected[2], expected[7]], rtol=1e-12)


def test_map_counts_whole_steps():
    with pytest.raises(dl.ConfigError, match="whole numbers"):
        dl.load(RUN, {"algorithm.map": True, "grid.time": [0.0, 0.5]})


def test_rademacher_neurons_keep_one_half():
    for sign in (1, -1):
        problem = dl.load(RUN, {"target.readout": "rademacher", "student.sign": sign, "algorithm.step": 10.0})
        curve = dl.solve(problem)
        last = curve["class_overlap"].isel(time=-1)
        kept = last.sel(readout_value=float(sign))
        lost = last.sel(readout_value=float(-sign))
        # Overlap over the fraction 1/2 of the class: 2 when the whole neuron lies in it.
        assert float(kept) == pytest.approx(2.0, abs=1e-3)
        assert float(lost) < 0.01


def simulate(problem, d, replicas, seed=0):
    """Return overlaps of single neurons, shape (replicas, times)."""
    times = np.array(problem.grid.values("time")).astype(int)
    results = []
    for r in range(replicas):
        overlap, positive = neurons(problem, d, [np.random.default_rng([seed, r])], CPU, int(times.max()), 1)
        results.append((overlap[0, times, 0], positive[0, times, 0]))
    return np.array([a for a, _ in results]), np.array([b for _, b in results])


@pytest.mark.slow
def test_simulated_neurons_follow_the_map():
    """d = 144, a = 1: the start of each neuron is random, so each is compared with the map from its own start."""
    settings = {"limit.d": 144, "algorithm.map": True, "algorithm.step": 5.0, "algorithm.batch_ratio": 20.0}
    problem = dl.load(RUN, {**settings, "grid.time": [float(t) for t in range(31)]})
    values, _ = simulate(problem, 144, 6)
    rate, nu = drift(problem).rate, drift(problem).batch_noise
    gaps = []
    for path in values:
        q = path[0]
        for n in range(1, 31):
            inside, outside = q * (1 + rate * (1 - q)) ** 2, (1 - q) * (1 - rate * q) ** 2
            q = (inside + nu * 12 / 144) / (inside + outside + nu)
            gaps.append(path[n] - q)
    gaps = np.array(gaps).reshape(6, 30)
    # The population gradient is known to d_eff^(-1/2) = 0.29 of its size, which delays the rise by that order.
    assert np.abs(gaps.mean(axis=0)).max() < 0.29
    assert np.abs(gaps[:, -5:].mean()) < 0.004  # the plateau does not depend on the rate's correction


@pytest.mark.slow
def test_noise_floor_at_finite_batch():
    """1 - q at late times against the stationary point of the map with noise, at two batch ratios and two sizes."""
    for d, ratio, replicas in ((144, 4.0, 4), (324, 2.0, 3)):
        settings = {"limit.d": d, "algorithm.map": True, "algorithm.step": 5.0, "algorithm.batch_ratio": ratio}
        problem = dl.load(RUN, {**settings, "grid.time": [float(t) for t in range(30, 46)]})
        streams = [np.random.default_rng([0, r]) for r in range(replicas)]
        overlap, _ = neurons(problem, d, streams, CPU, 45, 8)
        measured = 1 - overlap[:, 30:].mean(axis=(1, 2))
        se = measured.std(ddof=1) / math.sqrt(replicas)
        floor = drift(problem).floor()
        # Above the floor by 0.85/d_eff of it (7.1(7) % at d_eff = 12, 4.8(10) % at 18): far less than the rise is off.
        assert -4 * se < measured.mean() - floor < 4 * se + 1.2 * floor / math.sqrt(d)
        flow = drift(dl.load(RUN, {**settings, "algorithm.map": False})).floor()
        assert measured.mean() > 1.08 * flow


def test_noise_floor_is_where_the_noisy_solutions_end():
    for discrete in (False, True):
        settings = {
            "algorithm.step": 5.0,
            "algorithm.batch_ratio": 3.0,
            "algorithm.gradient_noise": True,
            "limit.d": 196,
        }
        curve = dl.solve(dl.load(RUN, {**settings, "algorithm.map": discrete, "grid.time": [0.0, 400.0]}))
        assert 1 - float(curve["subspace_overlap"][-1]) == pytest.approx(float(curve["noise_floor"]), rel=1e-5)


@pytest.mark.slow
def test_simulated_rademacher_neurons_keep_one_half():
    settings = {"target.readout": "rademacher", "algorithm.map": True, "algorithm.step": 6.0}
    for sign in (1, -1):
        problem = dl.load(RUN, {**settings, "limit.d": 100, "student.sign": sign, "grid.time": [0.0, 36.0]})
        overlap, positive = simulate(problem, 100, 3, seed=sign + 2)
        share = positive[:, -1] / overlap[:, -1]
        assert np.all(overlap[:, -1] > 0.94)
        assert np.all(share > 0.97 if sign == 1 else share < 0.03)
