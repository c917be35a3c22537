"""Averages over the samples of one source by quadrature: any loss, activation, target and update rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import scipy.special
import sympy as sp

import dimladder as dl
from dimladder.numerics.points import POINTS_SOURCE
from dimladder.problem import Expression
from dimladder.symbolic.factors import X
from dimladder.symbolic.printing import HEADER
from dimladder.theories.one_pass.notation import Setting
from dimladder.theories.one_pass.quadrature_rules import sign_rule, source_levels
from dimladder.theories.one_pass.source_averages import SourceAverages
from dimladder.theories.one_pass.source_code import source_functions
from generated import interpreted

Array = np.ndarray
ERF, RELU = sp.erf(X / sp.sqrt(2)), sp.Max(X, 0)
NUMBERS: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    ERF: (lambda x: scipy.special.erf(x / math.sqrt(2)), lambda x: math.sqrt(2 / math.pi) * np.exp(-(x**2) / 2)),
    RELU: (lambda x: np.maximum(x, 0.0), lambda x: 1.0 * (x > 0)),
    sp.tanh(X): (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
}
SLOPES: dict[str, tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Array]]] = {
    "square": (lambda f, y: (f - y) ** 2 / 2, lambda f, y: f - y),
    "logistic": (lambda f, y: np.logaddexp(0, -y * f), lambda f, y: -y * scipy.special.expit(-y * f)),
    "hinge": (lambda f, y: np.maximum(1 - y * f, 0), lambda f, y: -y * (y * f < 1)),
    "softplus(f) - (0.45*(1 + y) + 0.05)*f": (
        lambda f, y: np.logaddexp(0, f) - (0.45 * (1 + y) + 0.05) * f,
        lambda f, y: scipy.special.expit(f) - (0.45 * (1 + y) + 0.05),
    ),
}
NAMES = ("G", "D", "N", "R", "e", "wrong", "loss")


@dataclass
class Source:
    """The numbers of one source: fields of all species, then of the teachers."""

    K: int
    M: int
    mean: Array
    C: Array
    c: Array
    y0: float
    sigma: float


def drawn(K: int, M: int, *, fields: int = 0, y0: float = 0.4, sigma: float = 0.0, seed: int = 1) -> Source:
    random, n = np.random.default_rng(seed), (fields or K) + M
    W = random.normal(size=(n, n + 2)) / math.sqrt(n + 2)
    return Source(K, M, 0.6 * random.normal(size=n), W @ W.T, 1.4 * random.normal(size=K + M), y0, sigma)


def interpreted_source(averages: SourceAverages) -> dict[str, Any]:
    return interpreted(HEADER.format(title="averages") + "\n\n" + "\n".join(source_functions(averages)) + "\n")


def built(setting: Setting) -> tuple[SourceAverages, dict[str, Any]]:
    averages = SourceAverages(setting, centred=False, signs=True)
    return averages, interpreted_source(averages)


def by_quadrature(setting: Setting) -> tuple[SourceAverages, dict[str, Any]]:
    averages = SourceAverages(setting, centred=False, signs=True)
    averages.__dict__["route"] = "fields"
    return averages, interpreted_source(averages)


def computed(
    printed: tuple[SourceAverages, dict[str, Any]], s: Source, level: int, family: int = 0, *more: float
) -> dict[str, Any]:
    averages, functions = printed
    V, N = len(averages.species) * s.K, len(s.C)
    rule = source_levels(N, s.sigma > 0, averages.linear_in_noise)[family][level]
    G, H, square, R, out = np.full(V, np.nan), np.full((V, N), np.nan), np.zeros((V, V)), np.zeros(s.K), np.zeros(3)
    given = (
        s.K,
        s.M,
        s.mean,
        s.C,
        s.c,
        s.y0,
        s.sigma,
        rule,
        np.full(functions["averages_work_size"](s.K, s.M), np.nan),
    )
    functions["averages"](*given, G, H, square, R, *more)
    functions["errors"](*given, out)
    return dict(zip(NAMES, (G, H @ s.C, square, R, *out), strict=True)) | {"H": H}


def moments(s: Source, setting: Setting, f: Array, noise: Array, weights: Array, moved: Any = None) -> dict[str, Any]:
    """Return the averages over points of the fields."""
    g, dg = NUMBERS[setting.student]
    loss, slope = SLOPES[setting.loss]
    teachers = f[:, f.shape[1] - s.M :]
    if setting.target is not None:
        star = -s.c[s.K] * sp.lambdify(list(setting.fields), setting.target)(*teachers.T)
    elif s.M:
        star = -sp.lambdify(X, setting.teacher, ["scipy", "numpy"])(teachers) @ s.c[s.K :]
    else:
        star = np.zeros(len(f))
    label = s.y0 + star
    value = g(f[:, : s.K])
    output, y = value @ s.c[: s.K], label + s.sigma * noise
    error = slope(output, y)
    b = dg(f[:, : s.K]) * error[:, None] if moved is None else moved(f, output, y, error)
    by = weights[:, None] * b
    averages = (by.sum(0), by.T @ (f - s.mean), by.T @ b, (weights * error) @ value)
    errors = (weights @ (output - label) ** 2 / 2, weights @ (output * label < 0), weights @ loss(output, y))
    return dict(zip(NAMES, (*averages, *errors), strict=True))


def assert_monte_carlo(found: dict[str, Any], s: Source, setting: Setting, moved: Any = None, skip: str = "") -> None:
    """Within 4.5 standard errors of 60 batches."""
    random = np.random.default_rng(10)
    values, vectors = np.linalg.eigh(s.C)
    root = vectors * np.sqrt(np.maximum(values, 0))
    batches = []
    for _ in range(60):
        f = random.normal(size=(10000, len(s.C))) @ root.T + s.mean
        batches.append(moments(s, setting, f, random.normal(size=len(f)), np.full(len(f), 1 / len(f)), moved))
    for name in NAMES:
        if name == skip:
            continue
        drawn_values = np.array([b[name] for b in batches])
        spread = drawn_values.std(0, ddof=1) / math.sqrt(len(batches))
        assert (np.abs(drawn_values.mean(0) - found[name]) <= 4.5 * spread + 1e-12).all(), name


def test_quadrature_is_the_closed_form() -> None:
    setting, source = Setting(ERF, ERF), drawn(1, 1, sigma=0.3)
    closed = built(setting)
    assert closed[0].route == "closed"
    exact = computed(closed, source, 0)
    found = computed(by_quadrature(setting), source, 5)
    for name in ("G", "D", "H", "N", "R", "e"):
        assert np.abs(found[name] - exact[name]).max() < 1e-13, name
    # Points instead of nested rules: four digits.
    points = computed(by_quadrature(setting), source, 0, 1)
    for name in ("G", "D", "N", "R", "e"):
        assert np.abs(points[name] - exact[name]).max() < 2e-3, name


@pytest.mark.parametrize("loss", ["logistic", "softplus(f) - (0.45*(1 + y) + 0.05)*f"])
def test_smooth_losses_are_tensor_quadrature(loss: str) -> None:
    """Two units on labels of a cluster; cross-entropy with smoothed labels as a formula."""
    setting = Setting(ERF, ERF, loss=loss)
    source = drawn(2, 0, y0=-1.0)
    x = np.arange(-8, 8.001, 0.1)
    points = np.array(list(itertools.product(x, x)))
    weights = np.exp(-(points**2).sum(1) / 2) * 0.01 / (2 * math.pi)
    f = points @ np.linalg.cholesky(source.C).T + source.mean
    expected = moments(source, setting, f, np.zeros(len(f)), weights)
    found = computed(built(setting), source, 4)
    for name in NAMES:
        if name != "wrong":
            assert np.abs(found[name] - expected[name]).max() < 1e-12, name
    assert found["wrong"] == pytest.approx(expected["wrong"], abs=5e-3)


KINKED = {
    "hinge on clusters": (Setting(ERF, ERF, loss="hinge"), drawn(2, 0, y0=1.0), 1e-6),
    "hinge with noise": (Setting(ERF, ERF, loss="hinge"), drawn(1, 0, y0=0.8, sigma=0.4, seed=3), 1e-5),
    "hinge, relu, sign labels": (
        Setting(RELU, sp.sign(X), loss="hinge", student_kinks=(0.0,), teacher_kinks=(0.0,)),
        replace(drawn(1, 1, y0=0.0, seed=4), c=np.array([1.2, -1.0])), 1e-6,
    ),
    "hinge, two relus": (
        Setting(RELU, RELU, loss="hinge", student_kinks=(0.0,), teacher_kinks=(0.0,)),
        replace(drawn(2, 0, y0=1.0, seed=5), c=np.array([1.5, 1.1])), 1e-6,
    ),
    "relu with means": (
        Setting(RELU, RELU, student_kinks=(0.0,), teacher_kinks=(0.0,)), drawn(1, 1, sigma=0.3, seed=6), 1e-8,
    ),
    "oblique kinks of the target": (
        Setting(
            sp.tanh(X), None, sp.Abs(sp.Symbol("z1", real=True) + sp.Symbol("z2", real=True)), 2,
            target_axes=((math.sqrt(0.5), math.sqrt(0.5)), (math.sqrt(0.5), -math.sqrt(0.5))),
            target_kinks=((0.0,), ()),
        ),
        drawn(1, 2, y0=0.3, seed=7), 1e-4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINKED)
def test_kinks_are_split(name: str) -> None:
    """Monte Carlo for the value, the next finer rule for the digits."""
    setting, source, tolerance = KINKED[name]
    functions, level = by_quadrature(setting), 0 if len(source.C) > 2 else 2
    found, finer = computed(functions, source, level), computed(functions, source, level + 1)
    for quantity in ("G", "D", "N", "R", "e", "loss"):
        assert np.abs(found[quantity] - finer[quantity]).max() < tolerance, quantity
    # The sign of a label that is not one has no kink to split at.
    assert_monte_carlo(found, source, setting, skip="wrong" if source.M == 2 else "")


@pytest.mark.parametrize("loss", ["logistic", "square"])
def test_the_share_of_wrong_signs(loss: str) -> None:
    """Where averages are closed, too. One unit on a cluster: the chance that its field lies on the other side."""
    source, functions = replace(drawn(1, 0, y0=-1.0), c=np.array([0.7])), built(Setting(ERF, ERF, loss=loss))
    found = computed(functions, source, 3)
    chance = scipy.special.ndtr(source.mean[0] / math.sqrt(source.C[0, 0]))
    assert found["wrong"] == pytest.approx(chance, abs=1e-14)
    # Two units, one the negative of the other: f = (c_1 - c_2) g.
    P = np.array([[1.0], [-1.0]])
    twice = replace(source, K=2, mean=P @ source.mean, C=P @ source.C @ P.T, c=np.array([0.9, 0.4]))
    assert computed(functions, twice, 1)["wrong"] == pytest.approx(chance, abs=1e-14)
    # Three units: nested rules, and points.
    three = drawn(3, 0, y0=1.0, seed=12)
    nested = computed(functions, three, 2)["wrong"]
    if loss == "square":
        assert_monte_carlo(computed(functions, three, 2), three, Setting(ERF, ERF), skip="loss")
        assert computed(functions, three, 1, 1)["wrong"] == pytest.approx(nested, abs=1e-3)
    assert computed(functions, three, 3)["wrong"] == pytest.approx(nested, abs=1e-6)


def test_teachers_in_another_order() -> None:
    """The axes of the kinks of a target are its fields, the second first."""
    z1, z2 = sp.symbols("z1 z2", real=True)
    swapped = {"target_axes": ((0.0, 1.0), (1.0, 0.0)), "target_kinks": ((0.0,), ())}
    own = {"target_axes": ((1.0, 0.0), (0.0, 1.0)), "target_kinks": ((), (0.0,))}
    source = drawn(1, 2, seed=13)
    one, two = (
        computed(by_quadrature(Setting(ERF, None, sp.Abs(z2) + z1, 2, **axes)), source, 0) for axes in (swapped, own)
    )
    for name in ("G", "H", "N", "R", "e"):
        assert np.abs(one[name] - two[name]).max() < 1e-6, name


def update(*rows: str | None) -> tuple[SourceAverages, dict[str, Any]]:
    species = ("w", "lambda")[: len(rows)]
    names = ("a", "error", "f", "y", "learning_rate", *(f"{p}_{s}" for s in species for p in ("lambda", "g", "dg")))
    formulas = tuple(None if row is None else Expression(row, names) for row in rows)
    averages = SourceAverages(Setting(ERF, ERF), False, species, formulas)
    return averages, interpreted_source(averages)


def test_the_gradient_written_out() -> None:
    source, rate = drawn(1, 1, sigma=0.2), 0.7
    gradient, text = by_quadrature(Setting(ERF, ERF)), update("-learning_rate*a*dg_w*error")
    assert text[0].linear_in_noise
    plain, written, factor = computed(gradient, source, 4), computed(text, source, 4, 0, rate), -rate * source.c[0]
    for name, power in (("G", 1), ("H", 1), ("N", 2), ("R", 0), ("e", 0)):
        assert np.abs(written[name] - factor**power * plain[name]).max() < 1e-13, name


@pytest.mark.parametrize("copied", [False, True], ids=["free", "a copy"])
def test_update_rules_with_kinks(copied: bool) -> None:
    """Two vectors a unit, one of them moved by signs; the second may start as a copy of the first."""
    functions = update("-learning_rate*a*dg_lambda*error", "0.3*sign(lambda_w)*y*step(lambda_lambda - 0.2)")
    source = replace(drawn(1, 1, fields=2, y0=0.4, seed=8), sigma=0.3)
    if copied:
        P = np.array([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]])
        source = replace(source, mean=P @ source.mean, C=P @ source.C @ P.T)
    dg = NUMBERS[ERF][1]

    def moved(f: Array, output: Array, y: Array, error: Array) -> Array:
        return np.stack([-0.7 * source.c[0] * dg(f[:, 1]) * error, 0.3 * np.sign(f[:, 0]) * y * (f[:, 1] > 0.2)], 1)

    found = computed(functions, source, 0, 0, 0.7)
    assert_monte_carlo(found, source, Setting(ERF, ERF), moved, skip="wrong")


def test_centred_sources_read_no_means() -> None:
    source = replace(drawn(1, 1, y0=0.0, seed=14), mean=np.zeros(2))
    averages = SourceAverages(Setting(ERF, ERF, loss="logistic"), centred=True, signs=True)
    centred = computed((averages, interpreted_source(averages)), replace(source, mean=np.full(2, np.nan)), 1)
    general = computed(built(Setting(ERF, ERF, loss="logistic")), source, 1)
    for name in ("H", "N", "R", "e", "wrong", "loss"):
        assert np.array_equal(centred[name], general[name]), name


def test_kinked_losses_of_plain_problems() -> None:
    """The flow of a unit that learns a sign by the hinge loss starts as the integrals over both fields say."""
    text = """
    schema = 2
    target = { kind = "index", formula = "sign(z)" }
    loss = { function = "hinge" }
    student = { kind = "two-layer", width = 1, activation = "erf", readout = [1.3] }
    algorithm = { kind = "one-pass", learning_rate = 0.5 }
    initial = { Q = [[0.8]], M = [[0.3]] }
    grid = { time = [0.0, 0.5] }
    """
    flow = dl.derive(dl.loads(text))
    velocity = flow.velocity(flow.initial_state(), flow.rule)
    x, g, dg = np.arange(-9, 9, 0.01) + 0.005, *NUMBERS[ERF]
    # Given z, lambda = 0.3 z + s x; by symmetry z > 0 twice, y = 1.
    z = np.arange(0.01, 9, 0.02)
    field = 0.3 * z[:, None] + math.sqrt(0.8 - 0.09) * x
    weight = 2 * np.exp(-(z[:, None] ** 2 + x**2) / 2) * 0.02 * 0.01 / (2 * math.pi)
    moved = 0.5 * 1.3 * dg(field) * (1.3 * g(field) < 1)
    drifts = [2 * (weight * moved * field).sum() + (weight * moved**2).sum(), (weight * moved * z[:, None]).sum()]
    assert velocity == pytest.approx(drifts, abs=2e-4)


@pytest.mark.parametrize("general", [False, True])
def test_a_rule_too_coarse_for_a_later_state_is_refined(general: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Weights grow from 0.05 to 8, and what they average becomes sharp."""
    problem = dl.problem(
        "one-pass", target={"kind": "index", "formula": "sign(z)"},
        student={"kind": "two-layer", "width": 1, "activation": "silu", "train_readout": True, "bias": general},
        loss={"function": "logistic"}, algorithm={"kind": "one-pass", "learning_rate": 1.0},
        initial={"Q": [[0.05]], "M": [[0.05]], "a": [1.0]}, grid={"time": [0.0, 5.0, 60.0]},
    )  # fmt: skip
    curve = dl.solve(problem)
    assert curve.stats["quadrature_error"] < 1e-7
    assert not caplog.records
    exact = dl.solve(problem, quadrature_rtol=1e-10)
    assert abs(curve["generalization_error"] / exact["generalization_error"] - 1).max() < 1e-6
    flow = dl.derive(problem)
    start = flow.rule.copy()
    flow.solve()
    assert not np.array_equal(flow.rule, start)


def test_wrong_signs_of_units_that_turn() -> None:
    """The chance along one field has the root of a distance where the other unit is at its extremum."""
    a, b = np.array([0.49, 0.436]), np.array([-0.326, -0.491])
    Q, R = np.array([[0.919, 0.05], [0.05, 0.764]]), np.array([[0.166, 0.092], [0.119, -0.126]])
    problem = dl.problem(
        data={"kind": "mixture", "weights": [0.5, 0.5], "means": [[0.9, 1.3], [0.1, -0.9]], "variances": [1.4, 0.9]},
        target={"kind": "cluster-labels", "labels": [-1.0, 1.0]},
        student={"kind": "two-layer", "width": 2, "activation": "x + 0.3*He2(x)", "bias": True, "train_readout": True},
        algorithm={"kind": "one-pass", "learning_rate": 0.2},
        initial={"Q": Q.tolist(), "means": R.tolist(), "a": a.tolist(), "bias": b.tolist()},
        grid={"time": [0.0, 0.1]},
    )  # fmt: skip
    wrong = 0.0
    for mean, variance, label in zip(np.array([[0.9, 1.3], [0.1, -0.9]]), (1.4, 0.9), (-1.0, 1.0), strict=True):
        C, mu = variance * Q, R @ mean + b
        u = np.linspace(-8.0, 8.0, 400_001)
        x = mu[0] + math.sqrt(C[0, 0]) * u
        centre, spread = mu[1] + C[1, 0] / C[0, 0] * (x - mu[0]), math.sqrt(C[1, 1] - C[1, 0] ** 2 / C[0, 0])
        # a_1 (0.3 v^2 + v - 0.3) + a_0 g(x) is positive outside the roots v.
        bare = 1.0 + 4 * 0.3 * (0.3 - a[0] * (x + 0.3 * (x * x - 1.0)) / a[1])
        root = np.sqrt(np.maximum(bare, 0.0))
        upper, lower = (((sign * root - 1.0) / 0.6 - centre) / spread for sign in (1, -1))
        inside = scipy.special.ndtr(upper) - scipy.special.ndtr(lower)
        density = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
        positive = 1.0 - float(np.sum(density * inside) * (u[1] - u[0]))
        wrong += 0.5 * (positive if label < 0 else 1.0 - positive)
    assert float(dl.solve(problem)["classification_error"][0]) == pytest.approx(wrong, abs=3e-7)


@pytest.mark.parametrize("dimension", [2, 3, 4, 6])
def test_the_rule_of_signs_follows_what_is_asked(dimension: int) -> None:
    """A check with boosted settings sees an error of the rule only if the rule changes."""
    assert sign_rule(dimension, 1e-7).size < sign_rule(dimension, 1e-9).size


@pytest.mark.parametrize("width", [2.0, 0.1, 1e-5])
def test_two_solutions_between_neighbouring_points_are_found(width: float) -> None:
    """(u - 0.3)^2 = width^2, where a step of the search is 0.375."""
    functions = interpreted(HEADER.format(title="points") + "\n\n" + POINTS_SOURCE)
    functions["g"] = lambda x: x * x
    kinks = np.zeros(8)
    ties = np.array([[1.0, -0.3, 1.0]])
    assert functions["add_levels"](-width * width, ties, 1, 0.0, -12.0, 12.0, False, kinks, 0) == 2
    assert kinks[:2] == pytest.approx([0.3 - width, 0.3 + width], abs=1e-12)
