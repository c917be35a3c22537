"""The estimation engine against minimisers and message passing at finite d, in standard errors; and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError
from dimladder.problem.losses import loss_function
from dimladder_validation import simulate
from dimladder_validation.simulate.estimation.minimise import minimise

MINIMISE: dict[str, Any] = {"student": {"kind": "linear"}, "algorithm": {"kind": "minimise"}}
HUBER = {
    **MINIMISE,
    "target": {"kind": "index", "formula": "tanh(2*z) + 0.3*n1", "outliers": {"probability": 0.2, "formula": "2*n1"}},
    "loss": {"function": "huber(y - f, 0.5)", "ridge": 0.3},
    "data": {"spectrum": {"fractions": [0.5, 0.5], "variances": [1.5, 0.5]}},
    "grid": {"sample_ratio": [0.7, 2.0]},
    "simulation": {"sizes": [120], "replicas": 24},
}
HINGE = {
    **MINIMISE,
    "target": {"kind": "index", "formula": "sign(z + 0.4*n1)", "flip": 0.05},
    "loss": {"function": "hinge", "ridge": 0.5},
    "grid": {"sample_ratio": [1.5]},
    "simulation": {"sizes": [100], "replicas": 24},
}
RELU = {
    "algorithm": {"kind": "minimise"},
    "target": {"kind": "index", "formula": "sign(z + 0.5)"},
    "student": {"kind": "features", "layers": [{"activation": "relu", "width_ratio": 1.5}]},
    "loss": {"function": "logistic", "ridge": 0.05},
    "grid": {"sample_ratio": [2.0]},
    "simulation": {"sizes": [120], "replicas": 24},
}
CUBIC = {
    "algorithm": {"kind": "minimise"},
    "target": {"kind": "index", "formula": "z + 0.4*He3(z)", "noise": 0.3},
    "student": {"kind": "features", "layers": [{"activation": "tanh", "width_ratio": 0.7}]},
    "loss": {"function": "square", "ridge_per_sample": 0.03},
    "grid": {"sample_ratio": [0.4, 2.5]},
    "simulation": {"sizes": [150], "replicas": 24},
}
LASSO = {
    **MINIMISE,
    "target": {"kind": "index", "formula": "z + 0.2*n1 + 0.7", "prior": {"kind": "gauss-bernoulli", "rate": 0.2}},
    "student": {"kind": "linear", "bias": True},
    "loss": {"penalty": "l1", "ridge_per_sample": 0.5},
    "grid": {"sample_ratio": [0.75]},
    "simulation": {"sizes": [200], "replicas": 24},
}
BAYES = {
    "algorithm": {"kind": "bayes"},
    "student": {"kind": "linear"},
    "target": {"kind": "index", "formula": "sign(z + 0.3*n1)", "prior": "rademacher"},
    "grid": {"sample_ratio": [0.8], "start": ["uninformed"]},
    "simulation": {"sizes": [400], "replicas": 24},
}
POSTERIOR = {
    "algorithm": {"kind": "posterior", "temperature": 0.5},
    "student": {"kind": "linear"},
    "target": {"kind": "index", "formula": "sign(z + 0.5*n1)"},
    "loss": {"function": "logistic", "ridge": 0.5},
    "grid": {"sample_ratio": [1.5]},
    "simulation": {"sizes": [60], "replicas": 16},
}
KINKED = {**POSTERIOR, "simulation": {"sizes": [40], "replicas": 12}, "loss": {"function": "hinge", "ridge": 0.5}}
SPECTRAL = {
    "algorithm": {"kind": "spectral"},
    "student": {"kind": "linear"},
    "target": {"kind": "index", "formula": "sign(abs(z) - 1)"},
    "grid": {"sample_ratio": [2.0, 4.0]},
    "simulation": {"sizes": [300], "replicas": 16},
}
TANGENT = {
    "algorithm": {"kind": "minimise"},
    "target": {"kind": "index", "formula": "sign(z + 0.3*n1)"},
    "student": {
        "kind": "features", "layers": [{"activation": "relu", "width_ratio": 1.0}], "readout_variance": 0.5,
    },
    "loss": {"function": "logistic", "ridge": 0.05},
    "grid": {"sample_ratio": [1.2]},
    "simulation": {"sizes": [60], "replicas": 16},
}  # fmt: skip
RECOVERED = {
    "algorithm": {"kind": "bayes"},
    "student": {"kind": "linear"},
    "target": {"kind": "index", "formula": "sign(z)", "prior": "rademacher"},
    "grid": {"sample_ratio": [1.7], "start": ["uninformed", "informed"]},
    "simulation": {"sizes": [800], "replicas": 6},
}
# A finite size shifts means by O(1/d): allowed beside the standard errors, relative to the scale of the variable.
SHIFT = 3.0


def gaps(sections: dict[str, Any], names: tuple[str, ...], **changed: Any) -> float:
    """Largest |simulation - theory| in standard errors widened by SHIFT/d."""
    problem = dl.problem(**sections)
    curve = dl.solve(dl.replace(problem, changed) if changed else problem)
    measured = simulate(problem)
    size = sections["simulation"]["sizes"][0]
    worst = 0.0
    for name in names:
        value, error = measured[name].values[0], measured[f"{name}_se"].values[0]
        theory = curve[name].values
        worst = max(worst, float(np.max(np.abs(value - theory) / np.hypot(error, SHIFT / size * np.abs(theory)))))
    return worst


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        (HUBER, ("V", "q", "m", "mse", "train_loss", "test_loss")),
        (HINGE, ("q", "m", "train_loss", "classification_error")),
        (RELU, ("q", "m", "bias", "train_loss", "classification_error", "brier")),
        (CUBIC, ("test_mse", "train_mse", "q", "m")),
        (LASSO, ("q", "m", "bias", "mse", "train_loss")),
        (BAYES, ("overlap", "mse", "classification_error")),
        (POSTERIOR, ("V", "q", "m", "classification_error")),
        pytest.param(KINKED, ("V", "q", "m", "classification_error"), marks=pytest.mark.nightly),
        (SPECTRAL, ("overlap",)),
        (TANGENT, ("q", "m", "train_loss", "classification_error")),
    ],
    ids=["huber", "hinge", "relu", "cubic", "lasso", "bayes", "posterior", "kinked", "spectral", "tangent"],
)
def test_theory_and_experiment_agree(sections: dict[str, Any], names: tuple[str, ...]) -> None:
    assert gaps(sections, names) < 4.5


def test_message_passing_recovers_all_signs_above_the_spinodal() -> None:
    """An estimate that believes its wrong samples stops at overlaps of 0.96 to 0.98, sure of them."""
    measured = simulate(dl.problem(**RECOVERED))
    assert np.min(measured["overlap"].values) > 0.998


def test_a_wrong_theory_is_seen() -> None:
    # A ridge wrong by a third, and a noise wrong by a half.
    assert gaps(HUBER, ("q", "m", "train_loss"), **{"loss.ridge": 0.4}) > 6.0
    assert gaps(BAYES, ("overlap",), **{"target.formula": "sign(z + 0.6*n1)"}) > 6.0


def test_minimisers_carry_a_certificate() -> None:
    rng = np.random.default_rng(3)
    a, noise = rng.standard_normal((90, 40)) / math.sqrt(40), rng.standard_normal(90)
    y = np.sign(a @ rng.standard_normal(40) + 0.3 * noise)
    for name in ("logistic", "hinge", "quantile(y - f, 0.3)", "exp(-y*f)"):
        loss = loss_function(name)
        fit = minimise(loss, a, y, 0.3)
        assert fit.gap < 1e-9

        def objective(w: np.ndarray, loss: Any = loss) -> float:
            return float(np.sum(loss.evaluate(np, a @ w, y)) + 0.15 * w @ w)

        best = objective(fit.w)
        for _ in range(20):
            assert objective(fit.w + 1e-2 * rng.standard_normal(40)) > best


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"loss.function": "sin(y*f)"}, "loss.function"),
        ({"loss.function": "logistic"}, "target.formula"),
        ({"loss.function": "cross-entropy"}, "loss.function"),
        ({"loss.ridge": 0.0}, "loss.ridge"),
        ({"target.formula": "z1*z2"}, "target.formula"),
        ({"target.formula": "n1", "algorithm": {"kind": "posterior"}}, "target.formula"),
        (
            {"target.formula": "sign(z**2 - 1 + 0.5*n1)", "target.outliers": {"probability": 0.0, "formula": "n1"}},
            "jump",
        ),
        ({"target.flip": 0.1}, "target.flip"),
        ({"grid.start": ["informed"]}, "grid.start"),
        ({"target.prior": "rademacher", "loss.penalty": "l1"}, "target.prior"),
        ({"target.power": [1.0, 2.0, 3.0]}, "power"),
    ],
)
def test_refusals_say_where(changed: dict[str, Any], path: str) -> None:
    sections = {**HUBER, "theory": "estimation"}
    del sections["simulation"]
    with pytest.raises(ConfigError, match=path.replace(".", r"\.")):
        dl.replace(dl.problem(**sections), changed)


def test_l1_with_features_is_refused() -> None:
    with pytest.raises(ConfigError, match="coordinates"):
        dl.problem(**{**RELU, "loss": {"function": "logistic", "ridge": 0.1, "penalty": "l1"}, "theory": "estimation"})


def test_a_triple_repeats_the_layers_it_was_drawn_from() -> None:
    from dimladder.theories.estimation import spectrum

    rng = np.random.default_rng(5)
    d, k = 400, 600
    weights = rng.standard_normal((k, d)) / math.sqrt(d)
    a, b = 0.4, 0.1
    drawn = spectrum.triple(
        a * weights @ weights.T + b * np.eye(k), math.sqrt(a) * weights.T, np.eye(d), rng.choice([-1.0, 1.0], d), d
    )
    layer = spectrum.LayerLaw(k / d, np.ones(1), np.array([a]), np.array([b]), 1.0, 0.0)
    limit = spectrum.Covariance(np.ones(1), np.ones(1), np.ones(1), 1.0, (layer,))
    for z in (0.05, 0.5):
        # One draw: fluctuations of relative size 1/d in traces, 1/sqrt d in the target's direction.
        assert drawn.resolvents(z)[0] == pytest.approx(limit.resolvents(z)[0], rel=8.0 / d)
        assert drawn.resolvents(z)[2] == pytest.approx(limit.resolvents(z)[2], rel=4.0 / math.sqrt(d))


def test_two_fields_alike() -> None:
    problem = dl.problem(
        target={"kind": "index", "formula": "sign(z1*z2)"}, student={"kind": "linear"}, algorithm={"kind": "bayes"},
        grid={"sample_ratio": [3.0, 3.5, 4.0]},
    )  # fmt: skip
    curve = dl.solve(problem)
    assert curve["overlap"].values[0] == pytest.approx([0.242706213446, 0.470759974722, 0.643841086817], rel=1e-9)
    assert curve["free_entropy"].values[0] == pytest.approx([-2.07734711775, -2.40888589542, -2.71496759105], rel=1e-9)
    # Weak recovery of a product of signs.
    assert float(curve["threshold"].values[0]) == pytest.approx(math.pi**2 / 4, rel=1e-9)


def test_noise_added_to_a_smooth_link_in_the_bayes_channel() -> None:
    from dimladder.problem import Expression
    from dimladder.theories.estimation.bayes_channel import BayesChannel
    from dimladder.theories.estimation.labels import label_law

    law = label_law(Expression("tanh(2*z) + 0.3*n1", ("z", "n1")).sympy(), text="tanh")
    channel, h = BayesChannel(law), 1e-3
    # dPsi/dq = I/2.
    rise = (channel.information(0.5 + h, 0.5 - h)[1] - channel.information(0.5 - h, 0.5 + h)[1]) / (2 * h)
    assert rise == pytest.approx(channel.information(0.5, 0.5)[0] / 2, rel=1e-5)
