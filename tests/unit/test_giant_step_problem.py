"""What the giant-step theory accepts and refuses, its degree rules, its clusters, and images from disk."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from dimladder.errors import ConfigError
from dimladder.problem.images import load_images
from dimladder.problem.one_step import mixture, readout_ridge, sufficient_degree
from dimladder.problem.points import read_idx
from dimladder.solve import load, replace, solve
from dimladder.theories.giant_step.degrees import needed_degree, shift_exponents, surviving_monomials

GIANT = load(Path(__file__).parents[2] / "docs" / "gallery" / "runs" / "giant-step-mixture.toml")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"algorithm.total": 1.2}, "total"),
        ({"algorithm.nodes": 1}, "nodes"),
        ({"algorithm.nodes": 64}, "conditional"),
        (
            {"loss.function": "hinge", "target": {"kind": "cluster-labels"}, "algorithm.equivalent": "one-bulk"},
            "always solved conditional",
        ),
        ({"algorithm.hermite_degree": 13}, "hermite_degree"),
        ({"loss.function": "logistic"}, "cluster-labels"),
        ({"loss.function": "hinge", "target": {"kind": "cluster-labels", "labels": [1.0, 2.0]}}, "-1 and +1"),
        ({"loss.function": "correlation"}, "not linear"),
        ({"loss.function": "(f - y)^2*(f + y)^2"}, "convex"),
        ({"loss.function": "cross-entropy"}, "one a class"),
        ({"loss.function": "abs", "target.noise": 0.1}, "square loss only"),
        ({"loss": {"function": "square"}}, "ridge_per_sample"),
        ({"loss": {"ridge": 0.0}}, "positive"),
        ({"loss": {"ridge": "optimal", "optimise": "test_mse"}}, "optimise"),
        ({"loss.penalty": "l1"}, "loss.penalty"),
        ({"data.spikes": [[1.0]]}, "rows"),
        ({"data.alignment": 2.0}, "alignment"),
        ({"data.spikes": []}, "aligned"),
        ({"data.variances": [[1.0, 2.0], [1.0, 2.0]]}, "one a block"),
        ({"data.mean_overlap": [[1.0]]}, "mean_overlap"),
        ({"data": {"kind": "images"}}, "cluster-labels"),
        (
            {"data": {"kind": "images"}, "target": {"kind": "cluster-labels"}, "algorithm.equivalent": "conditional"},
            "condition on",
        ),
        ({"target.formula": "z1*z2"}, "z alone"),
        ({"target.formula": "z + n1"}, "z alone"),
        ({"target.flip": 0.1}, "target.flip"),
        ({"limit.n": 3}, "at least 10"),
        ({"student.layers": [{"activation": "relu"}]}, "width_ratio"),
        ({"student.bias": True}, "student.bias"),
    ],
)
def test_bad_values_are_refused_with_a_reason(overrides, words):
    with pytest.raises(ConfigError) as caught:
        replace(GIANT, overrides)
    assert words in str(caught.value)


def test_both_ridges_mean_what_the_language_says():
    """sum of losses + (ridge/2)|w|^2 is the mean of losses + (ridge/m/2)|w|^2; ridge_per_sample that over k weights."""
    assert readout_ridge(GIANT, 300, 400) == pytest.approx(1e-4)
    assert readout_ridge(replace(GIANT, {"loss": {"ridge_per_sample": 0.2}}), 300, 400) == pytest.approx(0.2 / 400)
    assert readout_ridge(replace(GIANT, {"loss": {"ridge": 0.6}}), 300, 400) == pytest.approx(0.6 / 300)
    small = {"limit.n": 40, "limit.draws": 2, "grid.sample_ratio": [2.0]}
    one = solve(replace(GIANT, {**small, "loss": {"ridge": 0.3}}))
    # ridge = (n/k) ridge_per_sample with 80 samples and 40 weights.
    other = solve(replace(GIANT, {**small, "loss": {"ridge_per_sample": 0.3 * 40 / 80}}))
    np.testing.assert_allclose(one["test_mse"], other["test_mse"], rtol=1e-12)


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
    for name in ("test_mse", "train_mse", "test_mse_hermite", "relative_error"):
        assert curve[name].dims == ("sample_ratio",)
        assert curve[f"{name}_se"].dims == ("sample_ratio",)
    for name in ("hermite_degree", "hermite_degree_needed"):
        assert curve[name].dims == ()
    np.testing.assert_allclose(
        curve["relative_error"], np.asarray(curve["test_mse"]) / float(curve["label_variance"]), rtol=1e-12
    )
    single = solve(replace(GIANT, {"limit.n": 60, "limit.draws": 1, "grid.sample_ratio": [0.5]}))
    assert "test_mse_se" not in single


def test_covariance_of_the_sampler():
    problem = replace(
        GIANT,
        {
            "limit.n": 12,
            "data.weights": [0.5, 0.5],
            "data.means": [[1.0, 0.0, 0.5], [-0.5, 0.2, 0.0]],
            "data.alignment": 0.6,
            "data.variances": [0.5, 1.5],
        },
    )
    data = mixture(problem, 12)
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
    with pytest.raises(ConfigError, match="cut short"):
        read_idx(bad)


def test_images_need_their_number_of_pixels():
    pytest.importorskip("sklearn")
    problem = replace(GIANT, {"data": {"kind": "images"}, "target": {"kind": "cluster-labels"}, "limit.n": 65})
    with pytest.raises(ConfigError, match="64 pixels"):
        solve(problem)
