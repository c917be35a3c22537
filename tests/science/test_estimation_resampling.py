"""Two fits of one data set: bootstrap, subsamples, fresh samples; fits of random labels; the norm of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import DimladderError
from dimladder.theories.estimation.channel import Loss
from dimladder.theories.estimation.labels import label_law
from dimladder.theories.estimation.minimiser import StateEvolution
from dimladder.theories.estimation.penalty import RidgeSide
from dimladder.theories.estimation.resampling import Pair, ResampledChannel, weight_law
from dimladder.theories.estimation.spectrum import spectrum

NOISY = {"kind": "index", "formula": "sign(z + 0.4*n1)"}


def curve(resampling: dict[str, Any], loss: dict[str, Any], target: dict[str, Any], ratio: float, **more: Any) -> Any:
    sections: dict[str, Any] = {"student": {"kind": "linear"}, **more}
    problem = dl.problem(
        target=target,
        loss=loss,
        algorithm={"kind": "bagging" if resampling else "minimise", **resampling},
        grid={"sample_ratio": [ratio]},
        **sections,
    )
    return dl.solve(problem).dataset


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_a_subsample_is_a_smaller_data_set(loss: str) -> None:
    part = curve({"resampling": "subsample", "fraction": 0.4}, {"function": loss, "ridge": 0.2}, NOISY, 2.5)
    whole = curve({}, {"function": loss, "ridge": 0.2}, NOISY, 1.0)
    for name in ("V", "q", "m", "classification_error", "test_loss", "weight_norm"):
        assert float(part[name][0]) == pytest.approx(float(whole[name][0]), rel=1e-9)
    # A sample of the data set is in the fit with that probability, and else a fresh one.
    mixed = 0.4 * float(whole["train_loss"][0]) + 0.6 * float(whole["test_loss"][0])
    assert float(part["train_loss"][0]) == pytest.approx(mixed, rel=1e-9)


def test_fits_of_fresh_samples_share_the_target_only() -> None:
    for loss in ("logistic", "square"):
        found = curve({"resampling": "fresh"}, {"function": loss, "ridge": 0.2}, NOISY, 1.7)
        # Isotropic inputs: what is not along w* is independent.
        assert float(found["pair_overlap"][0]) == pytest.approx(float(found["m"][0]) ** 2, rel=1e-9)


def test_many_draws_are_the_data_set_itself() -> None:
    target = {"kind": "index", "formula": "z", "noise": 0.5}
    many = curve({"resampling": "bootstrap", "fraction": 4000.0}, {"ridge": 0.3 * 4000.0}, target, 2.0)
    one = curve({}, {"ridge": 0.3}, target, 2.0)
    assert float(many["q"][0]) == pytest.approx(float(one["q"][0]), rel=1e-3)
    assert 0.0 < float(many["resampling_variance"][0]) < 1e-3


@pytest.mark.parametrize("ratio", [0.8, 2.0])
def test_the_best_ensemble_of_ridgeless_subsamples_is_the_best_ridge(ratio: float) -> None:
    """LeJeune, Javadi & Baraniuk 2020; Patil & Du 2023: for any spectrum, at the fraction that is best."""
    from scipy.optimize import minimize_scalar

    target = {"kind": "index", "formula": "z", "noise": 0.5}
    data = {"kind": "gaussian", "spectrum": {"variances": [1.6, 0.4], "fractions": [0.5, 0.5]}}

    def risk(fraction: float) -> float:
        few = {"resampling": "subsample", "fraction": fraction}
        return float(curve(few, {"ridge": 1e-7}, target, ratio, data=data)["bagged_mse"][0])

    found = minimize_scalar(risk, bounds=(0.02, min(0.99, 0.97 / ratio)), method="bounded", options={"xatol": 1e-4})
    best = curve({}, {"ridge": "optimal", "optimise": "mse"}, target, ratio, data=data)
    assert found.fun == pytest.approx(float(best["mse"][0]), rel=1e-7)


def state(formula: Any, loss: str, kind: str, fraction: float) -> tuple[Any, Pair, Any]:
    """A point of a fit of resampled data at sample_ratio 2, its pair, and its label law."""
    weights, chances = weight_law(kind, fraction)
    law, form = label_law(formula, text="y"), Loss(loss, loss)
    covariance = spectrum(np.array([0.5, 0.5]), np.array([1.5, 0.5]))
    channel = ResampledChannel(form, law, covariance.rho, weights, chances)
    point = StateEvolution(channel, RidgeSide(covariance), covariance.rho).solve(2.0, 0.4)
    return point, Pair(kind, form, law, covariance, weights, chances), law


def test_the_average_over_residuals_is_the_closed_form_of_the_square_loss() -> None:
    import sympy as sp

    z, n = sp.symbols("z n1", real=True)
    formula = 2 * z + sp.Rational(1, 2) * n
    point, closed, _ = state(formula, "0.5*(f - y)**2", "bootstrap", 1.0)
    # A Huber loss whose corner no residual reaches, by quadrature.
    _, numeric, _ = state(formula, "huber(y - f, 60.0)", "bootstrap", 1.0)
    q12 = closed.overlap(point)
    assert numeric.force(point, q12) == pytest.approx(closed.force(point, q12), rel=1e-9)
    assert 0.1 * point.q < q12 < 0.95 * point.q


def test_what_two_fits_share_against_sampling() -> None:
    """E f_1 f_2 of the hinge loss, forces in closed form, fields and weights drawn."""
    import sympy as sp

    z, n = sp.symbols("z n1", real=True)
    point, pair, _ = state(sp.sign(z + sp.Rational(2, 5) * n), "relu(1 - y*f)", "bootstrap", 1.0)
    q12 = pair.overlap(point)
    rng = np.random.default_rng(3)
    count = 2_000_000
    common = np.sqrt(q12) * rng.standard_normal(count)
    latent = point.m / q12 * common + np.sqrt(1.0 - point.m**2 / q12) * rng.standard_normal(count)
    y = np.sign(latent + 0.4 * rng.standard_normal(count))
    product = np.ones(count)
    for _ in range(2):
        margin = y * (common + np.sqrt(point.q - q12) * rng.standard_normal(count))
        # p max(0, 1 - yu): the proximal point moves by p V, but not beyond the corner.
        product *= np.clip((1.0 - margin) / point.V, 0.0, rng.poisson(1.0, count))
    error = float(product.std() / np.sqrt(count))
    assert abs(float(product.mean()) - pair.force(point, q12)) < 4.0 * error
    # Weights in common would be seen.
    assert point.averages.ff > pair.force(point, q12) + 50.0 * error


@pytest.mark.parametrize("resampling", ["bootstrap", "fresh"])
def test_fits_of_drawn_data_agree(resampling: str) -> None:
    from dimladder_validation import simulate

    problem = dl.problem(
        data={"kind": "gaussian", "spectrum": {"variances": [1.6, 0.4], "fractions": [0.5, 0.5]}},
        target=NOISY, student={"kind": "linear"}, loss={"function": "logistic", "ridge": 0.2},
        algorithm={"kind": "bagging", "resampling": resampling}, grid={"sample_ratio": [2.0]},
    )  # fmt: skip
    theory, found = dl.solve(problem).dataset, simulate(problem, d=160, replicas=24, seed=5).dataset
    for name in ("q", "m", "weight_norm", "pair_overlap", "resampling_variance"):
        gap = abs(float(found[name].squeeze()) - float(theory[name][0]))
        assert gap < 4.0 * float(found[f"{name}_se"].squeeze()) + 0.5 / 160 * float(theory["q"][0]), name
    # The half of q that two fits do not share is far outside of that.
    spread = float(theory["resampling_variance"][0])
    assert spread > 20.0 * float(found["resampling_variance_se"].squeeze())


def test_random_labels_are_separable_up_to_two_samples_a_dimension() -> None:
    found = curve({}, {"function": "logistic", "ridge": 0.1}, {"kind": "index", "formula": "sign(n1)"}, 1.5)
    assert float(found["separability_threshold"]) == pytest.approx(2.0, abs=1e-9)
    assert float(found["m"][0]) == 0.0
    noise = curve({}, {"ridge": 0.5}, {"kind": "index", "formula": "n1"}, 2.0)
    # 0.5/z + 1/(1 + z) = 2.
    zeta = float(np.roots([2.0, 0.5, -0.5]).max())
    assert float(noise["effective_ridge"][0]) == pytest.approx(zeta, rel=1e-10)


@pytest.mark.parametrize(
    "student", [{"kind": "linear"}, {"kind": "features", "layers": [{"activation": "relu", "width_ratio": 1.4}]}]
)
def test_the_norm_is_the_slope_of_the_least_objective(student: dict[str, Any]) -> None:
    """d/d ridge of the minimum of sum l + (ridge/2)|w|^2 is |w|^2/2."""
    psi, alpha, step = (1.4 if "layers" in student else 1.0), 1.3, 2e-4

    def least(ridge: float) -> tuple[float, float]:
        found = curve({}, {"function": "logistic", "ridge": ridge}, NOISY, alpha, student=student)
        norm = float(found["weight_norm"][0])
        return alpha / psi * float(found["train_loss"][0]) + 0.5 * ridge * norm, norm

    slope = (least(0.2 + step)[0] - least(0.2 - step)[0]) / (2 * step)
    assert slope == pytest.approx(0.5 * least(0.2)[1], rel=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "loss", "words"),
    [
        ({"resampling": "fresh", "fraction": 0.5}, {"ridge": 0.1}, "fraction belongs to"),
        ({"resampling": "subsample"}, {"ridge": 0.1}, "must be below 1"),
        ({"resampling": "bootstrap"}, {"ridge": 0.1, "penalty": "l1"}, "l2 penalty"),
        ({"resampling": "bootstrap"}, {"ridge": 0.1, "function": "huber(y - f, 1.0)"}, "two fits of one data set"),
    ],
)
def test_what_two_fits_do_not_answer(algorithm: dict[str, Any], loss: dict[str, Any], words: str) -> None:
    with pytest.raises(DimladderError, match=words):
        curve(algorithm, loss, {"kind": "index", "formula": "tanh(2*z)"}, 1.0)
