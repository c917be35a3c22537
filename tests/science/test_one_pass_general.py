"""Blocks, sources and several tracked vectors: states of an independent program, and limits of the plain flow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import dimladder as dl
from dimladder.problem.update_table import Table, table
from dimladder.theories.one_pass.flow import OnePassFlow
from dimladder.theories.one_pass.general.symbols import symbols
from dimladder.theories.one_pass.general.table_flow import GeneralFlow

# States of a separate program: other averages, another integrator, solved to 1e-12.
CASES = json.loads((Path(__file__).parent / "one_pass_reference.json").read_text())
RELU = {"A3", "B3"}

PLAIN = """
schema = 2
[data]
spectrum = { variances = [1.0], fractions = [1.0] }
[target]
kind = "committee"
readout = [1.0, 0.8]
overlap = [[1.0, 0.2], [0.2, 0.9]]
noise = 0.15
[student]
kind = "two-layer"
width = 2
train_readout = true
[algorithm]
kind = "one-pass"
learning_rate = 0.6
readout_learning_rate = 0.3
weight_decay = 0.05
readout_weight_decay = 0.02
batch_size = 2
[initial]
Q = [[0.6, 0.1], [0.1, 0.5]]
M = [[0.1, 0.0], [-0.1, 0.2]]
a = [0.9, 1.1]
[grid]
time = [0.0, 1.0, 5.0, 20.0]
[solver]
rtol = 1e-10
atol = 1e-12
"""


def table_of(case: dict[str, Any], base: Table) -> Table:
    """Return a reference case as a table; vectors that are means are repeated as directions."""
    K, F, S = case["K"], case["F"], case["nw"]
    columns = sorted({m for m in case["mean_column"] if m >= 0})
    order = [*range(S * K + F), *columns]
    sources = len(case["pi"])
    means = np.zeros((sources, len(columns)))
    for c, m in enumerate(case["mean_column"]):
        if m >= 0:
            means[c, columns.index(m)] = 1.0
    stages = [(np.inf, tuple(case["pi"]))]
    if "schedule_pi" in case:
        # Of every interval between the times of the whole reference.
        stages = []
        for weights, end in zip(case["schedule_pi"], case["all_times"][1:], strict=True):
            stages = [*(stages[:-1] if stages and stages[-1][1] == tuple(weights) else stages), (end, tuple(weights))]
    mixed = np.array(case["L"])[::K, ::K].reshape(S, S)
    masks = np.array(case["mask"])
    return replace(
        base, species=("w", "u")[:S], K=K, M=F, D=len(columns), heads=len(case["a0"]), index=(),
        teacher=base.activation,
        shares=np.array(case["gamma"]), variances=np.array(case["s"]), means=means, stages=tuple(stages),
        labels=np.array(case["y0"])[:, None], noise=np.sqrt(case["sigma2"]), teacher_rows=np.array(case["A"]),
        head=np.array(case["head"]), masks=masks,
        emitter=np.arange(sources) if (masks == 1).all() else np.zeros(sources, dtype=np.int64),
        drift=mixed, scheduled_drift=0 * mixed, gain=np.array(case["P"])[::K, 0], fixed_gain=np.zeros(S),
        kick=np.zeros(S), fixed_kick=np.zeros(S), readout_rate=case["eta_readout"], readout_decay=0.0,
        batch=int(case["batch"]),
        gram=np.array(case["G0"])[:, order][:, :, order], a=np.array(case["a0"]), bias=np.zeros((S, K)),
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_states_of_the_reference(name: str) -> None:
    case, accuracy = CASES[name], 1e-8 if name in RELU else 1e-9
    relu = {"student.activation": "relu", "target.activation": "relu"}
    given = relu if name in RELU else {}
    problem = dl.loads(PLAIN, given | {"grid.time": [0.0, *map(float, case["times"])]})
    flow = GeneralFlow(problem, table_of(case, table(problem)))
    found = flow.solve()
    assert found.status == "success"
    assert flow.averages.route == "closed"
    # The unknown overlaps, block by block, of a second solve that returns states.
    from dimladder.numerics.ode import integrate

    states = integrate(y0=flow.initial_state(), p=flow.parameters(), **flow.integration()).y[1:]
    moving, cross, a = flow.unpack(states)
    V, F = flow.V, case["F"]
    wanted = np.array(case["G"])
    np.testing.assert_allclose(moving, wanted[:, :, :, :V], atol=accuracy, rtol=0)
    np.testing.assert_allclose(cross[..., :F], wanted[:, :, :, V:], atol=accuracy, rtol=0)
    np.testing.assert_allclose(a, case["a"], atol=accuracy, rtol=0)
    error = "error" if flow.table.sources > 1 else "generalization_error"
    values = np.asarray(found.variables[error].values)[1:].reshape(len(states), -1)
    np.testing.assert_allclose(values, case["error"], atol=accuracy, rtol=0)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"algorithm.schedule": "1/(1+t)", "algorithm.spherical": True, "algorithm.weight_decay": 0.0},
        {"algorithm.regime": "gradient-flow", "student.activation": "x^2 - 1", "target.activation": "x"},
    ],
)
def test_one_block_is_the_plain_flow(changed: dict[str, Any]) -> None:
    problem = dl.loads(PLAIN, changed)
    general, plain = GeneralFlow(problem).solve(), OnePassFlow(problem).solve()
    for name in ("Q", "M", "a", "generalization_error"):
        np.testing.assert_allclose(
            general.variables[name].values, plain.variables[name].values, atol=2e-9, rtol=1e-9, err_msg=name
        )


def test_blocks_of_one_variance_are_one_block() -> None:
    """Equal eigenvalues: any partition of the coordinates gives the same totals."""
    one = dl.solve(dl.loads(PLAIN))
    split = dl.solve(dl.loads(PLAIN, {"data.spectrum": {"variances": [1.0, 1.0, 1.0], "fractions": [0.5, 0.3, 0.2]}}))
    for name in ("Q", "M", "a", "generalization_error"):
        np.testing.assert_allclose(split[name].values, one[name].values, atol=1e-9, rtol=0, err_msg=name)


def test_a_linear_student_on_a_power_law_obeys_its_closed_equation() -> None:
    """K = M = 1, linear: q_b = Q^b - 2 M^b + T^b obeys a linear equation of its own."""
    from scipy.integrate import solve_ivp

    eta, sigma, alpha, levels = 0.35, 0.3, 0.8, 12
    problem = dl.loads(
        PLAIN,
        {
            "data.spectrum": {"exponent": alpha, "levels": levels}, "target.readout": [1.0], "target.overlap": [[1.0]],
            "target.activation": "x", "target.noise": sigma, "target.power": {"exponent": 0.7},
            "student": {"kind": "linear"}, "algorithm": {"kind": "one-pass", "learning_rate": eta},
            "initial": {"Q": [[0.7]], "M": [[0.2]]},
        },
    )  # fmt: skip
    curve = dl.solve(problem)
    s = np.arange(1, levels + 1) ** -(1.0 + alpha)
    s, share = s / s.mean(), 1.0 / levels
    tau = np.arange(1, levels + 1) ** -0.7
    tau /= tau.sum()
    q0 = share * 0.7 - 2 * 0.2 * tau + tau
    rate = lambda t, q: -2 * eta * s * q + eta**2 * share * s * (s @ q + sigma**2)  # noqa: E731
    q = solve_ivp(rate, (0, 20), q0, t_eval=curve["time"].values, rtol=1e-11, atol=1e-13, method="DOP853").y
    np.testing.assert_allclose(curve["generalization_error"].values, 0.5 * s @ q, atol=1e-9, rtol=0)
    # The printed equation of renewal, by the trapezoidal rule: 2 e = F + K * (2 e + sigma^2).
    steps, end = 2000, 10.0
    h, t = end / steps, np.linspace(0.0, end, steps + 1)
    fall = np.exp(-2 * eta * np.outer(t, s))
    memory, error = eta**2 * fall @ (share * s**2), fall @ (s * q0)
    for n in range(1, steps + 1):
        past = memory[n:0:-1] * (error[:n] + sigma**2)
        error[n] += h * (past.sum() - past[0] / 2 + memory[0] * sigma**2 / 2)
        error[n] /= 1 - h * memory[0] / 2
    renewed = np.interp(curve["time"].values, t, error / 2)
    before = curve["time"].values <= end
    np.testing.assert_allclose(curve["generalization_error"].values[before], renewed[before], atol=1e-4, rtol=0)
    said = dl.derive(problem).explain()
    assert "Volterra" in said
    assert "here eta <s>/(2 B_s) = 0.175" in said
    assert "effective dimension" in said


def test_fixed_beta_is_a_larger_rate() -> None:
    ball = dl.solve(dl.loads(PLAIN, {"algorithm.momentum": {"beta": 0.5}, "algorithm.weight_decay": 0.0}))
    plain = dl.solve(dl.loads(PLAIN, {"algorithm.learning_rate": 1.2, "algorithm.weight_decay": 0.0}))
    np.testing.assert_allclose(ball["Q"].values, plain["Q"].values, atol=1e-9, rtol=0)


def test_an_average_follows_its_weights() -> None:
    """The average's overlaps with the teacher are an integral over those of the weights."""
    update = {"w": "w - learning_rate*a*dg(lambda_w)*error*x/sqrt(d)", "wbar": "wbar + gamma*(w - wbar)/d"}
    rule = {
        "kind": "one-pass",
        "learning_rate": 0.8,
        "vectors": {"wbar": "w"},
        "constants": {"gamma": 0.7},
        "update": update,
    }
    times = np.linspace(0.0, 3.0, 601).tolist()
    problem = dl.loads(PLAIN, {"algorithm": rule, "student.train_readout": False, "grid.time": times})
    curve = dl.solve(problem)
    M, K = curve["M"].values, 2
    # d M_wbar/dt = gamma (M_w - M_wbar), by the trapezium rule with exact decay
    step, decay = times[1], np.exp(-0.7 * times[1])
    average = M[0, :K].copy()
    for now, then in zip(M[:-1, :K], M[1:, :K], strict=True):
        average = average * decay + (1 - decay) * 0.5 * (now + then)
    np.testing.assert_allclose(average, M[-1, K:], atol=1e-5 * step / 0.005)
    # The wbar network is the w network of the averaged overlaps: at the start they coincide.
    first = curve["generalization_error"].values[0]
    assert curve["generalization_error_wbar"].values[0] == pytest.approx(first, abs=1e-13)


def test_unused_teachers_change_nothing_but_are_followed() -> None:
    """A source reads its own teachers: a second teacher never shown leaves the first task alone."""
    tasks = {
        "data.tasks": [{"until": float("inf"), "weights": [1.0, 0.0]}],
        "target.readout": [[1.0, 0.8, 0.0], [0.0, 0.0, 1.0]],
    }
    overlap = [[1.0, 0.2, 0.3], [0.2, 0.9, 0.0], [0.3, 0.0, 1.0]]
    more = {"target.overlap": overlap, "initial.M": [[0.1, 0.0, 0.1], [-0.1, 0.2, 0.0]], "data.spectrum": None}
    both = dl.solve(dl.loads(PLAIN, tasks | more | {"student.heads": 1}))
    one = dl.solve(dl.loads(PLAIN, {"data": {"kind": "gaussian"}}))
    np.testing.assert_allclose(both["Q"].values, one["Q"].values, atol=1e-9, rtol=0)
    np.testing.assert_allclose(both["M"].values[:, :, :2], one["M"].values, atol=1e-9, rtol=0)
    assert abs(both["M"].values[-1, :, 2] - both["M"].values[0, :, 2]).max() > 0.02


XOR = """
schema = 2
[data]
kind = "mixture"
weights = [0.2, 0.2, 0.3, 0.3]
means = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
mean_overlap = [[3.0, 0.0], [0.0, 5.0]]
variances = [0.5, 0.5, 0.8, 0.8]
[target]
kind = "cluster-labels"
labels = [1.0, 1.0, -1.0, -1.0]
[student]
kind = "two-layer"
width = 2
train_readout = true
bias = true
[algorithm]
kind = "one-pass"
learning_rate = 1.0
bias_learning_rate = 0.5
[initial]
Q = [[0.4, 0.05], [0.05, 0.3]]
means = [[0.5, -0.2], [0.1, 0.4]]
a = [0.6, -0.5]
bias = [-0.4, 0.3]
[grid]
time = [0.0, 4.0]
"""


def test_errors_of_clusters_are_those_of_samples() -> None:
    """Error and classification error at the end, of fields drawn from the overlaps, means and biases of the curve."""
    from scipy.special import erf

    curve = dl.solve(dl.loads(XOR))
    random = np.random.default_rng(5)
    Q, a, bias, overlap = (curve[name].values[-1] for name in ("Q", "a", "bias", "mean_overlap"))
    count, squares, wrong = 400_000, [], 0.0
    for mean, variance, chance, label in zip(
        [[1, 0], [-1, 0], [0, 1], [0, -1]], [0.5, 0.5, 0.8, 0.8], [0.2, 0.2, 0.3, 0.3], [1, 1, -1, -1], strict=True
    ):
        fields = random.multivariate_normal(overlap @ np.array(mean) + bias, variance * Q, size=count)
        f = erf(fields / np.sqrt(2.0)) @ a
        squares.append((0.5 * np.mean((f - label) ** 2), 0.5 * np.std((f - label) ** 2) / np.sqrt(count)))
        wrong += chance * np.mean(f * label < 0)
    for c, (value, error) in enumerate(squares):
        assert abs(curve["error"].values[-1, c] - value) < 5 * error
    assert abs(curve["classification_error"].values[-1] - wrong) < 5 * np.sqrt(wrong * (1 - wrong) / (4 * count) * 1.5)


def test_an_odd_student_is_told_that_it_cannot_learn_an_even_label() -> None:
    without = {"student.bias": False, "algorithm.bias_learning_rate": None, "initial.bias": None}
    problem = dl.loads(XOR, without | {"grid.time": [0.0, 100.0]})
    (said,) = _warnings(problem)
    assert "odd activation" in said
    assert "stays above 0.5" in said
    assert dl.solve(problem)["generalization_error"].values[-1] > 0.5
    assert not _warnings(dl.loads(XOR))


def _warnings(problem: Any) -> list[str]:
    from dimladder.theories.one_pass.theory import THEORY

    return THEORY.warnings(problem)


def test_a_written_coefficient_is_averaged_as_it_stands() -> None:
    """The slope of the square loss written out, by quadrature over two tracked vectors, is the gradient."""
    update = {"w": "w - learning_rate*a*dg(lambda_w)*(f - y)*x/sqrt(d)", "wbar": "wbar + (w - wbar)/d"}
    one = {"target.readout": [1.0], "target.overlap": [[1.0]], "student.width": 1, "student.train_readout": False}
    start = {"initial": {"Q": [[1.0]], "M": [[0.1]]}, "grid.time": [0.0, 1.0, 3.0]}
    rule = {"kind": "one-pass", "learning_rate": 0.8, "vectors": {"wbar": "w"}, "update": update}
    blocks = {"data.spectrum": {"variances": [0.4, 2.0], "fractions": [0.6, 0.4]}}
    written = dl.solve(dl.loads(PLAIN, one | start | blocks | {"algorithm": rule}))
    named = {"w": update["w"].replace("(f - y)", "error"), "wbar": update["wbar"]}
    closed = dl.solve(dl.loads(PLAIN, one | start | blocks | {"algorithm": rule | {"update": named}}))
    for name in ("Q", "M", "generalization_error", "generalization_error_wbar"):
        np.testing.assert_allclose(written[name].values, closed[name].values, atol=1e-7, rtol=0, err_msg=name)


WRITTEN = {
    "w": "w - learning_rate*tanh(a*dg(lambda_w)*error)*x/sqrt(d)",
    "wbar": "wbar + (w - wbar)/d - 0.3*a*dg(lambda_w)*error*x/sqrt(d)",
}
BLOCKS = {"data.spectrum": {"variances": [0.4, 2.0], "fractions": [0.6, 0.4]}}
RULE = {"kind": "one-pass", "learning_rate": 0.8, "schedule": "1/(1 + t)", "vectors": {"wbar": "w"}}
PRINTED = {
    "written": (PLAIN, {"student.train_readout": False, "algorithm": RULE | {"update": WRITTEN}}),
    "blocks": (PLAIN, BLOCKS),
    "momentum": (PLAIN, {"algorithm.momentum": {"decay": 0.5}, "algorithm.weight_decay": 0.0}),
    "relu": (PLAIN, BLOCKS | {"student.activation": "relu"}),
    "index": (
        PLAIN,
        BLOCKS
        | {
            "target": {"kind": "index", "formula": "He2(z)/sqrt(2)"},
            "student.activation": "x^2 - 1",
            "initial.M": [[0.1], [0.2]],
        },
    ),
    "dropout": (PLAIN, BLOCKS | {"student.dropout": 0.7}),
    "sphere": (PLAIN, BLOCKS | {"algorithm.spherical": True, "algorithm.weight_decay": 0.0}),
    "clusters": (XOR, {}),
}


def test_the_equations_hold_the_written_coefficient() -> None:
    """Vector by vector, with rate and schedule; averages and flow are those of the coefficient, gradient or not."""
    flow = GeneralFlow(dl.loads(*PRINTED["written"]))
    rows = {e.label: e.latex for e in flow.equations()}
    assert r"\tanh{\left(\Delta a_{k} g'(\lambda_{k}) \right)}" in rows["vector w"]
    assert r"\Delta a_{k} g'(\lambda_{k})" in rows["vector wbar"]
    assert "tanh" not in rows["vector wbar"]
    assert rows["rate"] == r"\eta = 0.8\, s(t)"
    assert rows["H"].startswith(r"H_{pl} = \mathbb{E}\left[\partial_{f_{l}} \varphi_{p}\right]")
    assert rows["N"] == r"N_{pr} = \mathbb{E}\left[\varphi_{p}\, \varphi_{r}\right]"
    assert r"\beta" not in "".join(rows.values())
    said = dl.derive(flow.p).explain()
    assert "wₖ ← wₖ" in said
    assert "leftarrow" not in said


@pytest.mark.parametrize("name", PRINTED)
def test_every_symbol_of_the_equations_is_defined(name: str) -> None:
    """By an equation of its own, or by a row of the list of symbols; once."""
    rows = GeneralFlow(dl.loads(*PRINTED[name])).equations()
    formal = [e for e in rows if e.sympy and not e.label.startswith("coefficient")]
    defined = {e.label.removeprefix("symbol ") for e in rows if e.label.startswith("symbol ")}
    left = [e.sympy[0] for e in formal if isinstance(e.sympy[0], sp.Indexed)]
    defined |= {str(lhs.base) for lhs in left}
    # The moments of the flow, and what is printed in words of the model.
    words = {"beta", "varphi", *(e.label for e in rows if e.sympy is None)}
    free = {s for s in symbols(formal) if not s.startswith(r"\mathbb{E}")}
    assert not free - defined - words
    assert "w" not in symbols(formal)
    bounds = {s for e in formal for total in e.sympy[1].atoms(sp.Sum) for _, _, s in total.limits}
    assert {str(s) for s in bounds} <= {"K", "M", "B", "D", "n_v", "n_f", "n_c", "n_h"}


def test_names_of_the_state_are_those_of_the_overlaps() -> None:
    flow = GeneralFlow(dl.loads(PLAIN, BLOCKS))
    assert flow.names()[:3] == ["Q_block[0,0,0]", "Q_block[1,0,0]", "Q_block[0,1,0]"]
    for case in PRINTED.values():
        flow = GeneralFlow(dl.loads(*case))
        assert len(set(flow.names())) == len(flow.initial_state())
    assert flow.names()[:2] == ["Q[0,0]", "Q_bias[0,0]"]
    assert "bias[1]" in flow.names()
