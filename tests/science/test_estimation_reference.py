"""The estimation engine against values computed independently, at two panel widths that agree to 1e-12.

Order of the tuples: V q m qh mh Vh.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.theories.estimation.minimiser import Point

# Printed to 12 digits; the fixed point is solved to 1e-12 in logarithms, which a response near 20 amplifies.
RTOL = 1e-10
OUTLIERS = {
    "formula": f"z + {math.sqrt(0.1)!r}*n1",
    "outliers": {"probability": 0.3, "formula": f"{math.sqrt(5)!r}*n1"},
}
POWER_LAW = {"spectrum": {"exponent": 0.2, "levels": 400}}


def ask(target: dict[str, Any], loss: dict[str, Any], ratio: float, **sections: Any) -> Any:
    given = {"student": {"kind": "linear"}, "algorithm": {"kind": "minimise"}, **sections}
    return dl.problem(target={"kind": "index", **target}, loss=loss, grid={"sample_ratio": [ratio]}, **given)


def point(problem: Any) -> tuple[Point, dict[str, float]]:
    system = dl.derive(problem)
    found = system.points()[0]
    assert isinstance(found, Point)
    return found, system.read(found)


CASES = {
    "ridge, two blocks": (
        ask({"formula": "z + 0.2*n1", "power": [2 / 3, 1 / 3], "overlap": [[0.875]]}, {"ridge": 0.1}, 1.0,
            data={"spectrum": {"fractions": [0.5, 0.5], "variances": [1.5, 0.5]}}),
        (2.39546131497, 0.632454573890, 0.686008882510, 0.0152167934421, 0.294510791683, 0.294510791683),
        {"train_loss": 0.00760839672107, "mse": 0.135436808870},
    ),
    "ridge, power law": (
        ask({"formula": "z + 0.3*n1", "power": {"exponent": 0.6}}, {"ridge": 0.1}, 1.0, data=POWER_LAW),
        (1.05028885971, 1.00722186515, 0.980632625058, 0.0323422507103, 0.487736152525, 0.487736152525),
        {"train_loss": 0.0161711253552, "mse": 0.0459566150390},
    ),
    "huber, outliers": (
        ask(OUTLIERS, {"function": "huber(y - f, 1.0)", "ridge": 0.3}, 2.0),
        (0.811031511004, 0.797764838272, 0.609436469847, 0.648175895295, 0.751433774864, 0.932997715172),
        {"train_loss": 0.356514153842, "mse": 0.578891898578},
    ),
    "abs, outliers": (
        ask(OUTLIERS, {"function": "abs", "ridge": 0.3}, 2.0),
        (0.549580724965, 0.961462924884, 0.728271612548, 1.42724423474, 1.32514038333, 1.51956890876),
        {"train_loss": 0.588148023775, "mse": 0.504919699788},
    ),
    "logistic, probit teacher": (
        ask({"formula": "sign(z + 0.5*n1)"}, {"function": "logistic", "ridge": 1.0}, 2.0),
        (0.722927129803, 0.341822964416, 0.439580230134, 0.284319681965, 0.608056070954, 0.383265281901),
        {"train_loss": 0.465839978491, "classification_error": 0.265226998178},
    ),
    "lasso": (
        ask({"formula": "z + 0.2*n1", "prior": {"kind": "gauss-bernoulli", "rate": 0.2}},
            {"penalty": "l1", "ridge": 0.5}, 0.75),
        (0.360460379082, 0.539984710562, 0.692503170364, 0.0790088793543, 0.551283970876, 0.551283970876),
        {"train_loss": 0.0526725862362, "mse": 0.154978369834},
    ),
    "elastic net": (
        ask({"formula": "z + 0.2*n1", "prior": {"kind": "gauss-bernoulli", "rate": 0.2}},
            {"penalty": "abs(w) + 0.2*w**2", "ridge": 0.5}, 0.75),
        (0.368424180701, 0.311901888788, 0.509761019473, 0.133123421482, 0.548075670233, 0.548075670233),
        {"train_loss": 0.0887489476547, "mse": 0.292379849841},
    ),
    "two tanh layers, logistic": (
        ask({"formula": "sign(z + 0.3*n1)"}, {"function": "logistic", "ridge": 0.02}, 1.0,
            student={"kind": "features", "layers": [{"activation": "tanh", "width_ratio": 1.5},
                                                    {"activation": "tanh", "width_ratio": 0.8}]}),
        (4.42902444630, 2.82524153707, 0.770309644950, 0.0540999457069, 0.169544965551, 0.0709184892756),
        {"train_loss": 0.259668164194, "classification_error": 0.355347211963},
    ),
    "hinge": (
        ask({"formula": "sign(z)"}, {"function": "hinge", "ridge": 0.1}, 3.0),
        (1.36267581322, 5.01110583522, 2.02505105749, 0.490215531631, 1.48608424531, 0.633850260127),
        {"train_loss": 0.0449782610719, "classification_error": 0.140150036974},
    ),
    "logistic teacher, power law": (
        ask({"formula": "logit(3*z)", "power": {"exponent": 0.3}}, {"function": "logistic", "ridge": 0.05}, 2.0,
            data={"spectrum": {"exponent": -0.2, "levels": 400}}),
        (4.82834503513, 9.75920502958, 2.67647705721, 0.0935335924021, 0.370089971761, 0.117904941058),
        {"train_loss": 0.184730900470, "classification_error": 0.233817684178},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_minimisers_to_their_digits(name: str) -> None:
    problem, expected, observables = CASES[name]
    found, read = point(problem)
    assert (found.V, found.q, found.m, found.qh, found.mh, found.Vh) == pytest.approx(expected, rel=RTOL)
    for key, value in observables.items():
        assert read[key] == pytest.approx(value, rel=RTOL), key


def test_states_that_a_plain_iteration_finds() -> None:
    """Found outside the library by damped iteration: nodes split at the kink, and dense grids with bisection."""
    target = {"formula": "sign(z + 0.45*n1)", "flip": 0.07}
    found, _ = point(ask(target, {"function": "relu(1 - y*f)**2", "ridge": 0.2}, 1.3))
    assert (found.V, found.q, found.m) == pytest.approx((1.5738933097650, 1.4765194867602, 0.6759834912024), rel=1e-11)
    found, _ = point(ask({"formula": "logit(1.8*z)"}, {"function": "logistic", "ridge": 0.15}, 2.7))
    assert (found.V, found.q, found.m) == pytest.approx((2.1463303740829, 2.6613748737579, 1.1738016821141), rel=1e-11)


def test_units_under_an_uncentred_layer_differ() -> None:
    layers = [{"activation": "relu", "width_ratio": 1.5}, {"activation": "relu", "width_ratio": 0.8}]
    problem = ask({"formula": "sign(z + 0.3*n1)"}, {"function": "logistic", "ridge": 0.02}, 1.0,
                  student={"kind": "features", "layers": layers})  # fmt: skip
    found, read = point(problem)
    assert (found.V, found.q, found.m) == pytest.approx((3.12225784, 1.47488509, 0.364933987), rel=2e-9)
    assert (read["train_loss"], read["classification_error"]) == pytest.approx((0.333917459, 0.407069293), rel=2e-9)
    found, read = point(dl.replace(problem, {"grid.sample_ratio": [3.0]}))
    assert (found.V, found.q, found.m) == pytest.approx((1.55168078, 1.85793987, 0.589606379), rel=5e-9)


def test_one_relu_layer_learns_a_constant_for_free() -> None:
    problem = ask({"formula": "sign(z + 0.5)"}, {"function": "logistic", "ridge": 0.05}, 2.0,
                  student={"kind": "features", "layers": [{"activation": "relu", "width_ratio": 1.5}]})  # fmt: skip
    found, read = point(problem)
    assert (found.q, found.m, found.b) == pytest.approx((2.197473, 0.860590, 1.186253), abs=2e-6)
    assert (read["classification_error"], read["train_loss"]) == pytest.approx((0.252691, 0.248799), abs=1e-6)


def test_the_best_ridge() -> None:
    loss = {"function": "logistic", "ridge": "optimal", "optimise": "classification_error"}
    found, read = point(ask({"formula": "sign(z + 0.5*n1)"}, loss, 2.0))
    assert found.ridge == pytest.approx(0.119806070, rel=1e-8)
    assert (found.q, found.m) == pytest.approx((3.310903979, 1.410342240), rel=2e-8)
    assert read["classification_error"] == pytest.approx(0.2561737089, rel=1e-9)
    # Isotropic ridge regression: the noise's variance over the target's.
    found, _ = point(ask({"formula": "z + 0.4*n1"}, {"ridge": "optimal", "optimise": "mse"}, 1.7))
    assert found.ridge == pytest.approx(0.16, rel=1e-8)


def test_calibration_of_a_logistic_fit() -> None:
    _, read = point(ask({"formula": "sign(z + 0.5*n1)"}, {"function": "logistic", "ridge": 1.0}, 2.0))
    assert (read["calibration_error"], read["brier"]) == pytest.approx((0.124036, 0.194956), abs=1e-6)
    assert read["test_loss"] == pytest.approx(0.577374, abs=1e-6)


def test_separability_of_a_noisy_teacher() -> None:
    curve = dl.solve(ask({"formula": "sign(z + 0.5*n1)"}, {"function": "logistic", "ridge": 1.0}, 2.0))
    assert float(curve["separability_threshold"]) == pytest.approx(4.13744349, rel=1e-8)


def bayes(formula: str, prior: Any, ratios: list[float]) -> Any:
    return dl.solve(
        dl.problem(
            target={"kind": "index", "formula": formula, "prior": prior}, student={"kind": "linear"},
            algorithm={"kind": "bayes"}, grid={"sample_ratio": ratios, "start": ["uninformed", "informed"]},
        )
    )  # fmt: skip


SPARSE = {"kind": "gauss-bernoulli", "rate": 0.2}


@pytest.mark.parametrize(
    ("formula", "prior", "ratios", "overlap", "entropy"),
    [
        ("sign(z)", "normal", [0.5, 1.0, 2.0, 5.0], [0.280325734371, 0.486263637016, 0.728298173971, 0.932064245664],
         [-0.321665807611, -0.596441255689, -1.03103815591, -1.81536596034]),
        ("sign(z)", "rademacher", [0.5, 1.0, 1.3, 1.35, 1.45],
         [0.293089030054, 0.560714737095, 0.725870692947, 0.756462910931, 0.828757178743],
         [-0.321014402815, -0.587038912785, -0.714389874483, -0.732547431193, -0.765223917148]),
        ("sign(z + 0.5*n1)", "normal", [1.0, 2.0], [0.390306287475, 0.600830669925], [-0.634346619042, -1.17715401928]),
        ("sign(z)", SPARSE, [0.5, 1.0, 2.0], [0.438246046064, 0.759739421122, 0.941804303094], None),
    ],
)  # fmt: skip
def test_bayes_overlaps_and_free_entropies(
    formula: str, prior: Any, ratios: list[float], overlap: list[float], entropy: list[float] | None
) -> None:
    curve = bayes(formula, prior, ratios)
    assert curve["overlap"].values[0] == pytest.approx(overlap, rel=2e-11)
    if entropy is not None:
        assert curve["free_entropy"].values[0] == pytest.approx(entropy, rel=2e-11)


def test_the_binary_perceptron_is_learnt_at_once() -> None:
    # Gyorgyi 1990: first order at 1.245; spinodal 1.493.
    curve = bayes("sign(z)", "rademacher", [1.35, 1.7])
    weak, spinodal, first = (float(v) for v in curve["threshold"].values)
    assert weak == 0.0
    assert spinodal == pytest.approx(1.49263181823, rel=1e-10)
    assert first == pytest.approx(1.24468398985, rel=1e-10)
    assert curve["overlap"].values[:, 1] == pytest.approx([1.0, 1.0])
    assert curve["overlap"].values[1, 0] == pytest.approx(1.0)
    assert curve["free_entropy"].values[1, 0] == pytest.approx(-math.log(2), rel=1e-12)


def test_phase_retrieval_begins_at_one_half() -> None:
    curve = bayes("abs(z)", "normal", [0.4, 0.8])
    weak, spinodal, _ = (float(v) for v in curve["threshold"].values)
    assert weak == pytest.approx(0.5, rel=1e-12)
    assert spinodal == pytest.approx(1.12847141, rel=1e-8)
    assert curve["overlap"].values[0, 0] == 0.0


def test_weak_recovery_of_a_window() -> None:
    curve = bayes("sign(abs(z) - 1)", "normal", [0.5])
    assert float(curve["threshold"].values[0]) == pytest.approx(0.924958039259, rel=1e-11)


def test_compressed_sensing_spinodal() -> None:
    curve = bayes("z + 0.0001*n1", {"kind": "gauss-bernoulli", "rate": 0.1}, [0.3])
    assert float(curve["threshold"].values[1]) == pytest.approx(0.20755909, rel=1e-8)


def test_no_minimiser_beats_the_bayes_error() -> None:
    optimal = float(bayes("sign(z + 0.5*n1)", "normal", [2.0])["classification_error"].values[0, 0])
    loss = {"function": "logistic", "ridge": "optimal", "optimise": "classification_error"}
    best = float(dl.solve(ask({"formula": "sign(z + 0.5*n1)"}, loss, 2.0))["classification_error"].values[0])
    assert 0.0 < best - optimal < 1e-4
    assert optimal == pytest.approx(0.2561562044, rel=1e-9)


def test_halving_the_panels_changes_nothing() -> None:
    for name in ("huber, outliers", "logistic, probit teacher", "hinge", "lasso"):
        system = dl.derive(CASES[name][0])
        values = [
            system.evolution(f).solve(system.question.ratios[0], system.ridge_at(system.question.ratios[0]))
            for f in (1.0, 2.0)
        ]
        assert np.array([values[0].V, values[0].q, values[0].m]) == pytest.approx(
            np.array([values[1].V, values[1].q, values[1].m]), rel=2e-11
        ), name


def test_posteriors_to_their_digits() -> None:
    import sympy as sp

    from dimladder.theories.estimation.channel import Loss
    from dimladder.theories.estimation.labels import label_law
    from dimladder.theories.estimation.minimiser import StateEvolution
    from dimladder.theories.estimation.penalty import RidgeSide
    from dimladder.theories.estimation.posterior import posterior_channel
    from dimladder.theories.estimation.spectrum import spectrum

    problem = ask({"formula": "sign(z + 0.5*n1)"}, {"function": "logistic", "ridge": 1.0}, 2.0,
                  algorithm={"kind": "posterior", "temperature": 1.0})  # fmt: skip
    found, read = point(problem)
    expected = (0.742561304904, 0.373326931760, 0.457904660627, 0.296791906754, 0.616655699136, 0.346690156618)
    assert (found.V, found.q, found.m, found.qh, found.mh, found.Vh) == pytest.approx(expected, rel=RTOL)
    assert read["log_loss"] == pytest.approx(0.585593469682, rel=RTOL)
    assert read["classification_error"] == pytest.approx(0.266161337114, rel=RTOL)
    assert 0.0 < read["replicon"] < 0.1
    # A probit likelihood that is wider than the truth.
    z, n, f, y = sp.symbols("z n1 f y", real=True)
    probit = Loss("probit", -sp.log((1 + sp.erf(y * f / (sp.Rational(3, 2) * sp.sqrt(2)))) / 2))
    channel = posterior_channel(probit, label_law(sp.sign(z + n / 2), text="probit"), 1.0, 1.0)
    found = StateEvolution(channel, RidgeSide(spectrum([1.0], [1.0])), 1.0).solve(2.0, 1.0)
    expected = (0.716813436072, 0.404495534766, 0.478754986968, 0.341148037776, 0.667893433459, 0.395063135926)
    assert (found.V, found.q, found.m, found.qh, found.mh, found.Vh) == pytest.approx(expected, rel=RTOL)
    assert found.averages.loss == pytest.approx(0.575519553046, rel=RTOL)


def test_a_gaussian_posterior_has_the_minimiser_as_its_mean() -> None:
    sections: dict[str, Any] = {"data": {"spectrum": {"fractions": [0.3, 0.7], "variances": [2.0, 0.5]}}}
    target, loss = {"formula": "z + 0.5*n1"}, {"function": "square", "ridge": 0.4}
    fit, _ = point(ask(target, loss, 1.5, **sections))
    mean, _ = point(ask(target, loss, 1.5, algorithm={"kind": "posterior", "temperature": 0.3}, **sections))
    assert (mean.q, mean.m) == pytest.approx((fit.q, fit.m), rel=1e-10)
    assert pytest.approx(0.3 * fit.V, rel=1e-10) == mean.V


def test_spectral_estimator_of_phase_retrieval() -> None:
    problem = dl.problem(
        target={"kind": "index", "formula": "z**2"}, student={"kind": "linear"}, algorithm={"kind": "spectral"},
        grid={"sample_ratio": [0.45, 0.6, 1.0, 2.0]},
    )  # fmt: skip
    curve = dl.solve(problem)
    assert curve["overlap"].values == pytest.approx([0.0, 0.0423275666, 0.2306970438, 0.6388812781], abs=1e-9)
    assert float(curve["threshold"]) == pytest.approx(0.5, rel=1e-12)
    # The optimal preprocessing beats a bounded one, and neither beats the posterior.
    noisy = dl.replace(problem, {"target.formula": "z**2 + 0.3*n1", "grid.sample_ratio": [2.0]})
    optimal = float(dl.solve(noisy)["overlap"].values[0])
    clipped = dl.replace(noisy, {"algorithm.preprocessing": "min(max(y, -1), 3)"})
    assert 0.0 < float(dl.solve(clipped)["overlap"].values[0]) < optimal


@pytest.mark.parametrize(
    ("formula", "bias", "threshold"),
    [
        ("sign(z)", False, math.inf),
        ("sign(-z)", True, math.inf),
        ("sign(z**3)", False, math.inf),
        ("sign(z - 0.3)", True, math.inf),
        # Labels that say nothing about the side: Cover's 2.
        ("sign(abs(z) - 1)", False, 2.0),
        ("sign(z + 50)", False, 2.0),
    ],
)
def test_separability_of_noiseless_labels(formula: str, bias: bool, threshold: float) -> None:
    student = {"kind": "linear", "bias": bias}
    curve = dl.solve(ask({"formula": formula}, {"function": "logistic", "ridge": 0.1}, 1.0, student=student))
    assert float(curve["separability_threshold"]) == pytest.approx(threshold, rel=1e-6)
    assert np.isfinite(curve["classification_error"].values).all()
