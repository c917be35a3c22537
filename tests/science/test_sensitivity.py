"""Derivatives of predictions against exact ones, and fits that give back what made the curve."""

from __future__ import annotations

import json
from pathlib import Path

import mpmath
import numpy as np
import pytest

import dimladder as dl
from dimladder.cli import main
from dimladder.errors import SolveError, UsageError
from dimladder.numerics.differences import derivative
from dimladder.problem import Problem
from dimladder.sensitivity import numbers, slopes, tight
from dimladder.tangents import TangentFlow


def linear_unit(**changes: object) -> Problem:
    """One linear unit on one: dM/dt = eta (1 - M), dQ/dt = 2 eta (M - Q) + eta^2 (1 - 2M + Q + sigma^2)."""
    document = {
        "target": {"kind": "committee", "activation": "x", "readout": [1.0], "noise": 0.3},
        "student": {"kind": "two-layer", "width": 1, "activation": "x", "train_readout": False},
        "algorithm": {"kind": "one-pass", "learning_rate": 0.4},
        "initial": {"Q": [[0.5]], "M": [[0.2]]},
        "grid": {"time": [0.0, 0.7, 3.0]},
    }
    return dl.replace(dl.problem("one-pass", **document), changes)


def fixed_point(**changes: object) -> Problem:
    document = {
        "data": {"kind": "gaussian"}, "target": {"kind": "index", "formula": "z", "noise": 0.5},
        "student": {"kind": "linear"}, "loss": {"function": "square", "ridge": 0.3},
        "algorithm": {"kind": "minimise"}, "grid": {"sample_ratio": [0.7, 1.2, 3.0]},
    }  # fmt: skip
    return dl.replace(dl.problem(**document), changes)


def exact_error(t: float, eta: float, sigma: float, m0: float, q0: float) -> mpmath.mpf:
    """e = (1 - 2M + Q)/2 of the linear unit: de/dt = -(2 eta - eta^2) e + eta^2 sigma^2/2."""
    e0, rate = (1 - 2 * m0 + q0) / 2, 2 * eta - eta**2
    rest = eta**2 * sigma**2 / (2 * rate)
    return rest + (e0 - rest) * mpmath.exp(-rate * t)


def exact_ridge(ratio: float, ridge: float, sigma: float) -> mpmath.mpf:
    """Test error 1 - 2m + q of isotropic ridge regression, sum of squares/2 + ridge |w|^2/2."""
    # V (ridge + ratio/(1 + V)) = 1
    b = ridge + ratio - 1
    V = (-b + mpmath.sqrt(b**2 + 4 * ridge)) / (2 * ridge)
    g = ratio / (1 + V)
    m = g * V
    s = ratio * V**2 / (1 + V) ** 2
    q = (m**2 + s * (1 + sigma**2 - 2 * m)) / (1 - s)
    return 1 - 2 * m + q


def test_flow_against_the_exact_derivatives() -> None:
    keys = ["algorithm.learning_rate", "target.noise", "initial.M.0.0", "initial.Q.0.0"]
    found = dl.sensitivity(linear_unit(), keys)
    assert found.dims("generalization_error") == ["parameter", "time"]
    with mpmath.workdps(30):
        for k, t in enumerate((0.0, 0.7, 3.0)):
            for j, key in enumerate(keys):
                at = [mpmath.mpf("0.4"), mpmath.mpf("0.3"), mpmath.mpf("0.2"), mpmath.mpf("0.5")]
                exact = mpmath.diff(lambda x, j=j, at=at, t=t: exact_error(t, *at[:j], x, *at[j + 1 :]), at[j])
                here = found["generalization_error"].sel(parameter=key).values[k]
                assert here == pytest.approx(float(exact), rel=1e-8, abs=1e-9), (key, t)
    assert found.stats["method"] == "tangents"
    assert (found["generalization_error_error"].values < 1e-7).all()


def test_tangents_are_the_differences_of_a_committee(runs: Path) -> None:
    """Both layers, and a number through the teacher's overlaps: one integration against many."""
    problem = dl.load(runs / "online-erf.toml", {"grid.time": [1.0, 20.0, 100.0]})
    keys = ["algorithm.learning_rate", "target.noise", "initial.M.0.0", "target.readout.1"]
    prepared = dl.prepare(problem, keys, rtol=1e-11, atol=1e-13)
    base = numbers(prepared)
    solution = prepared.solution(base)
    exact, errors, method = slopes(prepared, base, solution)
    assert method == "tangents"
    names = list(exact)

    def moved(x: float, k: int) -> np.ndarray:
        found = prepared([*base[:k], x, *base[k + 1 :]])
        return np.concatenate([found[n].ravel() for n in names])

    for k in (0, 3):
        value, error = derivative(lambda x, k=k: moved(x, k), base[k], 0.02)
        flat = np.concatenate([exact[n][k].ravel() for n in names])
        bounds = np.concatenate([errors[n][k].ravel() for n in names])
        assert (abs(flat - value) <= 1e-8 * (1.0 + abs(value)) + bounds + 10 * error).all()
        assert bounds.max() < 1e-6 * max(1.0, abs(flat).max())


def test_the_adjoint_against_the_exact_derivatives() -> None:
    """The linear unit in thirty digits, at two times and with a jump of the rate between them."""
    keys = ["algorithm.learning_rate", "target.noise", "initial.M", "initial.Q"]
    found = dl.sensitivity(linear_unit(), keys, variables=["generalization_error"], method="adjoint")
    assert found.stats["method"] == "adjoint"
    assert set(found) == {"generalization_error", "generalization_error_error"}
    at = [mpmath.mpf("0.4"), mpmath.mpf("0.3"), mpmath.mpf("0.2"), mpmath.mpf("0.5")]
    with mpmath.workdps(30):
        for k, t in enumerate((0.0, 0.7, 3.0)):
            exact = [mpmath.diff(lambda x, j=j, t=t: exact_error(t, *at[:j], x, *at[j + 1 :]), at[j]) for j in range(4)]
            here = found["generalization_error"].values[:, k]
            np.testing.assert_allclose(here, np.array(exact, dtype=float), rtol=1e-10, atol=1e-11)

        def scheduled(eta: mpmath.mpf) -> mpmath.mpf:
            half = exact_error(1.2, eta, at[1], at[2], at[3])
            # The state at the jump enters by its error alone: M = 1/2 + (1 - 2 e)/2 gives any such state.
            return exact_error(1.8, eta / 2, at[1], mpmath.mpf("0.5"), 2 * half)

        jump = linear_unit(**{"algorithm.schedule": "1 - step(t - 1.2)/2"})
        found = dl.sensitivity(jump, keys[:1], variables=["generalization_error"], method="adjoint")
        exact_jump = float(mpmath.diff(scheduled, at[0]))
        assert found["generalization_error"].values[0, 2] == pytest.approx(exact_jump, rel=1e-10)


ADJOINTS: dict[str, tuple[str, dict[str, object], list[str], list[str]]] = {
    "committee": (
        "online-erf.toml",
        {"student.width": 4, "grid.time": [2.0, 30.0], "initial.a": [1.0, 0.9, 1.1, 1.2],
         "initial.Q": [[0.5, 0.02, 0.01, 0.0], [0.02, 0.52, 0.0, 0.1], [0.01, 0.0, 0.49, 0.03], [0.0, 0.1, 0.03, 0.6]],
         "initial.M": [[0.03, 0.01], [-0.01, 0.02], [0.0, -0.03], [0.05, 0.04]]},
        ["initial.Q", "initial.M", "initial.a", "algorithm.learning_rate", "algorithm.readout_learning_rate",
         "target.overlap", "target.readout"],
        ["generalization_error"],
    ),
    "spectrum": (
        "online-power-law.toml", {"grid.time": [1.0, 40.0]},
        ["initial.Q", "initial.M", "algorithm.learning_rate", "data.spectrum.exponent", "target.power.exponent"],
        ["generalization_error", "M"],
    ),
    "momentum": (
        "online-erf.toml", {"algorithm.momentum": {"decay": 1.3, "coupling": 0.7}, "grid.time": [2.0, 15.0]},
        ["algorithm.momentum.decay", "algorithm.momentum.coupling", "initial.M", "target.noise"],
        ["generalization_error"],
    ),
    "growth": (
        "hierarchical-flow.toml", {"grid.time": [0.0, 10.0, 30.0]}, ["algorithm.step"], ["subspace_overlap"],
    ),
    "map": (
        "hierarchical-flow.toml", {"algorithm.map": True, "grid.time": [0.0, 2.0, 9.0]},
        ["algorithm.step", "algorithm.batch_ratio"], ["subspace_overlap"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ADJOINTS)
def test_the_adjoint_is_the_tangents(name: str, runs: Path) -> None:
    file, change, keys, variables = ADJOINTS[name]
    problem = dl.load(runs / file, change)
    backwards = dl.sensitivity(problem, keys, variables=variables, method="adjoint")
    forwards = dl.sensitivity(problem, keys, variables=variables, method="tangents")
    assert (backwards.stats["method"], forwards.stats["method"]) == ("adjoint", "tangents")
    for v in variables:
        a, b = backwards[v].values, forwards[v].values
        assert abs(b).max() > 1e-3
        assert abs(a - b).max() < 1e-9 * max(1.0, abs(b).max())
        assert (backwards[f"{v}_error"].values < 1e-9).all()


def test_entries_of_a_symmetric_matrix_move_together(runs: Path) -> None:
    problem = dl.load(runs / "online-erf.toml", {"grid.time": [3.0]})
    found = dl.sensitivity(problem, ["initial.Q"], variables=["generalization_error"])
    keys = found["parameter"].values.tolist() if "parameter" in found else found.dataset["parameter"].values.tolist()
    assert keys == [f"initial.Q.{i}.{k}" for i in range(3) for k in range(i, 3)]

    def moved(x: float) -> np.ndarray:
        change = {"initial.Q.0.1": x, "initial.Q.1.0": x}
        return np.asarray(dl.solve(dl.replace(problem, change), rtol=1e-11, atol=1e-13)["generalization_error"].values)

    value, _ = derivative(moved, 0.02, 0.02)
    np.testing.assert_allclose(found["generalization_error"].values[1], value, rtol=1e-8)


def test_many_numbers_and_few_readings_go_backwards(runs: Path) -> None:
    problem = dl.load(runs / "online-erf.toml", {"grid.time": [5.0]})
    keys = ["initial.Q", "initial.M", "initial.a", "target.readout"]
    asked = {"variables": ["generalization_error"]}
    assert dl.sensitivity(problem, keys, **asked).stats["method"] == "adjoint"
    assert dl.sensitivity(problem, ["initial.M.0.0"], **asked).stats["method"] == "tangents"
    assert dl.sensitivity(problem, keys).stats["method"] == "tangents"


def test_a_distance_near_zero_has_no_cotangent(runs: Path) -> None:
    """The gap to the solution is a norm: smooth along the tangents, not around the state."""
    problem = dl.load(runs / "implicit-bias.toml")
    with pytest.raises(UsageError, match="error would be too large"):
        dl.sensitivity(problem, ["target.noise"], variables=["solution_gap"], method="adjoint")
    smooth = dl.sensitivity(problem, ["target.noise"], variables=["loss"], method="adjoint")
    forwards = dl.sensitivity(problem, ["target.noise"], variables=["loss"], method="tangents")
    assert forwards.stats["equation"] != smooth.stats["equation"]
    np.testing.assert_allclose(smooth["loss"].values, forwards["loss"].values, rtol=1e-8, atol=1e-11)


def test_iterated_code_whose_tangents_lag_is_not_trusted(runs: Path) -> None:
    relu = {"student.activation": "relu", "target.activation": "relu", "grid.time": [1.0, 5.0], "solver.rtol": 1e-8}
    problem = dl.load(runs / "online-erf.toml", relu)
    assert TangentFlow.of(dl.prepare(problem, ["target.noise"]), [0.2]) is None


def test_fixed_point_against_the_exact_derivatives() -> None:
    problem = fixed_point(**{"grid.sample_ratio": [0.7, 2.0]})
    found = dl.sensitivity(problem, ["loss.ridge", "target.noise"])
    with mpmath.workdps(30):
        ridge, noise = mpmath.mpf("0.3"), mpmath.mpf("0.5")
        for k, ratio in enumerate((0.7, 2.0)):
            exact = [
                mpmath.diff(lambda x, r=ratio: exact_ridge(r, x, noise), ridge),
                mpmath.diff(lambda x, r=ratio: exact_ridge(r, ridge, x), noise),
            ]
            np.testing.assert_allclose(found["mse"].values[:, k], np.array(exact, dtype=float), rtol=1e-8)


LABELS = {"kind": "index", "formula": "sign(z + 0.3*n1)"}
ROOTS: dict[str, tuple[dict[str, object], list[str]]] = {
    "logistic": (
        {"data": {"kind": "gaussian"}, "target": LABELS, "student": {"kind": "linear"},
         "loss": {"function": "logistic", "ridge": 0.1}, "algorithm": {"kind": "minimise"},
         "grid": {"sample_ratio": [0.7, 3.0]}},
        ["loss.ridge", "grid.sample_ratio.1"],
    ),
    "posterior": (
        {"data": {"kind": "gaussian"}, "target": LABELS, "student": {"kind": "linear"},
         "loss": {"function": "logistic", "ridge": 1.0}, "algorithm": {"kind": "posterior", "temperature": 0.8},
         "grid": {"sample_ratio": [2.0]}},
        ["loss.ridge", "algorithm.temperature"],
    ),
    "mixture": (
        {"data": {"kind": "mixture", "means": "opposite", "weights": [0.4, 0.6], "variances": [1.0, 0.5]},
         "target": {"kind": "cluster-labels"}, "student": {"kind": "linear", "bias": True},
         "loss": {"function": "logistic", "ridge": 0.2}, "algorithm": {"kind": "minimise"},
         "grid": {"sample_ratio": [0.5, 2.0]}},
        ["loss.ridge", "data.variances.1"],
    ),
    "classes": (
        {"data": {"kind": "mixture", "means": [[1.5, 0.0, 0.0], [0.0, 1.2, 0.0], [-1.0, -0.5, 0.3]],
                  "weights": [0.3, 0.3, 0.4], "variances": [1.0, 0.7, 1.0]},
         "target": {"kind": "cluster-labels", "labels": [0, 1, 2]}, "student": {"kind": "linear", "bias": True},
         "loss": {"function": "one-hot", "ridge": 0.2}, "algorithm": {"kind": "minimise"},
         "grid": {"sample_ratio": [0.6, 1.5]}},
        ["loss.ridge", "data.variances.1", "grid.sample_ratio.0"],
    ),
    "cross-entropy": (
        {"data": {"kind": "mixture", "means": [[1.0, 0.2], [-1.0, 0.2]], "weights": [0.4, 0.6],
                  "variances": [1.0, 0.7]},
         "target": {"kind": "cluster-labels", "labels": [0, 1]}, "student": {"kind": "linear", "bias": True},
         "loss": {"function": "cross-entropy", "ridge": 0.2}, "algorithm": {"kind": "minimise"},
         "grid": {"sample_ratio": [1.5]}},
        ["loss.ridge", "data.variances.1"],
    ),
    "graph": (
        {"data": {"kind": "block-model", "gamma": 2.0, "mu": 1.0, "homophily": 0.8},
         "student": {"kind": "graph-convolution", "self_loop": 0.4}, "loss": {"ridge": 0.1},
         "algorithm": {"kind": "minimise"}, "grid": {"train_fraction": [0.3, 0.8]}},
        ["data.homophily", "student.self_loop", "loss.ridge"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROOTS)
def test_roots_move_as_the_differences_of_their_solutions(name: str) -> None:
    document, keys = ROOTS[name]
    problem = dl.problem(**document)  # type: ignore[arg-type]
    found = dl.sensitivity(problem, keys)
    assert found.stats["method"] == "implicit"
    prepared = dl.prepare(problem, keys, **tight(problem, {}))
    base, names = numbers(prepared), [n for n in found if not n.endswith("_error")]
    for k, key in enumerate(keys):

        def moved(x: float, k: int = k) -> np.ndarray:
            solved = prepared([*base[:k], x, *base[k + 1 :]])
            return np.concatenate([solved[n].ravel() for n in names])

        value, error = derivative(moved, base[k], 0.05 * abs(base[k]))
        own = np.concatenate([found[n].values[k].ravel() for n in names])
        bounds = np.concatenate([found[f"{n}_error"].values[k].ravel() for n in names])
        assert (abs(own - value) <= 1e-8 * (1.0 + abs(value)) + 10 * error).all(), key
        assert bounds.max() < 1e-8 * (1.0 + abs(value).max())
        assert abs(value).max() > 1e-2


def bayes(**changes: object) -> Problem:
    document = {
        "data": {"kind": "gaussian"}, "target": {"kind": "index", "formula": "z", "noise": 0.3},
        "student": {"kind": "linear"}, "algorithm": {"kind": "bayes"}, "grid": {"sample_ratio": [0.6, 1.3]},
    }  # fmt: skip
    return dl.replace(dl.problem(**document), changes)  # type: ignore[arg-type]


def test_bayes_optimal_errors_against_the_exact_derivatives() -> None:
    """r = 1 - q of a linear label solves r^2 + r (sigma^2 + alpha - 1) = sigma^2; and dPhi/dalpha = Psi."""
    found = dl.sensitivity(bayes(), ["target.noise", "grid.sample_ratio.1"])
    assert found.stats["method"] == "implicit"

    def rest(alpha: mpmath.mpf, sigma: mpmath.mpf) -> mpmath.mpf:
        b = sigma**2 + alpha - 1
        return (-b + mpmath.sqrt(b**2 + 4 * sigma**2)) / 2

    with mpmath.workdps(30):
        sigma = mpmath.mpf("0.3")
        noise = [float(mpmath.diff(lambda x, a=a: rest(mpmath.mpf(a), x), sigma)) for a in ("0.6", "1.3")]
        ratio = float(mpmath.diff(lambda a: rest(a, sigma), mpmath.mpf("1.3")))
        entropy = float(-mpmath.log(2 * mpmath.pi * mpmath.e * (sigma**2 + rest(mpmath.mpf("1.3"), sigma))) / 2)
    np.testing.assert_allclose(found["mse"].values[0, 0], noise, rtol=1e-10)
    np.testing.assert_allclose(found["mse"].values[1, 0], [0.0, ratio], rtol=1e-10, atol=1e-14)
    assert found["free_entropy"].values[1, 0, 1] == pytest.approx(entropy, rel=1e-10)


def test_thresholds_of_a_hard_phase_move_as_their_differences() -> None:
    """The spinodal and the tie of two branches, found anew by the solver at every neighbour."""
    hard = bayes(**{"target.prior": "rademacher", "grid.start": ["uninformed", "informed"], "target.noise": 0.25})
    here, there = (dl.sensitivity(hard, ["target.noise"], method=m) for m in ("implicit", "differences"))
    assert (here.stats["method"], there.stats["method"]) == ("implicit", "differences")
    assert np.isfinite(here["threshold"].values).all()
    for name in ("threshold", "overlap", "free_entropy"):
        a, b, error = here[name].values, there[name].values, there[f"{name}_error"].values
        assert abs(b).max() > 1e-2
        assert (abs(a - b) <= 1e-8 * (1.0 + abs(b)) + 10 * error).all(), name
        assert (error < 1e-8 * (1.0 + abs(b))).all()


@pytest.mark.nightly
def test_overlap_matrices_move_with_the_sample_ratio() -> None:
    """dPhi/dalpha = Psi(Q), which the quadrature of both keeps to a millionth."""
    found = dl.sensitivity(
        bayes(**{"target.formula": "z1*z2 + z1 + 0.5*n1", "target.noise": 0.0, "grid.sample_ratio": [0.8]}),
        ["grid.sample_ratio.0"],
    )
    assert found.stats["method"] == "implicit"
    assert found["free_entropy"].values.ravel()[0] == pytest.approx(-1.636503276279656, abs=2e-6)


def test_the_best_ridge_moves_with_the_noise() -> None:
    """The best ridge of isotropic least squares on a linear target is the variance of the noise."""
    problem = dl.problem(
        data={"kind": "gaussian"}, target={"kind": "index", "formula": "z", "noise": 0.5}, student={"kind": "linear"},
        loss={"function": "square", "ridge": "optimal", "optimise": "mse"}, algorithm={"kind": "minimise"},
        grid={"sample_ratio": [0.7, 2.0]},
    )  # fmt: skip
    found = dl.sensitivity(problem, ["target.noise"])
    assert found.stats["method"] == "implicit"
    np.testing.assert_allclose(found["ridge"].values, 1.0, rtol=1e-8)


def test_the_better_of_two_ways_counts(runs: Path) -> None:
    """Of the best ridge of a Huber loss the linearised equations leave a few 1e-8 open, differences do not."""
    problem = dl.load(runs / "estimation-huber.toml", {"grid.sample_ratio": [2.0], "data.spectrum.levels": 20})
    found = dl.sensitivity(problem, ["grid.sample_ratio.0"])
    assert (found["ridge_error"].values < 1e-9 * abs(found["mse"].values).max() + 1e-9).all()
    forced = dl.sensitivity(problem, ["grid.sample_ratio.0"], method="implicit")
    bound = 10 * (found["ridge_error"].values + forced["ridge_error"].values)
    assert (abs(found["ridge"].values - forced["ridge"].values) <= bound).all()


def test_scalar_equations_against_thirty_digits(runs: Path) -> None:
    """kappa of two feature scales, by the printed equation; its error moves with a variance through it and directly."""
    import sympy as sp

    from dimladder.theories import multiscale_ridge as theory

    problem = dl.load(runs / "multiscale.toml", {"grid.time_ridge": [3.0, 40.0], "target.noise": 0.3})
    key = "data.spectrum.variances.0"
    found = dl.sensitivity(problem, [key, "target.noise"])
    assert found.stats["method"] == "implicit"
    shares, expressions = theory.definitions(), theory.expressions()

    def expanded(e: sp.Expr) -> sp.Expr:
        while e.free_symbols & set(shares):
            e = e.subs(shares)
        return e

    symbols = sp.symbols(theory.SYMBOLS, positive=True)
    ((low, high), error) = expressions["fixed_point"], expressions["generalization_error"]
    by_name = {str(s): s for e in (low, high, error) for s in expanded(e).free_symbols}
    order = [by_name.get(str(s), s) for s in symbols]
    gap, read = (sp.lambdify(order, expanded(e), "mpmath") for e in (low - high, error))
    (first, second), _ = problem.data.spectrum.blocks()
    n, d = problem.data.samples, problem.data.dimension
    fast = float(problem.data.spectrum.counts(d)[0])

    near = dl.derive(problem).roots()  # type: ignore[attr-defined]

    def exact(k: int, variance: mpmath.mpf, noise: mpmath.mpf) -> mpmath.mpf:
        rest = (1 / mpmath.mpf((3.0, 40.0)[k]), n, d, fast, mpmath.sqrt(variance), mpmath.sqrt(second), noise)
        root = mpmath.findroot(lambda u: gap(mpmath.exp(u), *rest), mpmath.mpf(near[k, 0]))
        return read(mpmath.exp(root), *rest)

    with mpmath.workdps(30):
        at, h = [mpmath.mpf(first), mpmath.mpf(problem.target.noise)], mpmath.mpf("1e-9")
        for k in range(2):
            exactly = [
                (exact(k, at[0] + h, at[1]) - exact(k, at[0] - h, at[1])) / (2 * h),
                (exact(k, at[0], at[1] + h) - exact(k, at[0], at[1] - h)) / (2 * h),
            ]
            here = found["generalization_error"].values[:, k]
            np.testing.assert_allclose(here, np.array(exactly, dtype=float), rtol=1e-8)


def test_many_keys_are_combinations_of_few_directions(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many directions as state and parameters span are integrated, however many keys there are."""
    problem = dl.load(runs / "online-erf.toml", {"grid.time": [1.0, 20.0]})
    keys = ["algorithm.learning_rate", "target.noise", "initial.M.0.0"]
    flow = TangentFlow.of(dl.prepare(problem, keys, rtol=1e-11, atol=1e-13), [0.5, 0.2, 0.1])
    assert flow is not None
    _, _, few, _ = flow.integrated()
    mixing = np.random.default_rng(0).standard_normal((7, 3))
    flow.base, flow.start_slopes, flow.parameter_slopes = [1.0] * 7, mixing @ flow.start_slopes, mixing @ (
        flow.parameter_slopes
    )  # fmt: skip
    from dimladder.numerics import tangents

    asked = []

    def counted(function: object, n: int, p: np.ndarray, along: np.ndarray, size: int) -> np.ndarray:
        asked.append(len(along))
        return original(function, n, p, along, size)  # type: ignore[arg-type]

    original = tangents.tangent_parameters
    monkeypatch.setattr(tangents, "tangent_parameters", counted)
    _, _, many, _ = flow.integrated()
    assert asked == [3]
    np.testing.assert_allclose(many, np.einsum("km,mti->kti", mixing, few), rtol=1e-8, atol=1e-8)


def test_recursion_against_the_map_in_thirty_digits(runs: Path) -> None:
    """One class of spherical gradient steps: q(step) follows from the printed map."""
    import sympy as sp

    change = {"algorithm.map": True, "grid.time": [0.0, 2.0, 9.0]}
    problem = dl.load(runs / "hierarchical-flow.toml", change)
    system = dl.derive(problem)
    built = system.build()  # type: ignore[attr-defined]
    (symbol, right), parameters = next(iter(built.state.items())), list(built.parameters)
    function = sp.lambdify([symbol, *parameters], right, "mpmath")
    solver = dl.prepare(problem, ["algorithm.step"])
    start = float(solver([problem.algorithm.step])["subspace_overlap"][0])

    def iterated(step: float, times: int) -> mpmath.mpf:
        values = [mpmath.mpf(v) for v in solver.system([step]).parameter_values()]  # type: ignore[attr-defined]
        q = mpmath.mpf(start)
        for _ in range(times):
            q = function(q, *values)
        return q

    curve = dl.sensitivity(problem, ["algorithm.step"])
    assert curve.stats["method"] == "tangents"
    found = curve["subspace_overlap"].values[0]
    with mpmath.workdps(30):
        for k, times in enumerate((0, 2, 9)):
            h = 1e-4
            # Fourth order, of numbers in thirty digits but for the parameters, which are in sixteen.
            steps = [(-2, 1), (-1, -8), (1, 8), (2, -1)]
            exact = sum(w * iterated(problem.algorithm.step + s * h, times) for s, w in steps) / (12 * h)
            assert found[k] == pytest.approx(float(exact), rel=1e-8, abs=1e-10)


def test_differences_of_multi_pass_training_are_as_good_as_they_say(runs: Path) -> None:
    """M after one and two steps of ridge regression: eta, then eta (2 - eta lambda) - eta^2 (1 + 1/alpha)."""
    problem = dl.load(runs / "multi-pass-ridge.toml", {"algorithm.steps": 2, "data.sample_ratio": 1.6})
    eta, lam = problem.algorithm.learning_rate, problem.loss.ridge_per_sample
    found = dl.sensitivity(problem, ["algorithm.learning_rate"])
    assert found.stats["method"] == "differences"
    exact = [0.0, 1.0, 2.0 - 2.0 * eta * lam - 2.0 * eta * (1.0 + 1.0 / 1.6)]
    own, error = (found[n].values.ravel() for n in ("M", "M_error"))
    assert (abs(own - exact) <= 10 * error).all()
    assert error.max() < 1e-10


def test_differences_of_wide_networks_are_as_good_as_they_say(runs: Path) -> None:
    """f after one step is linear in the rate."""
    problem = dl.load(runs / "mup-linear.toml", {"algorithm.steps": 6})
    found, curve = dl.sensitivity(problem, ["algorithm.learning_rate"]), dl.solve(problem)
    assert found.stats["method"] == "differences"
    f, slope, error = (c.values for c in (curve["f"], found["f"][0], found["f_error"][0]))
    exact = f[1] / problem.algorithm.learning_rate
    assert abs(exact).max() > 0.1
    assert (abs(slope[1] - exact) <= 10 * error[1]).all()
    assert error.max() < 1e-9


def test_two_steps_on_each_sample_carry_their_derivatives(runs: Path) -> None:
    """Averages that the solver refines are kept as they are: carried both ways, and against differences."""
    problem = dl.load(runs / "online-reuse.toml", {"grid.time": [4.0], "solver.quadrature_rtol": 1e-10})
    keys = ["algorithm.learning_rate"]
    found = {
        m: dl.sensitivity(problem, keys, variables=["M"], method=m) for m in ("tangents", "adjoint", "differences")
    }
    values = {m: f["M"].values for m, f in found.items()}
    assert abs(values["differences"]).max() > 0.1
    error = found["differences"]["M_error"].values
    for method in ("tangents", "adjoint"):
        assert (abs(values[method] - values["differences"]) <= 1e-8 + 10 * error).all()
    assert error.max() < 1e-7


def test_what_is_no_number_has_no_derivative() -> None:
    with pytest.raises(UsageError, match="no derivative"):
        dl.sensitivity(linear_unit(), ["algorithm.schedule"])
    with pytest.raises(UsageError, match="no method"):
        dl.sensitivity(linear_unit(), ["target.noise"], method="adjont")
    with pytest.raises(UsageError, match="no variable"):
        dl.sensitivity(linear_unit(), ["target.noise"], variables=["generalisation_error"])
    with pytest.raises(UsageError, match="'implicit'"):
        dl.sensitivity(fixed_point(), ["target.noise"], method="adjoint")
    with pytest.raises(UsageError, match="'tangents'"):
        dl.sensitivity(linear_unit(), ["target.noise"], method="implicit")


def test_one_sided_at_the_end_of_a_range() -> None:
    """e depends on sigma^2: at sigma = 0 the slope is 0, and noise < 0 is no problem."""
    found = dl.sensitivity(linear_unit(**{"target.noise": 0.0}), ["target.noise"])
    assert abs(found["generalization_error"].values).max() < 1e-9


@pytest.mark.parametrize("power", [3, -1])
def test_extrapolated_differences_know_their_error(power: int) -> None:
    value, error = derivative(lambda x: np.array([x**power, np.sin(x), 1.0]), 1.3, 0.1)
    exact = [power * 1.3 ** (power - 1), np.cos(1.3), 0.0]
    np.testing.assert_allclose(value, exact, rtol=1e-11, atol=1e-13)
    assert (abs(value - exact) <= 10 * error + 1e-13).all()
    one_sided, error = derivative(lambda x: None if x < 1.3 else np.array([x**power]), 1.3, 0.1)
    np.testing.assert_allclose(one_sided, exact[:1], rtol=1e-8)


def test_a_fit_gives_back_what_made_the_curve() -> None:
    """Gaussian errors of known size: values within four standard errors, chi^2 of its degrees, errors as scattered."""
    keys = ["algorithm.learning_rate", "target.noise"]
    times = list(np.linspace(0.0, 6.0, 25))
    truth = linear_unit(**{"grid.time": times})
    exact = dl.solve(truth)["generalization_error"].values
    rng = np.random.default_rng(3)
    found = []
    for _ in range(12):
        noise = 1e-3 * rng.standard_normal(len(times))
        measured = {"generalization_error": (exact + noise, np.full(len(times), 1e-3))}
        result = dl.fit(dl.replace(truth, {"algorithm.learning_rate": 0.3, "target.noise": 0.4}), measured, keys)
        assert result.degrees == len(times) - 2
        assert result.chi_squared < result.degrees + 5 * np.sqrt(2 * result.degrees)
        z = [(result.values[k] - v) / result.errors[k] for k, v in zip(keys, (0.4, 0.3), strict=True)]
        found.append(z)
    scores = np.array(found)
    assert abs(scores).max() < 4.0
    assert 0.5 < scores.std() < 1.6
    assert result.problem.algorithm.learning_rate == result.values["algorithm.learning_rate"]


@pytest.mark.parametrize("kind", ["flow", "fixed point", "recursion"])
def test_intervals_cover_what_made_the_curve(kind: str, runs: Path) -> None:
    """Of a hundred 95 % intervals 88 to 99 hold the truth, which 996 of a thousand such hundreds do."""
    if kind == "flow":
        truth, key = linear_unit(**{"grid.time": [0.5, 1.5, 4.0]}), "target.noise"
        variable, size = "generalization_error", 1e-3
    elif kind == "fixed point":
        truth, key, variable, size = fixed_point(), "target.noise", "test_mse", 1e-2
    else:
        change = {"algorithm.map": True, "grid.time": [10.0, 40.0, 80.0]}
        truth, key = dl.load(runs / "hierarchical-flow.toml", change), "algorithm.step"
        variable, size = "subspace_overlap", 1e-2
    assert dl.derive(truth).kind == kind
    value = numbers(dl.prepare(truth, [key]))[0]
    exact = dl.solve(truth)[variable].values
    rng, covered = np.random.default_rng(11), 0
    for _ in range(100):
        noise = size * rng.standard_normal(exact.shape)
        found = dl.fit(truth, {variable: (exact + noise, np.full(exact.shape, size))}, [key])
        covered += abs(found.values[key] - value) < 1.96 * found.errors[key]
    assert 88 <= covered <= 99


def test_the_verbs_print_what_the_functions_return(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = linear_unit(**{"grid.time": list(np.linspace(0.0, 3.0, 9))})
    curve = dl.solve(truth)["generalization_error"].values
    sizes = {"d": np.array([100, 400]), "time": np.linspace(0.0, 3.0, 9)}
    both = np.stack([curve + 0.1, curve])
    dims = ("d", "time")
    dl.Measurement.build(
        truth, sizes, {
            "generalization_error": (dims, both, "", "", None),
            "generalization_error_se": (dims, np.full_like(both, 1e-3), "", "", None),
        },
    ).save(tmp_path / "measured.nc")  # fmt: skip
    run = tmp_path / "run.toml"
    run.write_text(dl.replace(truth, {"target.noise": 0.5}).to_toml())
    assert main(["fit", str(run), str(tmp_path / "measured.nc"), "target.noise", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["values"]["target.noise"] == pytest.approx(0.3, abs=1e-5)
    assert answer["degrees"] == 8
    assert main(["fit", str(run), str(tmp_path / "measured.nc"), "target.noise"]) == 0
    assert "target.noise  0.3" in capsys.readouterr().out
    assert main(["sensitivity", str(run), "target.noise", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["variables"]["generalization_error"]
    expected = dl.sensitivity(dl.load(run), ["target.noise"])["generalization_error"].values
    np.testing.assert_array_equal(printed["values"], expected)
    assert main(["sensitivity", str(run), "target.nose"]) == 2
    assert "noise" in capsys.readouterr().err


def test_a_fit_to_a_table_of_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows in any order, on times that the run file does not name; and what --json printed."""
    times = np.linspace(0.0, 3.0, 9)
    truth = linear_unit(**{"grid.time": times.tolist()})
    curve = dl.solve(truth)["generalization_error"].values
    rows = [f"{t!r}, {e!r}, 1e-3, word" for t, e in zip(times.tolist(), curve.tolist(), strict=True)]
    run, table = tmp_path / "run.toml", tmp_path / "measured.csv"
    run.write_text(linear_unit(**{"target.noise": 0.5}).to_toml())

    def write(head: str, *lines: str) -> None:
        table.write_text("\n".join(["# from somewhere", head, *lines]))

    head = "time, generalization_error, generalization_error_se"
    plain = [r.rsplit(",", 1)[0] for r in rows]
    write(head, *reversed(plain))
    assert main(["fit", str(run), str(table), "target.noise", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["values"]["target.noise"] == pytest.approx(0.3, abs=1e-5)
    assert (answer["degrees"], answer["warnings"]) == (8, [])
    printed = {
        "coords": {"time": times.tolist(), "d": [100, 400]},
        "variables": {
            "generalization_error": {"dims": ["d", "time"], "values": [[9.0] * 9, curve.tolist()]},
            "generalization_error_se": {"dims": ["d", "time"], "values": [[1e-3] * 9] * 2},
        },
    }
    (tmp_path / "measured.json").write_text(json.dumps(printed))
    assert main(["fit", str(run), str(tmp_path / "measured.json"), "target.noise", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == pytest.approx(answer["values"], rel=1e-6)
    for line, lines, words in (
        (head, [*plain[:2], "0.1, x, 1e-3"], "'x'"), (head, [*plain[:2], "0.1, 1e-3"], "2 cells of 3"),
        (head.replace("time", "t"), plain, "grid"), (head.replace("_se", "_err"), plain, "standard error"),
        (head, [], "empty"),
    ):  # fmt: skip
        write(line, *lines)
        assert main(["fit", str(run), str(table), "target.noise"]) == 2
        assert words in capsys.readouterr().err
    assert main(["fit", str(run), str(tmp_path / "absent.csv"), "target.noise"]) == 2


def test_a_fit_far_from_its_start_and_one_that_does_not_fit() -> None:
    """A full step leaves the range of the rate: shorter and steeper ones arrive. An offset is told."""
    times = np.linspace(0.0, 6.0, 25).tolist()
    truth = linear_unit(**{"grid.time": times})
    curve = dl.solve(truth)["generalization_error"].values
    keys, sizes = ["algorithm.learning_rate", "target.noise"], np.full(25, 1e-3)
    far = dl.replace(truth, {"algorithm.learning_rate": 1.9})
    found = dl.fit(far, {"generalization_error": (curve, sizes)}, keys)
    assert found.chi_squared < 1e-6
    assert not found.warnings
    poor = dl.fit(truth, {"generalization_error": (curve + 0.05, sizes)}, ["target.noise"])
    assert "does not fit" in poor.warnings[0]
    assert poor.to_dict()["warnings"] == list(poor.warnings)


def test_a_key_that_nothing_depends_on_is_named_with_its_value() -> None:
    """By symmetry the slope in sigma vanishes at 0; and the error at time 0 never knows the noise."""
    measured = {"generalization_error": (dl.solve(linear_unit())["generalization_error"].values, np.full(3, 1e-3))}
    with pytest.raises(SolveError, match=r"(?s)do not depend on a key.*target.noise = 0\n.*another value"):
        dl.fit(linear_unit(**{"target.noise": 0.0}), measured, ["target.noise"])
    with pytest.raises(SolveError, match="do not depend on a key"):
        dl.fit(
            linear_unit(**{"grid.time": [0.0]}), {"generalization_error": (np.ones(1), np.ones(1))}, ["target.noise"]
        )


def test_keys_that_the_curve_cannot_tell_apart_are_named() -> None:
    """e(0) depends on M and Q only through 1 - 2M + Q, and so does every later e without a noise to tell."""
    truth = linear_unit()
    measured = {"generalization_error": (dl.solve(truth)["generalization_error"].values, np.full(3, 1e-3))}
    with pytest.raises(SolveError, match=r"(?s)tell the keys apart.*rank 1 of 2"):
        dl.fit(truth, measured, ["initial.M", "initial.Q"])
    one_number = {"generalization_error": (np.ones(3), np.array([0.0, np.nan, 1.0]))}
    with pytest.raises(UsageError, match="do not decide"):
        dl.fit(truth, one_number, ["target.noise", "initial.M.0.0"])
    with pytest.raises(UsageError, match="another grid"):
        dl.fit(truth, {"generalization_error": (np.ones(4), np.ones(4))}, ["target.noise"])
    with pytest.raises(UsageError, match="generalization_error"):
        dl.fit(truth, measured, ["target.noise"], ["generalisation_error"])


def test_derivatives_keep_the_quadrature_of_the_curve() -> None:
    """A rule that is fine enough at the start is not later on: the curve refines it, and so do its derivatives.

    The mean of the field is zero at the start, where a logistic loss must have its slope and no kink.
    """
    p = dl.problem(
        data={"kind": "mixture", "weights": [0.5, 0.5], "means": "opposite", "variances": [1.0, 0.6]},
        target={"kind": "cluster-labels", "labels": [1.0, -1.0]}, loss={"function": "logistic"},
        student={"kind": "two-layer", "width": 1, "activation": "erf", "train_readout": True},
        algorithm={"kind": "one-pass", "learning_rate": 2.0}, grid={"time": [0.0, 5.0, 40.0]},
        initial={"kind": "random", "overlap": 0.0, "norm": 0.3, "seed": 2},
    )  # fmt: skip
    key = "algorithm.learning_rate"
    solver = tight(p, {})
    flow = TangentFlow.of(dl.prepare(p, [key], **solver), [2.0])
    assert flow is not None
    assert len(flow.system.rule) > len(dl.derive(p).rule)  # type: ignore[attr-defined]
    assert np.array_equal(flow.at(0, 2.1).rule, flow.system.rule)
    found = dl.sensitivity(p, [key])

    def curve(x: float) -> np.ndarray:
        return np.asarray(dl.solve(dl.replace(p, {key: x}), **solver)["test_loss"].values)

    value, _ = derivative(curve, 2.0, 0.02)
    np.testing.assert_allclose(found["test_loss"].values[0], value, atol=1e-6, rtol=0)
