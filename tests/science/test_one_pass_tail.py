"""Curves that reach their target: the flow in differences keeps the relative accuracy of e_g."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import mpmath as mp
import numpy as np
import pytest

import dimladder as dl
from dimladder.batch import solve_many
from dimladder.symbolic import store
from dimladder.theories.one_pass.differences import tail
from generated import interpreted

TEXT = """
schema = 2
[target]
kind = "committee"
activation = "erf"
readout = [1.0, 1.0]
[student]
kind = "two-layer"
width = 2
activation = "erf"
[algorithm]
kind = "one-pass"
learning_rate = 0.5
[initial]
Q = [[0.52, 0.01], [0.01, 0.49]]
M = [[0.2, 0.01], [0.03, 0.25]]
[grid]
time = [0.0, 100.0, 200.0, 400.0, 600.0, 1000.0, 1500.0]
[solver]
rtol = 1e-10
atol = 1e-12
"""


def problem(**changes: Any) -> dl.Problem:
    return dl.replace(dl.loads(TEXT), {k.replace("__", "."): v for k, v in changes.items()})


def near_a_target(
    distance: float, seed: int, match: tuple[int, ...] = (1, 0), signs: tuple[float, ...] = (1.0, 1.0), **changes: Any
) -> tuple[dl.Problem, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A problem whose students start at `distance` from (signed) teachers, -1 near none; and P, S, T."""
    rng = np.random.default_rng(seed)
    d, width = 12, len(match)
    T = rng.normal(size=(2, d))
    T /= np.linalg.norm(T, axis=1, keepdims=True)
    V = distance * rng.normal(size=(width, d)) / np.sqrt(d)
    W = V.copy()
    for row, m, s in zip(W, match, signs, strict=True):
        row += s * T[m] if m >= 0 else 0.5 * rng.normal(size=d) / np.sqrt(d)
    overlaps = {"initial.Q": W @ W.T, "initial.M": W @ T.T, "target.overlap": T @ T.T}
    p = problem(**{"student.width": width, **{key: o.tolist() for key, o in overlaps.items()}, **changes})
    return p, (V @ V.T, V @ T.T, T @ T.T)


CASES = {
    "plain": {},
    "both layers": {"student.train_readout": True, "initial.a": [0.97, 1.05]},
    "mirrored": {"match": (0, 1), "signs": (-1.0, 1.0), "student.train_readout": True, "initial.a": [-0.96, 1.02]},
    "two students, one teacher": {
        "match": (0, 1, 1), "signs": (1.0, 1.0, 1.0), "student.train_readout": True, "initial.a": [1.03, 0.36, 0.62],
    },
    "a free student": {
        "match": (0, -1, 1), "signs": (1.0, 1.0, 1.0), "student.train_readout": True, "initial.a": [1.03, 0.02, 0.97],
    },
    "spherical": {"algorithm.spherical": True},
    "gradient flow, decay, schedule": {
        "algorithm.regime": "gradient-flow", "algorithm.weight_decay": 0.1, "algorithm.schedule": "1/(1 + t)",
    },
    "noise, batch": {"target.noise": 0.3, "algorithm.batch_size": 3},
    "even polynomial": {"student.activation": "x**2 - 1", "target.activation": "x**2 - 1", "signs": (-1.0, 1.0)},
    "sine": {"student.activation": "sin", "target.activation": "sin", "signs": (-1.0, 1.0)},
    "gaussian": {"student.activation": "exp(-x**2/2)", "target.activation": "exp(-x**2/2)"},
    "ReLU": {"student.activation": "relu", "target.activation": "relu", "target.noise": 0.2},
    "ReLU, both layers": {
        "student.activation": "relu", "target.activation": "relu", "student.train_readout": True,
        "initial.a": [0.97, 1.05],
    },
    "ReLU, spherical": {"student.activation": "relu", "target.activation": "relu", "algorithm.spherical": True},
    "tanh": {
        "student.activation": "tanh", "target.activation": "tanh", "signs": (-1.0, 1.0),
        "solver.quadrature_rtol": 4e-3, "distance": 0.03,
    },
    "sigmoid, both layers": {
        "student.activation": "sigmoid", "target.activation": "sigmoid", "student.train_readout": True,
        "initial.a": [0.97, 1.05], "solver.quadrature_rtol": 4e-3, "target.noise": 0.1, "distance": 0.03,
    },
    "abs": {"student.activation": "abs", "target.activation": "abs", "signs": (-1.0, 1.0)},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_difference_form_is_the_flow_in_other_coordinates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """dP, dS and the readouts' rates follow from dQ, dM, da by the chain rule; e_g is the same number."""
    settings: dict[str, Any] = CASES[name]
    match, signs = settings.get("match", (1, 0)), settings.get("signs", (1.0, 1.0))
    p, _ = near_a_target(**{"distance": 0.15, "seed": 3, **settings})
    kept: dict[Any, Any] = {}

    def module(parts: Any, build: Any, **_: Any) -> Any:
        return kept.setdefault(repr(parts), SimpleNamespace(**interpreted(build())))

    monkeypatch.setattr(store, "module", module)
    flow = dl.derive(p)
    form = tail.Form.of(flow)
    assert form is not None
    state = flow.initial_state()
    found = form.match(state)
    assert found.teacher.tolist() == list(match)
    assert found.sign.tolist() == [s if m >= 0 else 1.0 for s, m in zip(signs, match, strict=True)]
    y = form.differences(found, state)
    assert form.overlaps(found, y) == pytest.approx(state, rel=1e-14, abs=1e-15)
    velocity = np.empty_like(state)
    flow.module().rhs(0.0, state, velocity, flow.parameters(), np.zeros(flow.work_size()))
    # The map from overlaps to differences is affine: its linear part acts on rates.
    expected = (form.differences(found, state + velocity) - form.differences(found, state - velocity)) / 2
    # Orthant moments of kinked units that nearly coincide have rounding of their own, on either side.
    rounding = 1e-8 if "relu" in p.student.activation or "abs" in p.student.activation else 1e-12
    assert form.velocity(found, y, 6) == pytest.approx(expected, rel=1e-9, abs=rounding * abs(velocity).max())
    error = flow.generalization_error(state[None])[0]
    assert form.error(found, y, 6) == pytest.approx(error, rel=1e-11)


# Forty digits ---------------------------------------------------------------------------------------------------------


def mp_rates(K: int, Q: Any, R: Any, T: Any, v: list[Any], A: list[Any], eta: Any) -> tuple[Any, Any, Any]:
    """dQ, dR and e_g of an erf committee by the classical determinants of Saad and Solla, in mpmath."""
    M = len(A)
    n = K + M
    C = mp.matrix(n, n)
    for i, k in itertools.product(range(K), repeat=2):
        C[i, k] = Q[i, k]
    for i, m in itertools.product(range(K), range(M)):
        C[i, K + m] = C[K + m, i] = R[i, m]
    for m, l in itertools.product(range(M), repeat=2):
        C[K + m, K + l] = T[m, l]
    c = [*v, *(-x for x in A)]

    def i2(a: int, b: int) -> Any:
        return 2 / mp.pi * mp.asin(C[a, b] / mp.sqrt((1 + C[a, a]) * (1 + C[b, b])))

    def i3(a: int, b: int, k: int) -> Any:
        low = (1 + C[a, a]) * (1 + C[k, k]) - C[a, k] ** 2
        return 2 / mp.pi / mp.sqrt(low) * (C[b, k] * (1 + C[a, a]) - C[a, b] * C[a, k]) / (1 + C[a, a])

    def i4(a: int, b: int, k: int, l: int) -> Any:
        l4 = (1 + C[a, a]) * (1 + C[b, b]) - C[a, b] ** 2
        l0 = (
            l4 * C[k, l] - C[b, k] * C[b, l] * (1 + C[a, a]) - C[a, k] * C[a, l] * (1 + C[b, b])
            + C[a, b] * (C[a, k] * C[b, l] + C[a, l] * C[b, k])
        )  # fmt: skip

        def l1(k: int) -> Any:
            return (
                l4 * (1 + C[k, k]) - C[b, k] ** 2 * (1 + C[a, a]) - C[a, k] ** 2 * (1 + C[b, b])
                + 2 * C[a, b] * C[a, k] * C[b, k]
            )  # fmt: skip

        return 4 / mp.pi**2 / mp.sqrt(l4) * mp.asin(l0 / mp.sqrt(l1(k) * l1(l)))

    def drift(i: int, b: int) -> Any:
        return mp.fsum(c[a] * i3(i, b, a) for a in range(n))

    dR, dQ = mp.matrix(K, M), mp.matrix(K, K)
    for i, m in itertools.product(range(K), range(M)):
        dR[i, m] = -eta * v[i] * drift(i, K + m)
    for i, k in itertools.product(range(K), repeat=2):
        square = mp.fsum(c[a] * c[b] * i4(i, k, a, b) for a in range(n) for b in range(n))
        dQ[i, k] = -eta * (v[i] * drift(i, k) + v[k] * drift(k, i)) + eta**2 * v[i] * v[k] * square
    error = mp.fsum(c[a] * c[b] * i2(a, b) for a in range(n) for b in range(n)) / 2
    return dQ, dR, error


@pytest.mark.parametrize("distance", [1e-3, 1e-9, 1e-15])
def test_relative_accuracy_against_forty_digits(distance: float) -> None:
    """At distances whose squares the overlaps cannot hold, e_g and all rates keep 11 digits or more."""
    p, (P, S, T) = near_a_target(distance, 11, match=(0, 1), **{"algorithm.learning_rate": 0.7})
    flow = dl.derive(p)
    form = tail.Form.of(flow)
    assert form is not None
    match = tail.Match(np.array([0, 1]), np.ones(2), np.ones(2))
    y = np.concatenate([P[np.tril_indices(2)], S.ravel()])
    with mp.workdps(60):
        exact = [mp.matrix(x.tolist()) for x in (P, S, T)]
        R = exact[1] + exact[2]
        Q = exact[0] + exact[1] + exact[1].T + exact[2]
        dQ, dR, error = mp_rates(2, Q, R, exact[2], [mp.mpf(1)] * 2, [mp.mpf(1)] * 2, mp.mpf(0.7))
        dP = dQ - dR - dR.T
        expected = [float(dP[i, k]) for i in range(2) for k in range(i + 1)] + [float(x) for x in dR]
        error = float(error)
    nodes = form.nodes(match, y)
    assert nodes is not None
    # T is stored in the problem rounded to double, as the mp matrix is: the same numbers on both sides.
    flow.start.T[:] = T
    form.plain = flow.parameters()
    assert form.error(match, y, nodes) == pytest.approx(error, rel=2e-13)
    scale = abs(np.array(expected))
    assert (abs(form.velocity(match, y, nodes) - expected) <= 1e-11 * np.maximum(scale, 1e-3 * scale.max())).all()


def mp_relu(Q: Any, R: Any) -> tuple[Any, Any, Any]:
    """E[l+ z+], E[1(l>0, z>0) z^2] and e_g for Var l = Q, Cov = R, Var z = 1 (arc-cosine kernels), in mpmath."""
    angle = mp.acos(R / mp.sqrt(Q))
    pair = mp.sqrt(Q) / (2 * mp.pi) * (mp.sin(angle) + (mp.pi - angle) * mp.cos(angle))
    second = (mp.pi - angle + mp.sin(angle) * mp.cos(angle)) / (2 * mp.pi)
    return pair, second, (Q + 1 - 4 * pair) / 4


def mp_relu_curve(Q: Any, R: Any, eta: Any, times: list[int]) -> list[float]:
    """e_g of one ReLU unit on another by extrapolated midpoint steps of length 1 (Gragg), to 25 digits or more."""

    def rates(Q: Any, R: Any) -> tuple[Any, Any]:
        pair, second, _ = mp_relu(Q, R)
        drift, across = Q / 2 - pair, R / 2 - second
        return -2 * eta * drift + eta**2 * (Q / 2 - 2 * pair + second), -eta * across

    out = []
    for time in range(1, times[-1] + 1):
        table: list[list[Any]] = []
        for row in range(9):
            n = 2 * (row + 1)
            h = mp.mpf(1) / n
            old, slope = (Q, R), rates(Q, R)
            new = (Q + h * slope[0], R + h * slope[1])
            for _ in range(n - 1):
                slope = rates(*new)
                old, new = new, (old[0] + 2 * h * slope[0], old[1] + 2 * h * slope[1])
            slope = rates(*new)
            table.append([tuple((o + w + h * s) / 2 for o, w, s in zip(old, new, slope, strict=True))])
            for q in range(1, row + 1):
                factor = (mp.mpf(n) / (2 * (row - q + 1))) ** 2 - 1
                a, b = table[row][q - 1], table[row - 1][q - 1]
                table[row].append(tuple(x + (x - y) / factor for x, y in zip(a, b, strict=True)))
        Q, R = table[-1][-1]
        if time in times:
            out.append(float(mp_relu(Q, R)[2]))
    return out


def test_relu_unit_against_forty_digits() -> None:
    """Down to 2e-16, where overlaps in double precision hold no digit; also at 1e-8, where they hold five."""
    times = [20, 50, 100, 200]
    p = problem(
        student__width=1, student__activation="relu", target__activation="relu", target__readout=[1.0],
        initial__Q=[[0.51]], initial__M=[[0.025]], algorithm__learning_rate=0.2, grid__time=[float(t) for t in times],
    )  # fmt: skip
    with mp.workdps(40):
        exact = mp_relu_curve(mp.mpf(0.51), mp.mpf(0.025), mp.mpf(0.2), times)
    curve = dl.solve(p)
    assert exact[-1] < 1e-15
    assert curve["generalization_error"].values == pytest.approx(exact, rel=3e-9)
    assert curve.stats["differences_from"] < 50


# Whole curves ---------------------------------------------------------------------------------------------------------


def slope(curve: dl.LearningCurve) -> np.ndarray:
    e, t = curve["generalization_error"].values, curve["time"].values
    return np.asarray(np.diff(np.log(e)) / np.diff(t))


def test_e_g_decays_exponentially_for_as_long_as_asked() -> None:
    """Positive and decreasing to 1e-28, at twice the slowest rate of the distances, whatever the tolerance."""
    p = problem()
    curve = dl.solve(p)
    e = curve["generalization_error"].values
    assert (e > 0).all()
    assert (np.diff(e) < 0).all()
    assert e[-1] < 1e-25
    assert curve.stats["differences_from"] < 200.0
    rest = dl.equilibrium(p)
    rates = np.sort(-rest["eigenvalue_real"].values[0])
    assert slope(curve)[-1] == pytest.approx(-2 * rates[0], rel=2e-3)
    finer = dl.solve(p, rtol=1e-12, atol=1e-14)["generalization_error"].values
    assert e == pytest.approx(finer, rel=1e-8)


def test_it_continues_the_curve_in_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where overlaps still resolve e_g both ways agree; below, overlaps lose it."""
    p = problem(grid__time=[0.0, 100.0, 250.0, 350.0, 450.0, 3000.0])
    curve = dl.solve(p)
    # Whatever the tolerance and the grid, the differences begin early, and the end is the same.
    for other in (dl.solve(p, rtol=1e-12, atol=1e-14), dl.solve(problem(grid__time=[0.0, 3000.0]))):
        assert other.stats["differences_from"] < 200.0
        assert other["generalization_error"].values[-1] == pytest.approx(
            curve["generalization_error"].values[-1], rel=1e-6
        )
    monkeypatch.setattr(tail, "continued", lambda *_: None)
    plain = dl.solve(p, rtol=1e-13, atol=1e-15)
    new, old = (c["generalization_error"].values for c in (curve, plain))
    assert new[:5] == pytest.approx(old[:5], rel=1e-6, abs=1e-13)
    assert 0 < new[-1] < 1e-40
    for name in ("Q", "M", "a"):
        assert curve[name].values == pytest.approx(plain[name].values, abs=1e-9)


def test_on_the_sphere_and_with_both_layers() -> None:
    sphere = problem(
        algorithm__spherical=True, initial__Q=[[1.0, 0.0], [0.0, 1.0]], initial__M=[[0.3, 0.1], [0.05, 0.4]],
        grid__time=[0.0, 500.0, 1000.0, 2000.0],
    )  # fmt: skip
    e = dl.solve(sphere)["generalization_error"].values
    assert 0 < e[3] < 1e-35
    both = problem(student__train_readout=True, grid__time=[0.0, 500.0, 2000.0, 4000.0, 5000.0])
    e = dl.solve(both)["generalization_error"].values
    assert 0 < e[4] < e[3] < 1e-16
    assert np.log(e[4] / e[3]) / 1000 == pytest.approx(np.log(e[3] / e[2]) / 2000, rel=2e-2)


def test_sums_of_erfs_come_to_their_target_too() -> None:
    """Four erfs for tanh on both sides: exponential to the end."""
    tanh = {"student.activation": "tanh", "target.activation": "tanh", "solver.quadrature_rtol": 1e-4}
    one = {"student.width": 1, "target.readout": [1.0], "initial.Q": [[0.5]], "initial.M": [[0.2]]}
    p = dl.replace(problem(), {**tanh, **one, "grid.time": [0.0, 200.0, 300.0, 400.0]})
    curve = dl.solve(p)
    e = curve["generalization_error"].values
    assert 0 < e[3] < 1e-20
    assert np.log(e[2] / e[1]) == pytest.approx(np.log(e[3] / e[2]), rel=2e-3)


def test_a_batch_answers_as_one_by_one() -> None:
    problems = [problem(), problem(algorithm__learning_rate=0.3), problem(target__noise=0.1)]
    for one, many in zip((dl.solve(p) for p in problems), solve_many(problems), strict=True):
        assert isinstance(many, dl.LearningCurve)
        assert np.array_equal(one["generalization_error"].values, many["generalization_error"].values)


@pytest.mark.parametrize(
    "changes", [{"target.noise": 0.1}, {"target.readout": [1.0, 0.7]}, {"algorithm.weight_decay": 0.01}]
)
def test_curves_that_end_above_zero_are_left_alone(changes: dict[str, Any]) -> None:
    curve = dl.solve(dl.replace(problem(), changes))
    assert "differences_from" not in curve.stats
    assert curve["generalization_error"].values[-1] > 1e-6


def test_kinked_students_keep_their_digits_where_rounding_is_the_tolerance() -> None:
    """At distances of 1e-7 the moments of a sphere's ReLU units round to 1e-7: e_g stays positive and falls on."""
    overlap = [[1.0, 0.3], [0.3, 1.0]]
    p = problem(
        target__activation="relu",
        target__overlap=overlap,
        student__activation="relu",
        student__train_readout=False,
        student__width=2,
        algorithm__spherical=True,
        algorithm__learning_rate=0.3,
        initial__Q=[[1.0, 0.3], [0.3, 1.0]],
        initial__M=[[0.8, 0.2], [0.2, 0.8]],
        grid__time=np.linspace(0.0, 800.0, 21).tolist(),
    )
    curve, finer = dl.solve(p), dl.solve(p, rtol=1e-9)
    e = curve["generalization_error"].values
    assert (np.diff(e) < 0).all()
    assert 0 < e[-1] < 1e-17
    assert e == pytest.approx(finer["generalization_error"].values, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "continued in the overlaps of w_i - w"),
        ({"target.noise": 0.1}, "no difference form: label noise"),
        ({"algorithm.weight_decay": 0.1}, "no difference form: weight decay"),
        ({"student.activation": "tanh(x)*x"}, "no difference form: its averages have no closed form"),
        (
            {"algorithm.uses": 2, "target.readout": [1.0], "student.width": 1, "initial": {"Q": [[0.5]], "M": [[0.2]]}},
            "no difference form: it is derived for gradients",
        ),
        (
            {"data": {"kind": "gaussian", "spectrum": {"variances": [0.5, 1.5], "fractions": [0.5, 0.5]}}},
            "no difference form: it is derived",
        ),
    ],
)
def test_explain_says_where_the_form_is_absent(changes: dict[str, Any], said: str) -> None:
    system = dl.derive(problem(**{key.replace(".", "__"): value for key, value in changes.items()}))
    assert said in " ".join(system.explain().split())
