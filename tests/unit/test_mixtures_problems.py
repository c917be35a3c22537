"""What the mixture theories accept and refuse, their small rules, and images from disk."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from dimladder.errors import ConfigError
from dimladder.solve import derive, load, loads, replace, solve
from dimladder.theories.mixtures.degrees import needed_degree, shift_exponents, sufficient_degree, surviving_monomials
from dimladder.theories.mixtures.images import load_images, read_idx
from dimladder.theories.mixtures.separability import separability_threshold

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
MIXTURE = load(RUNS / "estimation-mixture.toml")
GIANT = load(RUNS / "giant-step-mixture.toml")
RANDOM_FEATURES = load(RUNS / "estimation-random-features.toml")


@pytest.mark.parametrize(
    ("problem", "overrides", "words"),
    [
        (MIXTURE, {"data.weights": [0.3, 0.3]}, "sum to 1"),
        (MIXTURE, {"data.weights": [1.3, -0.3]}, "weights"),
        (MIXTURE, {"data.weights": [0.0, 1.0]}, "same label"),
        (MIXTURE, {"data.weights": [0.2, 0.3, 0.5]}, "two clusters"),
        (MIXTURE, {"loss.ridge": 0.0}, "a positive number"),
        (MIXTURE, {"loss.function": "logistc"}, "logistc"),
        (MIXTURE, {"data.variances": -1.0}, "positive"),
        (MIXTURE, {"data.variances": [1.0, 2.0, 3.0]}, "clusters"),
        (MIXTURE, {"data.spectrum": {"fractions": [0.5, 0.6]}}, "sum to 1"),
        (MIXTURE, {"grid.sample_ratio": [0.0, 1.0]}, "sample_ratio"),
        (MIXTURE, {"solver.damping": 1.5}, "damping"),
        (MIXTURE, {"target": {"kind": "index", "formula": "tanh(z)"}}, "labels -1 and"),
        (MIXTURE, {"target": {"kind": "index", "formula": "tanh(y)"}}, "y"),
        (MIXTURE, {"target": {"kind": "cluster-labels", "labels": [1.0, 2.0]}}, "-1 and +1"),
        (RANDOM_FEATURES, {"loss.ridge_per_sample": 0.0}, "ridge_per_sample"),
        (RANDOM_FEATURES, {"student.layers.0.width_ratio": -1.0}, "width_ratio"),
        (RANDOM_FEATURES, {"student.layers.0.activation": "reul"}, "relu"),
        (GIANT, {"algorithm.total": 1.2}, "total"),
        (GIANT, {"algorithm.readout": "logistic"}, "cluster-labels"),
        (GIANT, {"data.spikes": [[1.0]]}, "rows"),
        (GIANT, {"data.alignment": 2.0}, "alignment"),
        (GIANT, {"data.spikes": []}, "aligned"),
        (GIANT, {"data": {"kind": "images"}}, "cluster-labels"),
        (GIANT, {"limit.n": 3}, "n must be"),
    ],
)
def test_bad_values_are_refused_with_a_reason(problem, overrides, words):
    with pytest.raises(ConfigError) as caught:
        replace(problem, overrides)
    assert words in str(caught.value)


def test_unknown_keys_are_refused():
    text = (RUNS / "estimation-mixture.toml").read_text().replace("ridge = 0.1", "ridge = 0.1\nregularisation = 2")
    with pytest.raises(ConfigError, match="regularisation"):
        loads(text)


def test_every_problem_writes_itself_back():
    for problem in (MIXTURE, GIANT, RANDOM_FEATURES):
        again = loads(problem.to_toml())
        assert again == problem
        assert again.content_hash == problem.content_hash


@pytest.mark.parametrize(
    ("total", "degree"),
    [(0.0, 1), (0.5, 1), (0.51, 2), (2 / 3, 2), (0.74, 3), (0.75, 3), (0.8, 4), (0.95, 4), (1.0, 4)],
)
def test_published_degree_rule(total, degree):
    assert sufficient_degree(total) == degree


def test_sharper_rule():
    # Fig. 1a of the paper: total 0.74, split 1/2, random direction: the published rule says 3, one is enough.
    assert needed_degree(0.74, 0.5, "random") == 1
    # The run file: exponents 0.2 and 0.2, two factors fit under one half.
    assert shift_exponents(0.8, 0.25, "aligned") == pytest.approx((0.2, 0.2))
    assert needed_degree(0.8, 0.25, "aligned") == 2
    # Isotropic, all of it in the learning rate: l spikes iff 1 - 1/(2l) < beta < 1 - 1/(2(l + 1)).
    for degree in (1, 2, 3):
        edge = 1 - 1 / (2 * degree)
        assert needed_degree(edge + 0.01, 1.0, "random", spiked=False) == degree
        assert [b for _, b in surviving_monomials(edge - 0.01, 1.0, "random", spiked=False)] == list(range(1, degree))
    # Nowhere more than the published rule (up to its cap), and equal to it when all of it is in the spikes.
    for total in np.linspace(0.05, 0.79, 30):
        assert needed_degree(total, 0.0, "aligned") == sufficient_degree(total)
        for split in (0.2, 0.5, 0.9):
            assert needed_degree(total, split, "aligned") <= sufficient_degree(total)


def test_contracted_variables_are_there():
    curve = solve(replace(GIANT, {"limit.n": 60, "limit.draws": 2, "grid.sample_ratio": [0.5, 1.0]}))
    for name in ("test_error", "train_error", "test_error_hermite", "relative_error"):
        assert curve[name].dims == ("sample_ratio",)
        assert curve[f"{name}_se"].dims == ("sample_ratio",)
    for name in ("hermite_degree", "hermite_degree_needed"):
        assert curve[name].dims == ()
    np.testing.assert_allclose(
        curve["relative_error"], np.asarray(curve["test_error"]) / float(curve["label_variance"]), rtol=1e-12
    )
    single = solve(replace(GIANT, {"limit.n": 60, "limit.draws": 1, "grid.sample_ratio": [0.5]}))
    assert "test_error_se" not in single


def test_covariance_of_the_sampler():
    problem = replace(
        GIANT,
        {
            "limit.n": 12,
            "data.weights": [0.5, 0.5],
            "data.means": [[1.0, 0.0, 0.5], [-0.5, 0.2, 0.0]],
            "data.alignment": 0.6,
            "data.covariance": [0.5, 1.5],
        },
    )
    data = derive(problem).data()
    x, cluster = data.sample(np.random.default_rng(0), 200_000)
    for c in range(2):
        rows = x[cluster == c]
        expected = data.covariance_times(c, np.eye(12))
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) + expected**2)
        assert np.abs((np.cov(rows.T) - expected) / scale).max() < 5 / np.sqrt(len(rows))
        assert np.abs(rows.mean(axis=0) - data.means[c]).max() < 5 * np.sqrt(expected.max() / len(rows))
    overlap = data.spikes[0][1][0] @ data.spikes[1][1][0]
    assert overlap == pytest.approx(0.6)


def _write_idx(path, array, compress):
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    raw = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if compress else raw)


@pytest.mark.parametrize("compress", [False, True])
def test_idx_files(tmp_path, compress):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 4, 5)), rng.integers(0, 2, 40)
    end = ".gz" if compress else ""
    _write_idx(tmp_path / f"train-images-idx3-ubyte{end}", images, compress)
    _write_idx(tmp_path / f"train-labels-idx1-ubyte{end}", labels, compress)
    pixels, found = load_images(str(tmp_path))
    np.testing.assert_allclose(pixels, images.reshape(40, 20) / 255.0)
    np.testing.assert_array_equal(found, labels)


def test_broken_idx_files(tmp_path):
    with pytest.raises(ConfigError, match="missing"):
        load_images(str(tmp_path))
    bad = tmp_path / "x"
    bad.write_bytes(b"not an idx file")
    with pytest.raises(ConfigError, match="not an IDX"):
        read_idx(bad)
    bad.write_bytes(b"\x00\x00\x08\x01" + struct.pack(">I", 100) + b"abc")
    with pytest.raises(ConfigError, match="truncated"):
        read_idx(bad)


def test_images_need_their_number_of_pixels():
    pytest.importorskip("sklearn")
    problem = replace(GIANT, {"data": {"kind": "images"}, "target": {"kind": "cluster-labels"}, "limit.n": 65})
    with pytest.raises(ConfigError, match="64 pixels"):
        solve(problem)


def test_separability_thresholds():
    def threshold(overrides):
        return separability_threshold(derive(replace(MIXTURE, overrides)))

    # Labels without signal: Cover's count. A noiseless linear teacher: always separable.
    assert threshold({"data.means": "zero", "data.weights": [0.5, 0.5]}) == pytest.approx(2.0, rel=1e-6)
    teacher = {
        "data": {"kind": "mixture", "weights": [1.0], "means": "zero"},
        "target": {"kind": "index", "formula": "sign(z)"},
    }
    assert threshold(teacher) == np.inf
    # The hinge loss changes sides there: with a vanishing penalty its training loss is zero below only.
    edge = threshold({})
    curve = solve(
        replace(
            MIXTURE, {"loss.function": "hinge", "loss.ridge": 1e-6, "grid.sample_ratio": [0.9 * edge, 1.15 * edge]}
        )
    )
    assert float(curve["separability_threshold"]) == pytest.approx(edge)
    below, above = np.asarray(curve["train_loss"])
    assert below < 1e-8 < 1e-2 < above
