"""Ridge regression on random features: closed forms against Marchenko-Pastur averages, ten digits, limits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError
from dimladder.numerics.random_matrix import marchenko_pastur_expectation
from dimladder.theories.estimation.regression import random_layer, ridge_fit

RANDOM_FEATURES = dl.load(Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "estimation-random-features.toml")

# (psi, alpha, Lambda): test and training error for ReLU on ReLU, then tanh on tanh, 10 digits.
RIDGE = {
    (1, 1, 0.1): (0.3301692932, 0.0700572134, 0.2562547153, 0.0589079227),
    (2, 1, 0.1): (0.2918019352, 0.0193896654, 0.1865886996, 0.0169992665),
    (0.5, 2, 0.01): (0.3360094587, 0.1950438722, 0.3007787045, 0.1750747110),
    (3, 0.5, 1): (0.2896002910, 0.0443147055, 0.2774282415, 0.0417944335),
    (1, 1, 0.001): (1.5941988066, 0.0071190298, 0.7592012970, 0.0053717898),
    (2, 3, 0.01): (0.3015581646, 0.0534033291, 0.0896088197, 0.0215579970),
}


@pytest.mark.parametrize("name", ["relu", "tanh"])
@pytest.mark.parametrize("point", RIDGE)
def test_random_features_to_ten_digits(name: str, point: tuple[float, float, float]) -> None:
    psi, alpha, ridge = point
    curve = dl.solve(
        dl.replace(
            RANDOM_FEATURES,
            {
                "target.formula": f"{name}(z)",
                "student.layers": [{"activation": name, "width_ratio": psi}],
                "loss.ridge_per_sample": ridge,
                "grid.sample_ratio": [alpha],
            },
        )
    )
    expected = RIDGE[point][:2] if name == "relu" else RIDGE[point][2:]
    assert float(curve["test_mse"][0]) == pytest.approx(expected[0], abs=6e-11)
    assert float(curve["train_mse"][0]) == pytest.approx(expected[1], abs=6e-11)


def test_interpolation_peak_sits_at_width() -> None:
    problem = dl.replace(
        RANDOM_FEATURES,
        {"loss.ridge_per_sample": 1e-6, "student.layers.0.width_ratio": 1.5, "grid.sample_ratio": [1.0, 1.5, 2.0]},
    )
    curve = dl.solve(problem)
    errors = np.asarray(curve["test_mse"])
    assert float(curve["interpolation_threshold"]) == 1.5
    assert errors[1] > 30 * errors[[0, 2]].max()
    assert float(curve["train_mse"][0]) < 1e-9 < 1e-3 < float(curve["train_mse"][2])


@pytest.mark.parametrize(("psi", "alpha"), [(1.3, 0.8), (0.6, 2.5), (2.0, 0.4)])
def test_closed_forms_are_marchenko_pastur_averages(psi: float, alpha: float) -> None:
    """The deterministic equivalent, written down with the law x of W W^T/d: om = mu1^2 x + mu*^2, Lambda = k lambda."""
    mu1, mustar2, c1, vary, penalty = 0.6, 0.15, 0.7, 1.1, 0.05
    fit = ridge_fit(random_layer(psi, mu1, mustar2), alpha, penalty * alpha / psi, (0.0, vary, c1))
    z = fit.z

    def average(f: object) -> float:
        return marchenko_pastur_expectation(f, psi)  # type: ignore[arg-type]

    def om(x: np.ndarray) -> np.ndarray:
        return mu1**2 * x + mustar2

    assert z == pytest.approx(penalty + z * psi / alpha * average(lambda x: om(x) / (om(x) + z)), rel=1e-12)
    assert fit.df == pytest.approx(psi / alpha * average(lambda x: (om(x) / (om(x) + z)) ** 2), rel=1e-11)
    amplitude = mu1**2 * c1**2 * psi
    bias = vary - 2 * amplitude * average(lambda x: x / (om(x) + z))
    bias += amplitude * average(lambda x: x * om(x) / (om(x) + z) ** 2)
    assert fit.squared_bias == pytest.approx(bias, rel=1e-11)
    assert fit.test == pytest.approx(bias / (1.0 - fit.df), rel=1e-11)
    assert fit.train == pytest.approx((penalty / z) ** 2 * fit.test, rel=1e-13)


def test_closed_forms_solve_the_iterated_equations() -> None:
    """The map of the channel and the prior side rests at the closed form, for a spectrum under two layers too."""
    layers = [{"activation": "relu", "width_ratio": 1.4}, {"activation": "tanh", "width_ratio": 0.6}]
    for depth in range(3):
        student = {"kind": "features", "layers": layers[:depth]} if depth else {"kind": "linear"}
        problem = dl.problem(
            data={"spectrum": {"exponent": 0.7, "levels": 30}},
            target={"kind": "index", "formula": "tanh(2*z) + 0.3*n1", "power": {"exponent": 0.4}}, student=student,
            loss={"ridge": 0.02}, algorithm={"kind": "minimise"}, grid={"sample_ratio": [0.3, 1.7]},
        )  # fmt: skip
        system = dl.derive(problem)
        flow = system.evolution()
        for point in system.points():
            step = flow.step(point.x, point.alpha, point.ridge)
            np.testing.assert_allclose(step, point.x, atol=1e-12 * (1.0 + np.max(np.abs(point.x))))


def test_features_without_a_linear_part_learn_the_mean_only() -> None:
    problem = dl.replace(
        RANDOM_FEATURES,
        {"student.layers.0.activation": "abs(x)", "target.formula": "z + 0.5", "loss.ridge_per_sample": 1e3},
    )  # fmt: skip
    curve = dl.solve(problem)
    # The features are noise with a mean: nothing of z is seen, the constant of the labels is.
    assert curve["m"].values == pytest.approx(np.zeros(4), abs=1e-15)
    assert curve["bias"].values == pytest.approx(np.full(4, 0.5), rel=1e-12)
    assert curve["test_mse"].values == pytest.approx(np.ones(4), abs=1e-3)
    assert float(curve["label_variance"]) == pytest.approx(1.0, rel=1e-12)
    # Other losses than the square see the same: no field, whatever the ridge.
    signs = {"target.formula": "sign(z)", "loss": {"function": "logistic", "ridge": 0.1}}
    assert dl.solve(dl.replace(problem, signs))["classification_error"].values == pytest.approx(np.full(4, 0.5))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"loss.ridge_per_sample": 0.0}, "ridge_per_sample"),
        ({"student.layers.0.width_ratio": -1.0}, "width_ratio"),
        ({"student.layers.0.activation": "reul"}, "relu"),
    ],
)
def test_bad_values_are_refused_with_a_reason(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dl.replace(RANDOM_FEATURES, overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize("activation", ["erf", "relu", "tanh(x) + 0.3*x**3"])
@pytest.mark.parametrize(("phi", "width", "variance"), [(0.5, 0.4, 1.0), (1.3, 2.0, 0.3)])
def test_tangent_features_are_the_tangent_kernel(activation: str, phi: float, width: float, variance: float) -> None:
    """One layer of features with a readout variance is the theory `ntk-ridge`, by the closed form and by the map."""
    common = {
        "target": {"kind": "index", "formula": "1.3*z", "noise": 0.5}, "loss": {"function": "square", "ridge": 0.025},
        "algorithm": {"kind": "minimise"},
    }  # fmt: skip
    kernel = dl.solve(dl.problem(
        **common, data={"kind": "gaussian", "sample_ratio": 1 / phi}, grid={"width_ratio": [width]},
        student={"kind": "features", "layers": [{"activation": activation}], "readout_variance": variance},
    ))  # fmt: skip
    layer = {"activation": activation, "width_ratio": width / phi}
    problem = dl.problem(
        **common, student={"kind": "features", "layers": [layer], "readout_variance": variance},
        grid={"sample_ratio": [1 / phi]},
    )  # fmt: skip
    assert problem.theory == "estimation"
    curve = dl.solve(problem)
    for name in ("test_mse", "train_mse"):
        assert float(curve[name][0]) == pytest.approx(float(kernel[name][0]), rel=1e-12)
    flow = dl.derive(problem).evolution()  # type: ignore[attr-defined]
    flow.direct = False
    point = flow.solve(1 / phi, 0.025)
    assert 2.0 * point.averages.test == pytest.approx(float(kernel["test_mse"][0]), rel=1e-11)
    assert pytest.approx(float(curve["V"][0]), rel=1e-11) == point.V


def test_features_that_pass_their_inputs_on_are_those_of_drawn_weights() -> None:
    """g and h of units beside inputs on two levels, against covariances of 300 inputs and drawn weights."""
    from dimladder.theories.estimation.spectrum import spectrum, tangent

    d, psi, rng = 300, 1.4, np.random.default_rng(3)
    base = spectrum([0.25, 0.75], [2.5, 0.5], [0.7, 0.3])
    law = tangent(base, "relu", psi, 0.6)
    layer = law.layers[0]
    om = np.repeat(base.eigenvalues, (base.shares * d).astype(int))
    c = np.sqrt(np.repeat(base.powers / (base.shares * d), (base.shares * d).astype(int)))
    found = []
    for _ in range(4):
        w = rng.standard_normal((round(psi * d), d)) / np.sqrt(d)
        rows = np.concatenate([np.sqrt(layer.a[0]) * w, np.sqrt(layer.passed) * np.eye(d)])
        noise = np.concatenate([np.full(len(w), layer.b[0]), np.zeros(d)])
        covariance = (rows * om) @ rows.T + np.diag(noise)
        values, vectors = np.linalg.eigh(covariance)
        # Cov(x, z) sqrt(d) has the squared entries `powers`, spread over the level.
        along = vectors.T @ (rows @ (c * rng.choice([-1.0, 1.0], d)))
        found.append([[np.mean(values / (values + z)), np.sum(along**2 / (values + z))] for z in (0.02, 0.4, 5.0)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / 2.0
    expected = np.array([[law.resolvents(z)[k] for k in (0, 2)] for z in (0.02, 0.4, 5.0)])
    assert np.max(np.abs(mean - expected) / (error + 1.0 / d * expected)) < 5.0
    h = 1e-5
    for z in (0.02, 0.4, 5.0):
        up, down = law.resolvents(z * (1 + h)), law.resolvents(z * (1 - h))
        for k in (0, 2):
            assert law.resolvents(z)[k + 1] == pytest.approx((up[k] - down[k]) / (2 * h * z), rel=1e-7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"student.layers": [{"activation": "relu", "width_ratio": 1.0}] * 2}, "one layer"),
        ({"loss.ridge": None, "loss.ridge_per_sample": 0.1}, "summed loss"),
    ],
)
def test_tangent_features_refuse_what_has_no_meaning(change: dict[str, object], words: str) -> None:
    base = dl.problem(
        target={"kind": "index", "formula": "z"},
        student={"kind": "features", "layers": [{"activation": "relu", "width_ratio": 1.0}], "readout_variance": 0.5},
        loss={"function": "square", "ridge": 0.1}, algorithm={"kind": "minimise"},
        grid={"sample_ratio": [1.0]},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=words):
        dl.replace(base, change)


def test_a_penalty_so_strong_that_no_sample_reaches_the_kink() -> None:
    """Hinge, all fields far below 1: w is the sum of y_i b_i over the ridge, whatever V^ underflows to."""
    layer = {"activation": "tanh", "width_ratio": 1.2}
    for ridge in (20.0, 1e3, 1e6):
        curve = dl.solve(dl.problem(
            target={"kind": "index", "formula": "sign(z + 0.4*n1)"}, student={"kind": "features", "layers": [layer]},
            loss={"function": "hinge", "ridge": ridge}, algorithm={"kind": "minimise"},
            grid={"sample_ratio": [0.5, 8.0]},
        ))  # fmt: skip
        law = dl.derive(dl.problem(
            target={"kind": "index", "formula": "z"}, student={"kind": "features", "layers": [layer]},
            loss={"function": "square", "ridge": 1.0}, algorithm={"kind": "minimise"}, grid={"sample_ratio": [1.0]},
        )).question.covariance  # type: ignore[attr-defined]  # fmt: skip
        # E y z = sqrt(2/pi)/sqrt(1 + 0.4^2); sum of T is z h(z) at large z.
        slope = np.sqrt(2 / np.pi / 1.16)
        power = 1e9 * law.resolvents(1e9)[2]
        expected = np.array([0.5, 8.0]) / law.psi * slope * power / ridge
        np.testing.assert_allclose(curve["m"], expected, rtol=2e-2 if ridge == 20.0 else 1e-8)


def _files(folder: Path, **arrays: Any) -> dict[str, str]:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {name: str(folder / f"{name}.npy") for name in arrays}


def _triple() -> dict[str, Any]:
    """Features b = B a + 0.4 xi of teacher features a ~ N(0, psi)."""
    rng = np.random.default_rng(0)
    B, psi = rng.normal(size=(60, 40)) / math.sqrt(40), np.diag(rng.uniform(0.3, 2.0, 40))
    omega = B @ psi @ B.T + 0.16 * np.eye(60)
    return {"omega": omega, "phi": psi @ B.T, "psi": psi, "teacher": rng.normal(size=40)}


def _from_files(files: dict[str, str], **loss: float) -> Any:
    return dl.problem(
        theory="estimation", target={"kind": "index", "formula": "z + 0.5*n1"}, loss=loss,
        student={"kind": "features", "covariances": files}, algorithm={"kind": "minimise"},
        grid={"sample_ratio": [3.0]},
    )  # fmt: skip


def test_covariances_of_files_against_ridge_on_drawn_features(tmp_path: Path) -> None:
    triple = _triple()
    omega, phi, psi, theta = triple.values()
    rng, n, ridge = np.random.default_rng(1), 120, 0.3
    errors = []
    for _ in range(200):
        a = rng.normal(size=(n, 40)) @ np.sqrt(psi)
        noise = rng.normal(size=(n, 60)) @ np.linalg.cholesky(omega - phi.T @ np.linalg.solve(psi, phi)).T
        b = (a @ np.linalg.solve(psi, phi) + noise) / math.sqrt(60)
        y = a @ theta / math.sqrt(40) + 0.5 * rng.normal(size=n)
        w = np.linalg.solve(b.T @ b + ridge * np.eye(60), b.T @ y) / math.sqrt(60)
        errors.append(w @ omega @ w - 2 * theta @ phi @ w / math.sqrt(40) + theta @ psi @ theta / 40)
    curve = dl.solve(_from_files(_files(tmp_path, **triple), ridge=ridge))
    # Forty dimensions leave 1/d of the error: a wrong factor 40/60 would be 20 %.
    assert float(curve["mse"][0]) == pytest.approx(np.mean(errors), rel=0.025)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("omega", lambda m: -m, "not positive semidefinite"),
        ("omega", lambda m: m + np.triu(np.ones_like(m)), "not symmetric"),
        ("phi", lambda m: 5 * m, "must be positive semidefinite"),
        ("omega", lambda m: np.float64(2.0), "do not fit"),
        ("teacher", lambda m: np.nan * m, "not finite"),
        ("teacher", lambda m: 0 * m, "the target is zero"),
        ("psi", lambda m: m.astype(str), "student.covariances.psi"),
    ],
)
def test_covariances_that_are_none_are_refused(tmp_path: Path, name: str, change: Any, words: str) -> None:
    triple = _triple()
    files = _files(tmp_path, **{**triple, name: change(triple[name])})
    if name == "psi":
        (tmp_path / "psi.npy").write_text("words")
    with pytest.raises(dl.ConfigError, match=words):
        _from_files(files, ridge=0.3)
