"""Kinked units on inputs with means: moments of signs with thresholds, and the averages of one source made of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.special
import sympy as sp

import dimladder as dl
from dimladder.errors import DimladderError
from dimladder.numerics import orthant, thresholds
from dimladder.symbolic.factors import X
from dimladder.symbolic.nodes import ShiftedSignMoment4, SignMoment3
from dimladder.symbolic.printing import HEADER
from dimladder.theories.one_pass.notation import Setting
from dimladder.theories.one_pass.quadrature_rules import source_levels
from dimladder.theories.one_pass.source_averages import SourceAverages
from dimladder.theories.one_pass.source_code import source_functions
from generated import interpreted

ERF, RELU, LEAKY = sp.erf(X / sp.sqrt(2)), sp.Max(X, 0), sp.Max(X, X / 10)
Z1 = sp.Symbol("z1", real=True)
NUMBERS: dict[Any, Any] = {
    ERF: (lambda x: scipy.special.erf(x / math.sqrt(2)), lambda x: math.sqrt(2 / math.pi) * np.exp(-(x**2) / 2)),
    RELU: (lambda x: np.maximum(x, 0.0), lambda x: 1.0 * (x > 0)),
    LEAKY: (lambda x: np.maximum(x, x / 10), lambda x: np.where(x > 0, 1.0, 0.1)),
}

sign_moment2, sign_moment3 = thresholds.sign_moment2.of_numbers, thresholds.sign_moment3.of_numbers
sign_moment4, shifted_sign_moment4 = orthant.sign_moment4.of_numbers, thresholds.shifted_sign_moment4.of_numbers


def built(setting: Setting, route: str = "closed", centred: bool = False) -> dict[str, Any]:
    averages = SourceAverages(setting, centred)
    assert averages.route == "closed"
    averages.__dict__["route"] = route
    return interpreted(HEADER.format(title="averages") + "\n\n" + "\n".join(source_functions(averages)) + "\n")


def drawn(K: int, M: int, seed: int) -> dict[str, Any]:
    """The numbers of one source: means, covariance, weights, label and noise."""
    random = np.random.default_rng(seed)
    W = random.normal(size=(K + M, K + M + 1)) / math.sqrt(K + M + 1)
    return {
        "K": K, "M": M, "mean": 0.8 * random.normal(size=K + M), "C": W @ W.T, "c": random.normal(size=K + M),
        "y0": -0.6, "sigma": 0.3,
    }  # fmt: skip


def computed(functions: dict[str, Any], s: dict[str, Any], rule: Any = None) -> dict[str, Any]:
    """Return G, E[g'_i Delta (f_p - mu_p)], N, R and e."""
    K, N = s["K"], s["K"] + s["M"]
    G, H, square, R, out = np.full(K, np.nan), np.full((K, N), np.nan), np.zeros((K, K)), np.zeros(K), np.zeros(3)
    work = np.full(functions["averages_work_size"](K, s["M"]), np.nan)
    given = (*s.values(), np.zeros(0) if rule is None else rule, work)
    functions["averages"](*given, G, H, square, R)
    functions["errors"](*given, out)
    return {"G": G, "D": H @ s["C"], "N": square, "R": R, "e": out[0]}


def assert_monte_carlo(found: dict[str, Any], s: dict[str, Any], setting: Setting, root: Any, seed: int) -> None:
    """Every average within 4.5 standard errors over batches of fields."""
    g, dg = NUMBERS[setting.student]
    random, K, batches = np.random.default_rng(seed), s["K"], []
    for _ in range(40):
        f = random.normal(size=(20000, root.shape[1])) @ root.T + s["mean"]
        if setting.target is not None:
            star = -s["c"][K] * sp.lambdify(list(setting.fields), setting.target)(*f[:, K:].T)
        else:
            star = -NUMBERS[setting.teacher][0](f[:, K:]) @ s["c"][K:]
        error = g(f[:, :K]) @ s["c"][:K] - star - s["y0"]
        slope = dg(f[:, :K])
        batches.append({
            "G": error @ slope, "D": (slope * error[:, None]).T @ (f - s["mean"]),
            "N": (slope * (error**2 + s["sigma"] ** 2)[:, None]).T @ slope, "R": error @ g(f[:, :K]),
            "e": error @ error / 2,
        })  # fmt: skip
    for name in found:
        values = np.array([b[name] for b in batches]) / 20000
        spread = values.std(0, ddof=1) / math.sqrt(len(batches))
        assert (np.abs(values.mean(0) - found[name]) <= 4.5 * spread + 1e-14).all(), name


@pytest.mark.parametrize(
    ("setting", "K", "M"),
    [
        (Setting(RELU, RELU), 2, 2), (Setting(LEAKY, RELU), 3, 0), (Setting(ERF, RELU), 2, 1),
        (Setting(RELU, ERF), 1, 2), (Setting(RELU, None, sp.sign(Z1) + Z1, 1), 2, 1),
        (Setting(ERF, None, sp.Abs(Z1) - Z1 / 3, 1), 2, 1),
    ],
    ids=["relu", "leaky relu, labels alone", "relu teacher", "erf teacher", "sign labels", "kinked labels"],
)  # fmt: skip
def test_closed_forms_are_monte_carlo(setting: Setting, K: int, M: int) -> None:
    source = drawn(K, M, 9)
    found = computed(built(setting), source)
    assert_monte_carlo(found, source, setting, np.linalg.cholesky(source["C"]), seed=10)


@pytest.mark.parametrize(("K", "M"), [(1, 1), (2, 0)])
def test_closed_forms_are_quadrature(K: int, M: int) -> None:
    """Nested rules that are split at the kinks: another code, by regression in the place of Stein."""
    setting = Setting(RELU, RELU, student_kinks=(0.0,), teacher_kinks=(0.0,))
    source = drawn(K, M, 11)
    closed = computed(built(setting), source)
    nested = computed(built(setting, "fields"), source, source_levels(K + M, True, True)[0][4])
    for name, value in closed.items():
        assert np.abs(nested[name] - value).max() < 1e-11, name


@pytest.mark.parametrize("setting", [Setting(RELU, RELU), Setting(ERF, RELU), Setting(RELU, ERF)])
def test_means_that_vanish_are_none(setting: Setting) -> None:
    source = drawn(2, 2, 12) | {"mean": np.zeros(4), "y0": 0.0}
    with_means, centred = computed(built(setting), source), computed(built(setting, centred=True), source)
    for name in ("D", "N", "R", "e"):
        assert np.abs(with_means[name] - centred[name]).max() < 1e-13, name


@pytest.mark.parametrize("side", [1.0, -1.0], ids=["copy", "opposite"])
def test_two_fields_may_be_one(side: float) -> None:
    """A unit and its copy, up to sign: the covariance has no inverse, the averages are those nearby."""
    one, setting = drawn(1, 1, 13), Setting(RELU, RELU)
    functions = built(setting)
    P, c = np.array([[1.0, 0.0], [side, 0.0], [0.0, 1.0]]), np.array([0.7, -0.4, -1.1])
    source = one | {"K": 2, "mean": P @ one["mean"], "C": P @ one["C"] @ P.T, "c": c}
    found = computed(functions, source)
    assert_monte_carlo(found, source, setting, P @ np.linalg.cholesky(one["C"]), seed=14)
    near = computed(functions, source | {"C": source["C"] + 1e-10 * np.diag([0.0, 1.0, 0.0])})
    for name, value in found.items():
        assert np.abs(near[name] - value).max() < 1e-4, name


def test_three_kinked_fields_that_are_one_are_refused() -> None:
    """Their averages have no single limit; two of them are solved."""
    problem = """
    schema = 2
    target = { kind = "committee", readout = [1.0], activation = "relu" }
    student = { kind = "two-layer", width = 3, activation = "relu", readout = [1.0, 0.6, -0.5] }
    algorithm = { kind = "one-pass", learning_rate = 0.2 }
    grid = { time = [0.0, 1.0] }
    """
    copies = {"initial": {"kind": "explicit", "Q": [[0.5, 0.5, 0.2], [0.5, 0.5, 0.2], [0.2, 0.2, 0.5]]}}
    copies["initial"]["M"] = [[0.1], [0.1], [0.0]]
    near = {"initial": copies["initial"] | {"Q": [[0.5, 0.5, 0.2], [0.5, 0.5 + 1e-10, 0.2], [0.2, 0.2, 0.5]]}}
    for data in ({}, {"data": {"kind": "gaussian", "spectrum": {"variances": [0.5, 1.5], "fractions": [0.5, 0.5]}}}):
        one, two = (dl.solve(dl.loads(problem, data | start)) for start in (copies, near))
        np.testing.assert_allclose(one["Q"].values, two["Q"].values, atol=1e-4, rtol=0)
        copies["initial"] |= {"Q": [[0.5, 0.5, -1.0], [0.5, 0.5, -1.0], [-1.0, -1.0, 2.0]], "M": [[0.1], [0.1], [-0.2]]}
        with pytest.raises(DimladderError, match="three kinked fields are one"):
            dl.solve(dl.loads(problem, data | copies))
        copies["initial"] |= {"Q": [[0.5, 0.5, 0.2], [0.5, 0.5, 0.2], [0.2, 0.2, 0.5]], "M": [[0.1], [0.1], [0.0]]}


# Moments of three and four signs -----------------------------------------------------------------------------------


def factor_model(h: Any, loads: Any) -> float:
    """E[prod sign(u_a + h_a)] for correlations l_a l_b, 20 digits: given the common factor, signs are independent."""
    with mpmath.workdps(20):
        rows = [(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in zip(h, loads, strict=True)]

        def given(z: Any) -> Any:
            terms = [mpmath.erf((a + b * z) / mpmath.sqrt(2 * (1 - b**2))) for a, b in rows]
            return mpmath.npdf(z) * mpmath.fprod(terms)

        turns = sorted({mpmath.mpf(q) for q in range(-12, 13, 2)} | {max(-12, min(12, -a / b)) for a, b in rows})
        return float(mpmath.quad(given, turns))


@pytest.mark.parametrize("loads", [(0.6, -0.3, 0.8, 0.4), (0.95, 0.9, -0.97, 0.2), (-0.1, 0.7, 0.05, -0.6)])
def test_signs_of_one_factor_against_20_digits(loads: tuple[float, ...]) -> None:
    R = np.outer(loads, loads)
    four, three = R[np.triu_indices(4, 1)], R[:3, :3][np.triu_indices(3, 1)]
    for h in ((0.3, -0.8, 1.1, 0.2), (-2.1, 0.4, 0.0, -0.6), (1.5, 1.5, -1.5, 3.0)):
        assert sign_moment3(*h[:3], *three) == pytest.approx(factor_model(h[:3], loads[:3]), abs=1e-14)
        assert shifted_sign_moment4(*h, *four) == pytest.approx(factor_model(h, loads), abs=1e-14)


def correlations(size: int, rank: int, noise: float, random: Any) -> Any:
    W = np.hstack([random.normal(size=(size, rank)), noise * random.normal(size=(size, size))])
    C = W @ W.T
    return C / np.sqrt(np.outer(np.diag(C), np.diag(C)))


@pytest.mark.parametrize(("rank", "noise", "accuracy"), [(3, 1.0, 1e-14), (2, 1e-4, 1e-12), (1, 1e-2, 1e-11)])
def test_three_signs_by_averaging_over_one(rank: int, noise: float, accuracy: float) -> None:
    """Given the first field, the two others are a pair; panels crowd where its sign, or theirs, turns."""
    random = np.random.default_rng(15)
    x, w = np.polynomial.legendre.leggauss(20)
    for _ in range(4):
        R, h = correlations(3, rank, noise, random), random.normal(size=3)
        s, t = np.sqrt(1 - R[0, 1:] ** 2)
        rho = (R[1, 2] - R[0, 1] * R[0, 2]) / (s * t)
        side = math.copysign(1.0, rho)
        tie = -(h[1] / s - side * h[2] / t) / (R[0, 1] / s - side * R[0, 2] / t)
        steps = np.geomspace(1e-6, 18, 40)
        at = [-h[0], -h[1] / R[0, 1], -h[2] / R[0, 2], tie]
        edges = np.unique(np.clip([q + v for q in at for v in (*-steps, 0.0, *steps)], -9, 9))
        total = 0.0
        for a, b in itertools.pairwise(edges):
            for u, weight in zip((a + b) / 2 + (b - a) / 2 * x, (b - a) / 2 * w, strict=True):
                pair = sign_moment2((h[1] + R[0, 1] * u) / s, (h[2] + R[0, 2] * u) / t, min(1.0, max(-1.0, rho)))
                total += weight * math.exp(-u * u / 2) / math.sqrt(2 * math.pi) * math.copysign(1, u + h[0]) * pair
        assert sign_moment3(*h, *R[np.triu_indices(3, 1)]) == pytest.approx(total, abs=accuracy)


def test_four_signs_without_thresholds() -> None:
    random = np.random.default_rng(16)
    for rank, noise in ((4, 1.0), (2, 0.05), (1, 0.3)):
        entries = correlations(4, rank, noise, random)[np.triu_indices(4, 1)]
        assert shifted_sign_moment4(0, 0, 0, 0, *entries) == pytest.approx(sign_moment4(*entries), abs=1e-13)


def test_signs_that_are_one_or_decided() -> None:
    """Copies drop out in pairs; a threshold at infinity decides its sign."""
    h, k = 0.4, -0.7
    erf = math.erf(k / math.sqrt(2))
    assert sign_moment3(h, h, k, 1.0, 0.3, 0.3) == pytest.approx(erf, abs=1e-7)
    assert sign_moment3(h, -h, k, -1.0, 0.3, -0.3) == pytest.approx(-erf, abs=1e-7)
    pair = sign_moment2(h, k, 0.3)
    assert shifted_sign_moment4(h, h, h, k, 1.0, 1.0, 0.3, 1.0, 0.3, 0.3) == pytest.approx(pair, abs=1e-7)
    assert sign_moment3(h, -math.inf, k, 0.2, 0.3, 0.1) == pytest.approx(-pair, abs=1e-14)
    three = sign_moment3(0.1, h, k, 0.5, -0.2, 0.3)
    assert shifted_sign_moment4(0.1, h, k, math.inf, 0.5, -0.2, 0.0, 0.3, 0.0, 0.0) == pytest.approx(three, abs=1e-14)


@pytest.mark.parametrize(
    ("node", "number", "at"),
    [
        (SignMoment3, sign_moment3, (0.4, -0.9, 0.2, 0.35, -0.2, 0.5)),
        (ShiftedSignMoment4, shifted_sign_moment4, (0.4, -0.9, 0.2, 1.1, 0.35, -0.2, 0.5, 0.1, 0.3, -0.4)),
    ],
)
def test_derivatives_are_differences(node: Any, number: Any, at: tuple[float, ...]) -> None:
    symbols, step = sp.symbols(f"v:{len(at)}", real=True), 1e-5
    for place in range(len(at)):
        slope = sp.diff(node(*symbols), symbols[place]).subs(dict(zip(symbols, at, strict=True)))
        above, below = ([v + side * step * (q == place) for q, v in enumerate(at)] for side in (1, -1))
        assert float(slope) == pytest.approx((number(*above) - number(*below)) / (2 * step), abs=1e-9)


def test_a_cluster_of_relus_in_closed_form() -> None:
    """Biases, means and teachers: no quadrature is left, so that nothing is warned of and its key changes nothing."""
    problem = dl.loads("""
    schema = 2
    data = { kind = "mixture", weights = [0.4, 0.6], means = [[1.0], [-0.7]], variances = [0.6, 1.2] }
    target = { kind = "committee", readout = [1.0, -0.5], activation = "relu", noise = 0.1 }
    student = { kind = "two-layer", width = 2, activation = "relu", bias = true, train_readout = true }
    algorithm = { kind = "one-pass", learning_rate = 0.3 }
    initial = { kind = "random", overlap = 0.2, norm = 0.5, seed = 3 }
    grid = { time = [0.0, 1.0, 4.0] }
    """)
    system: Any = dl.derive(problem)
    assert system.module().ROUTE == "closed"
    assert "quadrature_error" not in system.solve().stats
    one, two = dl.solve(problem), dl.solve(dl.loads(problem.to_toml(), {"solver.quadrature_rtol": 1e-4}))
    np.testing.assert_array_equal(one["generalization_error"].values, two["generalization_error"].values)
