"""Published and independently computed numbers, within their stated digits, and exact identities between theories."""

from pathlib import Path

import numpy as np
import pytest

from dimladder.solve import load, replace, solve

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
MIXTURE = load(RUNS / "estimation-mixture.toml")

# V, q, m, bias, test error, training loss at sample_ratio 2, ridge 0.1, weights (0.3, 0.7).
WITH_BIAS = {
    "square": (0.844288770, 0.519037109, 0.434734356, -0.226106258, 0.241470533, 0.115752054),
    "hinge": (2.633402192, 3.205278480, 1.090987491, -0.630201995, 0.237259544, 0.046880183),
    "logistic": (4.390345926, 3.303312449, 1.297239809, -0.985340586, 0.202766444, 0.177716249),
}
NAMES = ("V", "q", "m", "bias", "classification_error", "train_loss")


@pytest.mark.parametrize("loss", WITH_BIAS)
def test_two_clusters_with_bias_to_nine_digits(loss):
    curve = solve(replace(MIXTURE, {"loss.function": loss, "grid.sample_ratio": [2.0]}))
    found = [float(curve[n][0]) for n in NAMES]
    np.testing.assert_allclose(found, WITH_BIAS[loss], atol=1.5e-9)


def test_isotropic_logistic_with_sign_teacher_to_nine_digits():
    curve = solve(
        replace(
            MIXTURE,
            {
                "data": {"kind": "mixture", "weights": [1.0], "means": "zero"},
                "target": {"kind": "index", "formula": "sign(z)"},
                "student.bias": False,
                "grid.sample_ratio": [0.5, 1.0, 2.0],
            },
        )
    )
    expected = {
        "V": (7.561308477, 5.895036277, 3.976545789),
        "q": (1.241327371, 2.317382829, 4.145803621),
        "m": (0.588839457, 1.056412614, 1.720313093),
        "classification_error": (0.322750666, 0.255864267, 0.179662393),
        "train_loss": (0.182718460, 0.184506034, 0.182149644),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(np.asarray(curve[name]), values, atol=1.5e-9, err_msg=name)
    # The error of a sign teacher is the angle between teacher and student.
    angle = np.arccos(np.asarray(curve["m"]) / np.sqrt(np.asarray(curve["q"]))) / np.pi
    np.testing.assert_allclose(np.asarray(curve["classification_error"]), angle, atol=1e-12)


# Published tables (training losses of the hinge rows corrected, see docs/theory/mixtures.md).
BLOCKS = {
    ("square", 0.01, (0.1, 0.5), (0.5, 0.5)): {
        0.4981632653: (12.379697465, 0.284531503, 0.667454288, 0.105415200, 0.001103581),
        1.4744897959: (1.602569526, 0.301320167, 0.839118961, 0.063175017, 0.024153631),
        2.9389795918: (0.493243499, 0.188458408, 0.851811956, 0.024871521, 0.047183683),
    },
    ("hinge", 0.1, (0.5, 0.1), (0.8, 0.2)): {
        0.4981632653: (2.497685801, 0.404536992, 0.620960240, 0.164457140, 0.000071915),
        0.9863265306: (1.851147222, 0.697090856, 0.943919604, 0.129121976, 0.004699248),
        2.4508163265: (1.155414402, 1.103289121, 1.443906585, 0.084618864, 0.029230383),
    },
}


@pytest.mark.parametrize("case", BLOCKS, ids=lambda case: case[0])
def test_block_covariances_against_published_tables(case):
    loss, ridge, eigenvalues, shares = case
    curve = solve(
        replace(
            MIXTURE,
            {
                "data": {
                    "kind": "mixture",
                    "weights": [0.5, 0.5],
                    "spectrum": {"variances": list(eigenvalues), "fractions": list(shares)},
                },
                "student": {"kind": "linear"},
                "loss": {"function": loss, "ridge": ridge},
                "grid.sample_ratio": list(BLOCKS[case]),
            },
        )
    )
    for i, expected in enumerate(BLOCKS[case].values()):
        found = [float(curve[n][i]) for n in ("V", "q", "m", "classification_error", "train_loss")]
        np.testing.assert_allclose(found, expected, atol=4e-9)


def test_swapping_the_clusters_swaps_the_sign_of_everything():
    problem = replace(MIXTURE, {"data.weights": [0.2, 0.8], "data.variances": [0.6, 1.7]})
    mirrored = replace(MIXTURE, {"data.weights": [0.8, 0.2], "data.variances": [1.7, 0.6]})
    a, b = solve(problem), solve(mirrored)
    for name in ("classification_error", "train_loss"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-9)
    np.testing.assert_allclose(a["bias"], -np.asarray(b["bias"]), rtol=1e-8)
    np.testing.assert_allclose(a["q"], np.asarray(b["q"])[:, ::-1], rtol=1e-8)


def test_equal_groups_of_the_spectrum_are_one_group():
    split = replace(MIXTURE, {"data.spectrum": {"fractions": [0.3, 0.7], "variances": [1.0, 1.0]}})
    for name in NAMES:
        np.testing.assert_allclose(solve(split)[name], solve(MIXTURE)[name], rtol=1e-9)


def test_cluster_means_in_a_rotated_frame():
    angle = 0.7
    rows = [[np.cos(angle), np.sin(angle)], [-np.cos(angle), -np.sin(angle)]]
    rotated = solve(replace(MIXTURE, {"data.means": rows}))
    plain = solve(MIXTURE)
    for name in ("V", "q", "bias", "classification_error", "train_loss"):
        np.testing.assert_allclose(rotated[name], plain[name], rtol=1e-9)
    np.testing.assert_allclose(np.asarray(rotated["m"])[:, 0], plain["m"], rtol=1e-9)


def test_square_loss_on_one_cluster_is_ridge_regression():
    # Isotropic ridge regression of a noisy linear target: the scalar equation, solved here by hand.
    alpha, ridge, noise = 1.7, 0.3, 0.5
    curve = solve(
        replace(
            MIXTURE,
            {
                "data": {"kind": "mixture", "weights": [1.0], "means": "zero"},
                "grid.sample_ratio": [alpha],
                "target": {"kind": "index", "formula": "z", "noise": noise},
                "student": {"kind": "linear"},
                "loss": {"function": "square", "ridge": ridge},
            },
        )
    )
    # Ridge of |y - Xw|^2/d + ridge |w|^2 with spectrum of X^T X/d Marchenko-Pastur: V = E 1/(ridge + s).
    b = ridge + alpha - 1.0
    v = (-b + np.sqrt(b * b + 4 * ridge)) / (2 * ridge)
    slope = alpha / (1 + v)
    shrink = ridge / (ridge + slope)
    risk = (shrink**2 + noise**2) / (1 - alpha / (1 + v) ** 2 / (ridge + slope) ** 2)
    assert float(curve["V"][0]) == pytest.approx(v, rel=1e-9)
    assert float(curve["test_mse"][0]) == pytest.approx(risk, rel=1e-9)
    assert float(curve["test_loss"][0]) == pytest.approx(risk / 2, rel=1e-9)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "square"])
@pytest.mark.parametrize("ridge", [1e-5, 1e-3, 10.0])
def test_difficult_corners_converge(loss, ridge):
    """Close to separability with a vanishing penalty, q reaches 1e5; with a large one the hinge loses its kinks."""
    curve = solve(
        replace(MIXTURE, {"loss.function": loss, "loss.ridge": ridge, "grid.sample_ratio": [0.1, 1.0, 4.0, 20.0]})
    )
    assert curve.dataset.attrs["status"] == "success"
    errors = np.asarray(curve["classification_error"])
    assert np.all((errors > 0.13) & (errors < 0.5))


def test_a_failed_fixed_point_says_so_and_keeps_the_rest():
    from dimladder.errors import SolveError

    problem = replace(MIXTURE, {"solver.newton_steps": 0, "solver.max_iterations": 3})
    with pytest.raises(SolveError) as caught:
        solve(problem)
    message = str(caught.value)
    for word in ("sample_ratio", "residual", "damping", "ridge"):
        assert word in message
    assert caught.value.status == "max_iterations"
    assert np.isnan(np.asarray(caught.value.partial["q"])).all()
