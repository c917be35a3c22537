"""Varied problems whose numbers are frozen: what is set, in the words of schema 1 and in those of schema 2.

The first of each file is the run file itself, on a grid for a test. ``numbers.json`` holds a few entries of every
variable; ``python tests/contract/freeze.py NAME...`` draws it anew, which a change of a number has to justify.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One varied run file: `run` is its name in schema 2, `was` in schema 1 (the same unless given)."""

    run: str
    set: dict[str, Any]
    was: str = ""
    set_was: dict[str, Any] | None = None
    rtol: float = 1e-10
    renamed: dict[str, str] = field(default_factory=dict)  # name in schema 1 -> name in schema 2
    slow: bool = False


def _cases() -> dict[str, Case]:
    found: dict[str, Case] = {}

    def add(name: str, run: str, new: dict[str, Any], old: dict[str, Any] | None = None, **kw: Any) -> None:
        base, kw_base = _BASE.get(run, ({}, {}))
        found[name] = Case(run, {**base, **new}, set_was={**base, **(new if old is None else old)}, **{**kw_base, **kw})

    for run in _BASE:
        add(run, run, {})
    add("online-erf/batches", "online-erf", {"algorithm.batch_size": 4, "algorithm.schedule": "1/(1 + t/10)"})
    add("online-erf/flow", "online-erf", {"algorithm.regime": "gradient-flow", "algorithm.weight_decay": 0.1})
    add(
        "online-erf/relu",
        "online-erf",
        {"target.activation": "relu", "student.activation": "relu", "student.train_readout": False},
    )
    add("online-multi-index/free", "online-multi-index", {"algorithm.spherical": False, "student.activation": "tanh"})
    add(
        "online-multi-index/quadratic",
        "online-multi-index",
        {"target.formula": "He2(z1) + z2", "target.hermite": "orthonormal", "target.noise": 0.2},
        {"target.expression": "He2(z1) + z2", "target.noise": 0.2},
    )
    add(
        "online-multi-index/correlation",
        "online-multi-index",
        {"loss": {"function": "correlation"}, "algorithm.learning_rate": 0.05},
        {"algorithm.loss": "correlation", "algorithm.learning_rate": 0.05},
    )
    add(
        "online-reuse/noise",
        "online-reuse",
        {"target.noise": 0.3, "initial.M": [[0.1]]},
        {"target.noise": 0.3, "initial.overlap": 0.1},
    )
    add("online-look-ahead/descent", "online-look-ahead", {"algorithm.displacement": -0.1})
    add(
        "online-look-ahead/correlation",
        "online-look-ahead",
        {"loss": {"function": "correlation"}, "initial.M": [[0.2]]},
        {"algorithm.loss": "correlation", "initial.M": [[0.2]]},
    )
    add(
        "estimation-mixture/hinge",
        "estimation-mixture",
        {"loss.function": "hinge", "loss.ridge": 0.5},
        {"student.loss": "hinge", "student.ridge": 0.5},
    )
    add(
        "estimation-mixture/unequal",
        "estimation-mixture",
        {"data.variances": [0.5, 1.0], "student.bias": False},
        {"data.covariance": [0.5, 1.0], "student.bias": False},
    )
    add(
        "estimation-mixture/square",
        "estimation-mixture",
        {"loss.function": "square", "data.weights": [0.5, 0.5]},
        {"student.loss": "square", "data.weights": [0.5, 0.5]},
    )
    add(
        "estimation-random-features/tanh",
        "estimation-random-features",
        {
            "student.layers": [{"activation": "tanh", "width_ratio": 2.0}],
            "loss.ridge_per_sample": 0.01,
            "target.noise": 0.3,
        },
        {
            "student.activation": "tanh",
            "student.width_ratio": 2.0,
            "student.ridge_times_width": 0.01,
            "target.noise": 0.3,
        },
    )
    add(
        "giant-step-mixture/logistic",
        "giant-step-mixture",
        {"loss.function": "logistic", "loss.ridge_per_sample": "1e-3*k", "target.formula": "sign(z)"},
        {"algorithm.readout": "logistic", "algorithm.ridge": 1e-3, "target.link": "sign(z)"},
        renamed={
            "test_error": "classification_error",
            "test_error_se": "classification_error_se",
            "train_error": "train_classification_error",
            "train_error_se": "train_classification_error_se",
            "test_error_hermite": "classification_error_hermite",
            "test_error_hermite_se": "classification_error_hermite_se",
            "train_error_hermite": "train_classification_error_hermite",
            "train_error_hermite_se": "train_classification_error_hermite_se",
        },
    )
    add(
        "giant-step-mixture/tanh",
        "giant-step-mixture",
        {"student.layers": [{"activation": "tanh", "width_ratio": 1.5}], "algorithm.split": 0.4},
        {"student.activation": "tanh", "student.width_ratio": 1.5, "algorithm.split": 0.4},
    )
    add("multiscale/noise", "multiscale", {"target.noise": 0.3}, {"data.noise": 0.3})
    add(
        "multiscale/near",
        "multiscale",
        {"data.spectrum": {"fractions": [0.4, 0.6], "variances": [1.0, 0.01]}, "data.samples": 60},
        {"data.fast": 40, "data.scale_ratio": 10.0, "data.fast_scale": 1.0, "data.samples": 60},
    )
    add(
        "triple-descent/relu",
        "triple-descent",
        {"student.layers": [{"activation": "relu"}], "loss.ridge": 1e-2},
        {"student.activation": "relu", "student.ridge": 1e-2},
    )
    add(
        "triple-descent/ratio",
        "triple-descent",
        {"data.sample_ratio": 1.0, "student.readout_variance": 0.5},
        {"data.phi": 1.0, "student.readout_variance": 0.5},
    )
    add("implicit-bias/determined", "implicit-bias", {"data.samples": 80, "student.initial_norm": 0.1})
    add(
        "implicit-bias/spiked",
        "implicit-bias",
        {
            "data.spectrum": {"variances": [1.0, 0.01], "fractions": [0.1, 0.9]},
            "target.power": [1.0, 0.0],
            "student.direction": "target",
        },
        {
            "data": {
                "kind": "spiked-linear",
                "samples": 20,
                "dimension": 60,
                "noise": 0.1,
                "seed": 5,
                "spikes": 6,
                "tail": 0.01,
            },
            "student.direction": "target",
        },
    )
    add(
        "implicit-bias/signal",
        "implicit-bias",
        {"target.formula": "2*z", "target.noise": 0.0},
        {"data.signal": 2.0, "data.noise": 0.0},
    )
    add(
        "deep-linear-posterior/warm",
        "deep-linear-posterior",
        {**_TEACHER_NEW, "algorithm.temperature": 0.1, "student.weight_variance": 1.5},
        {**_TEACHER, "student.temperature": 0.1, "student.weight_variance": 1.5},
    )
    add("deep-linear-posterior/teacher", "deep-linear-posterior", _TEACHER_NEW, _TEACHER)
    add(
        "graph-convolution/heterophilic",
        "graph-convolution",
        {"data.homophily": -1.0, "student.self_loop": 0.5, "loss": {"ridge_per_sample": 0.02}},
        {"data.homophily": -1.0, "student.self_loop": 0.5, "student.ridge": 0.1},
    )
    add("mup-linear/shallow", "mup-linear", {"student.hidden_layers": 1, "algorithm.learning_rate": 0.1})
    add(
        "mup-tanh/logistic",
        "mup-tanh",
        {"loss.function": "logistic", "student.richness": 0.5},
        {"algorithm.loss": "logistic", "student.richness": 0.5},
    )
    add(
        "mup-tanh/gaussian",
        "mup-tanh",
        {
            "data": {"kind": "points", "source": "gaussian", "samples": 4, "dimension": 6, "seed": 3},
            "algorithm.batch_size": 2,
        },
        {"data": {"kind": "gaussian", "samples": 4, "dimension": 6, "seed": 3}, "algorithm.batch_size": 2},
    )
    add(
        "staircase/decay",
        "staircase",
        {"algorithm.first_layer_weight_decay": 0.01, "algorithm.second_layer_schedule": "1/(1 + t)"},
    )
    add("hierarchical-flow/map", "hierarchical-flow", {"algorithm.map": True})
    add("hierarchical-flow/noise", "hierarchical-flow", {"algorithm.gradient_noise": True, "target.noise": 0.2})
    add(
        "hierarchical-layerwise/optimal",
        "hierarchical-layerwise",
        {"algorithm.second.ridge": "optimal", "target.noise": 0.3},
    )
    add(
        "hierarchical-layerwise/refined",
        "hierarchical-layerwise",
        {"algorithm.first.order": "refined", "limit": {"d": 256}},
    )
    add(
        "hierarchical-plateaus/two",
        "hierarchical-plateaus",
        {"target.exponents": [0.6, 0.3], "target.features": [{"2": 1.0}, {"1": 1.0, "2": 0.5}]},
    )
    add("truncation-states/seed", "truncation-states", {"data.seed": 4, "data.radius": 0.05})
    add(
        "truncation-flow/uniform",
        "truncation-flow",
        {"data": {"kind": "coordinate", "law": "uniform", "low": 0.2, "high": 1.4, "target": 1.9}},
        {"data": {"kind": "uniform-cluster", "low": 0.2, "high": 1.4, "target": 1.9}},
    )
    add("truncation-flow/late", "truncation-flow", {"initial.threshold": 1.5, "data.std": 0.5})
    return found


_TEACHER = {"data": {"kind": "linear-teacher", "samples": 30, "dimension": 60, "width": 50, "noise": 0.2, "seed": 2}}
_TEACHER_NEW = {
    "data": {"kind": "gaussian", "samples": 30, "dimension": 60, "seed": 2},
    "target": {"kind": "index", "formula": "z", "noise": 0.2}, "student.width": 50,
}  # fmt: skip
# Run file (schema 2) -> what makes it cheap in both schemas, and what else is said of every case of the file.
_TEST_MSE = {"test_error": "test_mse", "train_error": "train_mse"}
_GIANT = {
    **_TEST_MSE,
    "test_error_se": "test_mse_se",
    "train_error_se": "train_mse_se",
    "test_error_hermite": "test_mse_hermite",
    "test_error_hermite_se": "test_mse_hermite_se",
    "train_error_hermite": "train_mse_hermite",
    "train_error_hermite_se": "train_mse_hermite_se",
}
_MSE = {"generalization_error": "mse", "prediction_error": "test_mse"}
_BASE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "online-erf": ({"grid.time": [0.0, 0.5, 2.0, 10.0]}, {}),
    "online-multi-index": ({"student.width": 3, "grid.time": [0.1, 1.0, 5.0]}, {"slow": True}),
    "online-reuse": ({"grid.time": [0.0, 1.0, 3.0]}, {"was": "batch-reuse", "slow": True}),
    "online-look-ahead": ({"grid.time": [0.0, 1.0, 3.0]}, {"was": "data-repetition", "slow": True}),
    "estimation-mixture": ({"grid.sample_ratio": [0.5, 2.0]},
                           {"was": "mixture-erm", "renamed": {"test_error": "classification_error"}}),
    "estimation-random-features": ({"grid.sample_ratio": [0.5, 2.0]},
                                   {"was": "random-features", "renamed": _TEST_MSE}),
    "giant-step-mixture": ({"limit.n": 60, "limit.draws": 2, "grid.sample_ratio": [0.5, 2.0]}, {"renamed": _GIANT}),
    "multiscale": ({}, {}),
    "triple-descent": ({"grid.width_ratio": [0.3, 2.0, 20.0]}, {"renamed": _TEST_MSE}),
    "implicit-bias": ({"grid.time": [0.0, 0.02, 0.2, 2.0, 20.0]}, {}),
    "deep-linear-posterior": ({}, {"renamed": {"generalization_error": "mse"}}),
    "graph-convolution": ({"grid.train_fraction": [0.3, 0.6]}, {}),
    "mup-linear": ({"algorithm.steps": 6}, {}),
    "mup-tanh": ({"solver.samples": 256, "solver.scrambles": 2, "algorithm.steps": 4}, {}),
    "staircase": ({"student.particles": 20, "grid.time": [0.0, 1.0, 5.0]}, {}),
    "hierarchical-flow": ({"grid.time": [0.0, 1.0, 5.0]}, {}),
    "hierarchical-layerwise": ({"grid.first_ratio": [1.0, 2.0], "grid.second_ratio": [1.0, 4.0]}, {"renamed": _MSE}),
    "hierarchical-plateaus": ({"grid.kappa": [0.5, 1.0, 1.2, 1.8]},
                              {"renamed": {**_MSE, "null_error": "null_mse"}}),
    "truncation-states": ({}, {}),
    "truncation-flow": ({"grid.time": [0.0, 1.0, 2.0, 8.0]}, {}),
}  # fmt: skip
CASES = _cases()
