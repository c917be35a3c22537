"""Run files, data, batches, assumptions and messages of the infinite-width theory."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.errors import ConfigError, DerivationError, DomainError, SolveError
from dimladder.problem import activation
from dimladder.problem.points import load_points
from dimladder.problem.training import batch_weights, training_of
from dimladder.theories.mup import THEORY
from dimladder.theories.mup.assumptions import check_activation, check_inputs

FILE = {"kind": "points", "source": "file"}
RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"


def load(run="mup-tanh", **overrides):
    return dl.load(RUNS / f"{run}.toml", overrides)


def test_cosine_inputs_are_those_of_the_run_file():
    inputs, labels, m = load_points(load().data)
    mu, j = 3, 2
    row = np.array([np.cos(mu * k + 0.3 * mu) for k in range(1, 6)])
    assert inputs[mu - 1, j - 1] == pytest.approx(row[j - 1] / np.linalg.norm(row), rel=1e-15)
    assert labels == pytest.approx([1, -(1 + 0.25 / 3), 1 + 0.5 / 3, -1.25])
    assert m == 4
    longer, _, m = load_points(load(**{"data.test_samples": 3}).data)
    assert np.array_equal(longer[:4], inputs)
    assert (len(longer), m) == (7, 4)


def test_labels_by_formula():
    data = {"kind": "points", "source": "gaussian", "samples": 6, "dimension": 3, "labels": "tanh(x1) - 2*x3"}
    inputs, labels, _ = load_points(load(data=data).data)
    assert labels == pytest.approx(np.tanh(inputs[:, 0]) - 2 * inputs[:, 2])
    assert np.linalg.norm(inputs, axis=1) == pytest.approx(np.ones(6))
    with pytest.raises(ConfigError, match=r"x9"):
        load(data={**data, "labels": "x9"})


def test_digits_are_balanced_centred_and_normalised():
    data = {"kind": "points", "source": "digits", "samples": 10, "classes": [3, 8], "test_samples": 4}
    inputs, labels, m = load_points(load(data=data).data)
    assert inputs.shape == (14, 64)
    assert (m, labels[:m].sum(), labels[m:].sum()) == (10, 0, 0)
    assert np.linalg.norm(inputs, axis=1) == pytest.approx(np.ones(14))
    curve = dl.solve(load(data=data, **{"algorithm.steps": 5}), samples=256)
    assert curve["loss"].values[-1] < 0.8 * curve["loss"].values[0]
    assert curve["test_f"].shape == (6, 4)


def test_missing_scikit_learn_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match="scikit-learn") as caught:
        load_points(load(data={"kind": "points", "source": "digits", "samples": 4}).data)
    assert "dimladder[data]" in str(caught.value)


class TestFiles:
    images = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3) ** 2 % 97
    labels = np.array([0, 1, 0, 1, 1], dtype=np.uint8)

    def idx(self, array):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
        return head + array.tobytes()

    def test_idx_gzip_and_npz_agree(self, tmp_path):
        (tmp_path / "x.idx").write_bytes(self.idx(self.images))
        (tmp_path / "y.gz").write_bytes(gzip.compress(self.idx(self.labels)))
        np.savez(tmp_path / "both.npz", x=self.images, target=self.labels)
        common = {**FILE, "samples": 3, "test_samples": 1, "classes": [0, 1]}
        one = load_points(
            load(data={**common, "path": str(tmp_path / "x.idx"), "labels_path": str(tmp_path / "y.gz")}).data
        )
        two = load_points(load(data={**common, "path": str(tmp_path / "both.npz"), "labels_key": "target"}).data)
        assert np.array_equal(one[0], two[0])
        assert list(one[1]) == [1, -1, 1, -1]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"not a data set", "not an IDX file"),
            (bytes([0, 0, 8, 1, 0, 0, 0, 9]) + b"abc", "cut short"),
            (None, "cannot be read"),
        ],
    )
    def test_bad_files_are_explained(self, tmp_path, content, message):
        path = tmp_path / "x.idx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load_points(load(data={**FILE, "samples": 2, "path": str(path), "labels_path": str(path)}).data)

    def test_missing_array_is_named(self, tmp_path):
        np.savez(tmp_path / "a.npz", pixels=self.images)
        with pytest.raises(ConfigError, match="no array 'x'") as caught:
            load_points(load(data={**FILE, "samples": 2, "path": str(tmp_path / "a.npz")}).data)
        assert "pixels" in str(caught.value)

    def test_too_few_samples(self, tmp_path):
        np.savez(tmp_path / "a.npz", x=self.images, y=self.labels)
        with pytest.raises(ConfigError, match="class 0 has 2 samples, 3 are needed"):
            load_points(
                load(
                    data={
                        "kind": "points",
                        "source": "file",
                        "samples": 6,
                        "path": str(tmp_path / "a.npz"),
                        "classes": [0, 1],
                    }
                ).data
            )


def test_batches_cover_each_epoch_and_do_not_depend_on_the_horizon():
    weights = batch_weights(7, 9, 3, seed=4)
    assert weights.sum(axis=1) == pytest.approx(np.ones(9))
    assert ((weights > 0).sum(axis=1) == [3, 3, 1] * 3).all()
    for epoch in range(3):
        assert ((weights[3 * epoch : 3 * epoch + 3] > 0).sum(axis=0) == 1).all()
    assert np.array_equal(batch_weights(7, 4, 3, seed=4), weights[:4])
    assert not np.array_equal(batch_weights(7, 9, 3, seed=5), weights)
    assert np.array_equal(batch_weights(7, 2, 0, seed=4), np.full((2, 7), 1 / 7))


def test_schedule_multiplies_the_learning_rate():
    run = training_of(load(**{"algorithm.schedule": "0.5*(1 + cos(pi*t/T))"}))
    assert run.learning_rates[:-1] == pytest.approx(0.25 * (1 + np.cos(np.pi * np.arange(20) / 20)))
    assert run.times == 21


@pytest.mark.parametrize("loss", ["square", "logistic", "log-cosh", "(f - y)**4/4 + 0.1*f**2"])
def test_error_signal_is_minus_the_derivative_of_the_loss(loss):
    run = training_of(load(**{"loss.function": loss}))
    f, step = np.array([0.3, -0.7, 1.4, 0.0]), 1e-6
    slope = [(run.loss(f + step * e) - run.loss(f - step * e)) / (2 * step) for e in np.eye(4)]
    assert run.error_signal(f) / 4 == pytest.approx(-np.array(slope), abs=1e-8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"student.activation": "tanhh(x)"}, "tanh"),
        ({"student.hidden_layers": 0}, "hidden_layers"),
        ({"student.richness": 0.0}, "richness"),
        ({"student.parametrization": "ntk"}, "ntp"),
        ({"student.parametrization": "abc"}, r"student\.abc"),
        ({"algorithm.batch_size": -1}, "batch_size"),
        ({"loss.function": "(f - z)**2"}, "variables are f, y"),
        ({"loss.function": "cross-entropy"}, "called logistic"),
        ({"loss.ridge": 0.1}, "loss.ridge"),
        ({"algorithm.momentum": {"beta": 0.5}}, "momentum"),
        ({"algorithm": {"kind": "gradient-flow", "learning_rate": 0.5}}, "algorithm.steps"),
        ({"student": {"kind": "deep"}}, "student.hidden_layers"),
        ({"algorithm.learning_rat": 0.5}, "learning_rate"),
        ({"solver.method": "picard"}, "particles"),
        ({"data.samples": 0}, "samples"),
        ({"data.source": "cosin"}, "cosine"),
        ({"simulation.replicas": 1}, "replicas"),
    ],
)
def test_bad_run_files_are_explained(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(**overrides)


def test_what_cannot_be_derived_is_said():
    with pytest.raises(DerivationError, match="muP"):
        dl.derive(load(**{"student.parametrization": "sp"}))
    with pytest.raises(DerivationError, match="phi''"):
        dl.solve(load(**{"student.activation": "relu"}), method="responses")
    with pytest.raises(DerivationError, match="phi''"):
        dl.solve(load(**{"student.activation": "relu"}), output="space-time")
    with pytest.raises(DerivationError, match="linear"):
        dl.solve(load(), method="closed-form")
    with pytest.raises(SolveError) as caught:
        dl.solve(load(**{"student.hidden_layers": 1}), method="quadrature")
    assert caught.value.status == "too-large"
    with pytest.raises(DomainError, match="zero"):
        dl.solve(load(data={"kind": "points", "source": "explicit", "inputs": [[0.0, 0.0]], "labels": [1.0]}))


def test_relu_of_one_hidden_layer_is_solved():
    curve = dl.solve(load(**{"student.activation": "relu", "student.hidden_layers": 1}), samples=512)
    assert curve.stats["method"] == "particles"
    assert curve["loss"].values[-1] < 0.1 * curve["loss"].values[0]


def test_printed_forms():
    system = dl.derive(load(**{"student.activation": "sin", "loss.function": "logistic"}))
    text = system.latex()
    assert text.startswith("{\\allowdisplaybreaks")
    assert r"\sin" in text
    assert r"\cos" in text
    explained = system.explain()
    assert "equal-time" in explained
    assert "Order parameters" in explained
    assert "def forward" in system.python()
    assert "Sum" in system.sympy()


def test_curve_goes_to_json():
    curve = dl.solve(load("mup-linear"))
    document = json.loads(curve.to_json())
    assert document["variables"]["feature_kernel"]["dims"] == ["layer", "sample", "sample"]
    assert document["coords"]["layer"] == [1, 2, 3]
    assert len(document["variables"]["loss"]["values"]) == 26
    names = {
        "loss", "f", "feature_kernel", "gradient_kernel", "feature_min_eigenvalue", "space_time_min_eigenvalue",
        "relative_feature_change",
    }  # fmt: skip
    assert names | {f"{n}_se" for n in names} <= set(document["variables"])


class TestAssumptions:
    @pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "gelu", "softplus", "erf", "sin"])
    def test_good_activations(self, name):
        assert check_activation(activation(name)).good

    @pytest.mark.parametrize(
        ("name", "condition"),
        [
            ("relu", "smooth"), ("linear", "nondegenerate_product"), ("quadratic", "bounded_first"), ("exp",
            "bounded_second"),
            ("0.3*x**2 - x", "independent_copies"),
        ],
    )  # fmt: skip
    def test_others_name_the_condition_that_fails(self, name, condition):
        report = check_activation(activation(name))
        assert not report.good
        assert not getattr(report, condition)
        assert report.notes

    def test_orthogonal_and_antipodal_inputs(self):
        assert check_inputs(np.eye(3)).orthogonal == [(0, 1), (0, 2), (1, 2)]
        antipodal = check_inputs(np.array([[1.0, 0.2], [0.3, 0.8], [-0.3, -0.8]]))
        assert not antipodal.generic
        assert (0, 1, 2) in antipodal.tied
        generic = check_inputs(np.random.default_rng(0).normal(size=(5, 3)))
        assert generic.generic
        assert generic.rank == 3
        assert "linear in the inputs" in generic.notes[0]

    def test_the_theory_reports_on_a_problem(self):
        facts = THEORY.describe(load(**{"student.activation": "linear"}))
        assert facts["inputs are generic (A4.1)"] is True
        assert facts["activation is GOOD (A4.3)"] is False
