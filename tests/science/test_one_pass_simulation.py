"""One-pass SGD at finite d: the Gram chain has the law of the weights, the theory is its limit, errors are caught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

import dimladder as dl
from dimladder.problem import Expression, activation
from dimladder.problem.update_table import Table
from dimladder.results import Measurement
from dimladder.theories.one_pass.flow import OnePassFlow
from dimladder_validation import compare, simulate
from dimladder_validation.finite_size import fit_power_law
from dimladder_validation.simulate import streams
from dimladder_validation.simulate.one_pass import sgd
from dimladder_validation.simulate.one_pass.experiment import finite
from tables import plain

K, M = 3, 2
RUN = """
schema = 2
[target]
kind = "committee"
activation = "erf"
readout = [1.0, 0.8]
overlap = [[1.0, 0.3], [0.3, 1.0]]
noise = 0.3
[student]
kind = "two-layer"
width = 2
activation = "erf"
train_readout = true
[algorithm]
kind = "one-pass"
learning_rate = 0.7
readout_learning_rate = 0.3
[initial]
Q = [[0.6, 0.05], [0.05, 0.4]]
M = [[0.3, 0.1], [0.0, 0.2]]
a = [1.0, 0.7]
[grid]
time = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
[simulation]
sizes = [200, 400, 800]
replicas = 96
seed = 3
"""


def law(**changes: Any) -> Table:
    base: dict[str, Any] = {
        "activation": activation("tanh(x) + 0.4*cos(x)"), "index": Expression("He1(z1) + He2(z2)", "z*"),
        "q": np.array([[0.6, 0.1, 0.0], [0.1, 0.5, 0.05], [0.0, 0.05, 0.7]]),
        "m": np.array([[0.2, 0.1], [0.0, 0.3], [-0.2, 0.1]]), "t": np.array([[1.0, 0.3], [0.3, 1.2]]),
        "v": np.array([0.6, -0.5, 0.4]), "eta": 0.4, "eta_v": 0.2, "noise": 0.3,
    }  # fmt: skip
    return plain(**{**base, **changes})


@pytest.mark.parametrize(
    ("d", "changes"),
    [
        (12, {}),
        (5, {}),  # no direction outside the frame: chi^2 with 0 degrees of freedom
        (12, {"batch": 2}),
        (12, {"batch": 9}),  # more samples than students: the Wishart root of c c^T
        (6, {"batch": 9}),  # one degree of freedom for three students
        (12, {"batch": 3, "displacement": 0.3}),
        (12, {"displacement": -0.3, "loss": "correlation", "spherical": True}),
        (12, {"batch": 4, "spherical": True, "decay": 0.3, "decay_v": 0.1}),
    ],
)
def test_gram_chain_has_the_law_of_the_weights(d: int, changes: dict[str, Any]) -> None:
    """Distributions after 24 steps at a dimension where every O(1/d) effect is large, 1000 replicas each.

    Kolmogorov-Smirnov and two moments in every component, at a joint level of 1e-3 (Bonferroni): a missing term of
    order 1/d, such as |x|^2 replaced by d, moves Q by more than ten standard errors.
    """
    what, times, count = law(**changes), np.array([24.0 / d]), 1000
    chain = sgd.gram_chain(what, times, d, streams(1, "chain", "law", d, 0, count))
    weights = sgd.weight_sgd(what, times, d, streams(1, "weights", "law", d, 0, count))
    columns = []
    for a, b in ((chain.gram, weights.gram), (chain.a, weights.a)):
        columns += list(zip(a.reshape(count, -1).T, b.reshape(count, -1).T, strict=True))
    p_values, z = [], []
    for a, b in columns:
        if what.spherical and np.ptp(a) < 1e-9:
            assert abs(a.mean() - b.mean()) < 1e-9  # norms kept
            continue
        p_values.append(ks_2samp(a, b).pvalue)
        for power in (1, 2):
            x, y = a**power, b**power
            z.append((x.mean() - y.mean()) / np.sqrt((x.var() + y.var()) / count))
    assert min(p_values) > 1e-3 / (3 * len(columns))
    assert np.abs(z).max() < 4.6  # two-sided normal, 1e-3 over 2 x 18 tests is 4.2


def test_wrong_input_norm_would_be_seen() -> None:
    """The test above has power: the chain run at another d, all else equal, differs visibly."""
    what, count = law(), 1500
    a = sgd.gram_chain(what, np.array([2.0]), 12, streams(1, "a", "law", 12, 0, count)).gram[:, 0, 0, 0, 0]
    b = sgd.gram_chain(what, np.array([24.0 / 18]), 18, streams(1, "b", "law", 18, 0, count)).gram[:, 0, 0, 0, 0]
    assert ks_2samp(a, b).pvalue < 1e-6


@pytest.fixture(scope="module")
def measured() -> Measurement:
    return simulate(dl.loads(RUN))


def test_theory_and_simulation_agree(measured: Measurement) -> None:
    comparison = compare(dl.loads(RUN), measured)
    assert comparison.verdict == "agree", comparison.reasons
    assert {v.name for v in comparison.variables} == {"generalization_error", "Q", "M", "a"}
    assert comparison.max_z < comparison.threshold
    assert all(v.visible < 0.1 for v in comparison.variables)


def test_imposed_initial_overlaps_are_met_exactly(measured: Measurement) -> None:
    curve = dl.solve(dl.loads(RUN))
    for name in ("Q", "M", "a"):
        assert (measured[f"{name}_se"].values[:, 0] < 1e-14).all()
        assert np.abs(measured[name].values[:, 0] - curve[name].values[0]).max() < 1e-13


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm.learning_rate": 0.77},
        {"algorithm.learning_rate": 0.63},
        {"algorithm.readout_learning_rate": 0.4},
        {"target.noise": 0.36},
        {"target.readout": [1.0, 0.88]},
        {"target.overlap": [[1.0, 0.2], [0.2, 1.0]]},
        {"initial.M": [[0.3, 0.1], [0.0, -0.2]]},
        {"algorithm.regime": "gradient-flow"},
        {"student.train_readout": False},
    ],
)
def test_a_theory_of_another_problem_is_caught(measured: Measurement, change: dict[str, Any]) -> None:
    comparison = compare(dl.solve(dl.replace(dl.loads(RUN), change)), measured)
    assert comparison.verdict == "disagree", (change, comparison.reasons)


@pytest.mark.parametrize(("entry", "factor"), [(7, -1.0), (7, 1 / 1.2), (4, -1.1), (3, 0.82)])
def test_mutated_equations_are_caught(
    measured: Measurement, monkeypatch: pytest.MonkeyPatch, entry: int, factor: float
) -> None:
    """Sign flipped on the term of second order in the learning rate (its 1/B), or constants off by 10 to 20 percent."""
    right = OnePassFlow.parameters

    def parameters(self: OnePassFlow) -> np.ndarray:
        p = right(self)
        p[entry] *= factor
        return p

    monkeypatch.setattr(OnePassFlow, "parameters", parameters)
    comparison = compare(dl.loads(RUN), measured)
    assert comparison.verdict == "disagree", comparison.reasons


def test_gaps_close_as_one_over_d() -> None:
    """The O(1/d) correction of the mean overlaps, large at this learning rate, closes with the exponent 1."""
    times, sizes, count = [1.0, 2.0], np.array([10.0, 20.0, 40.0, 80.0]), 2000
    problem = dl.loads(RUN, {"grid.time": times, "algorithm.learning_rate": 1.5})
    limit = dl.solve(problem)["Q"].values
    gap, se = [], []
    for d in sizes.astype(int):
        runs = sgd.gram_chain(finite(problem), np.array(times), d, streams(1, "chain", "gap", d, 0, count))
        trace = np.trace(runs.gram[:, :, 0, :, :2] - limit, axis1=2, axis2=3).sum(axis=1)
        gap.append(trace.mean())
        se.append(trace.std(ddof=1) / np.sqrt(count))
    fit = fit_power_law(sizes, np.array(gap), np.array(se))
    assert fit.known
    assert abs(gap[0]) > 6 * se[0]
    assert abs(fit.exponent - 1.0) < 3 * fit.exponent_se
    assert fit.exponent_se < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"algorithm.batch_size": 5},
        {"algorithm.weight_decay": 0.2, "algorithm.readout_weight_decay": 0.1},
        {"algorithm.schedule": "1/(1 + t/4)"},
        {"student.activation": "relu", "algorithm.learning_rate": 0.3},
        {"loss.function": "correlation", "algorithm.spherical": True, "algorithm.learning_rate": 0.3},
    ],
)
def test_variants_of_the_algorithm_agree(change: dict[str, Any]) -> None:
    comparison = compare(dl.loads(RUN, {**change, "grid.time": [0.0, 1.0, 3.0, 6.0]}), replicas=32)
    assert comparison.verdict == "agree", comparison.reasons


LOGISTIC = """
schema = 2
[target]
kind = "index"
formula = "sign(z1 + 0.3*z2)"
noise = 0.2
[student]
kind = "two-layer"
width = 2
activation = "tanh"
train_readout = true
[algorithm]
kind = "one-pass"
learning_rate = 0.8
[loss]
function = "logistic"
[initial]
Q = [[0.6, 0.05], [0.05, 0.4]]
M = [[0.3, 0.1], [0.0, 0.2]]
a = [1.0, 0.7]
[grid]
time = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
[solver]
quadrature_rtol = 1e-4
[simulation]
sizes = [200, 400]
replicas = 64
seed = 2
"""


def test_logistic_loss_on_a_target_that_couples_its_fields() -> None:
    """Averages over all fields at once: overlaps, errors and the loss itself agree; a tenth more rate does not."""
    measured = simulate(dl.loads(LOGISTIC))
    comparison = compare(dl.loads(LOGISTIC), measured)
    assert comparison.verdict == "agree", comparison.reasons
    assert {v.name for v in comparison.variables} == {"generalization_error", "Q", "M", "a", "test_loss"}
    other = dl.solve(dl.loads(LOGISTIC, {"algorithm.learning_rate": 0.88}))
    assert compare(other, measured).verdict == "disagree"


def test_weights_and_gram_are_two_methods_of_one_experiment(measured: Measurement) -> None:
    problem = dl.loads(RUN, {"simulation.method": "weights", "grid.time": [0.0, 1.0, 2.0]})
    weights = simulate(problem, d=200)
    for name in ("generalization_error", "Q", "M", "a"):
        gram = measured.dataset[[name, f"{name}_se"]].sel(d=[200], time=[1.0, 2.0])
        other = weights.dataset[[name, f"{name}_se"]].sel(time=[1.0, 2.0])
        z = (gram[name] - other[name]) / np.hypot(gram[f"{name}_se"], other[f"{name}_se"])
        assert float(np.abs(z).max()) < 4.5


def test_published_simulation_of_a_committee() -> None:
    """Saad and Solla's noise floor: a matched erf unit under label noise settles where the second-order term balances.

    K = M = 1, eta = 1.5, sigma = 0.3: stationary error 1.825115e-2 (two independent integrations of the equations).
    """
    text = RUN.replace("readout = [1.0, 0.8]\noverlap = [[1.0, 0.3], [0.3, 1.0]]", "readout = [1.0]")
    one = {
        "student.width": 1, "student.train_readout": False, "algorithm.learning_rate": 1.5, "initial.Q": [[0.5]],
        "initial.M": [[0.5]], "initial.a": [1.0], "grid.time": [100.0, 110.0, 120.0, 130.0, 140.0],
    }  # fmt: skip
    result = simulate(dl.loads(text, one), d=2000, replicas=16)
    level = result["generalization_error"].values.mean()
    se = result["generalization_error_se"].values.mean()  # an upper bound: the five times are correlated
    assert abs(level - 1.825115e-2) < 3 * se + 1.825115e-2 * 5 / 2000
