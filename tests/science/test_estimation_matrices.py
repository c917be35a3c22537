"""Overlap matrices of Bayes-optimal estimation: thresholds in print, one field's theory as a limit, message passing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import multivariate_normal

import dimladder as dl
from dimladder.errors import ConfigError
from dimladder.numerics.sign_patterns import pattern_chances
from dimladder.theories.estimation.bayes_matrix import MatrixBayes, MatrixChannel
from dimladder.theories.estimation.bayes_pairs import PairChannel

COMMITTEE = "sign(sign(z1) + sign(z2))"


def ask(formula: str, ratios: list[float], **target: Any) -> Any:
    return dl.problem(
        target={"kind": "index", "formula": formula, **target}, student={"kind": "linear"},
        algorithm={"kind": "bayes"}, grid={"sample_ratio": ratios},
    )  # fmt: skip


def channel(formula: str, fineness: float = 1.0, **target: Any) -> MatrixChannel:
    return MatrixChannel(ask(formula, [1.0], **target).target, fineness)


@pytest.mark.parametrize("formula", ["sign(z1*z2)", "z1*z2 + 0.5*n1"])
def test_fields_that_are_alike_have_one_overlap(formula: str) -> None:
    """The matrix at q 1 has the information of the scalar reduction, which integrates a quadrant with other nodes."""
    full, pair = channel(formula), PairChannel(ask(formula, [1.0]).target)
    for q in (0.1, 0.5):
        info, psi, _ = full.information(q * np.eye(2))
        wanted, entropy = pair.information(q, 1.0 - q)
        np.testing.assert_allclose(info, wanted * np.eye(2), rtol=2e-5, atol=1e-8)
        assert psi == pytest.approx(entropy, rel=1e-6)


def test_weak_recovery_of_a_parity() -> None:
    assert channel("sign(z1*z2)").weak_recovery() == pytest.approx(np.pi**2 / 4, rel=1e-8)
    assert channel(COMMITTEE).weak_recovery() == 0.0


def test_specialisation_of_a_committee() -> None:
    """The symmetric state loses its stability at 2.05238242974 (Aubin et al. 2018: about 2), at overlaps 0.35547396."""
    flow = MatrixBayes(channel(COMMITTEE))

    def symmetric(alpha: float) -> np.ndarray:
        """The state that learns the sum of both fields only: all entries alike."""
        s = brentq(lambda s: float(np.mean(flow.step(np.full((2, 2), s) + 1e-9 * np.eye(2), alpha))) - s, 0.2, 0.45,
                   xtol=1e-9)  # fmt: skip
        return np.full((2, 2), float(s)) + 1e-9 * np.eye(2)

    def growth(alpha: float) -> float:
        # Differences of 1e-5 stay inside the positive matrices.
        J = flow.jacobian(symmetric(alpha) + 3e-5 * np.eye(2), alpha)
        # The direction [[1, -1], [-1, 1]] in the entries (11, 12, 22).
        odd = np.array([1.0, -1.0, 1.0])
        return float(odd @ J @ odd / 3.0) - 1.0

    assert float(brentq(growth, 2.0, 2.1, xtol=1e-6)) == pytest.approx(2.05238242974, abs=2e-4)
    above = flow.solve(2.3, "uninformed")
    assert above[0, 0] - above[0, 1] > 0.05


def test_entropy_is_the_integral_of_information() -> None:
    """dPsi = tr(I dQ)/2 and dPhi/dalpha = Psi at a solution: a wrong gradient breaks both."""
    found = channel(COMMITTEE)
    Q, E, h = np.array([[0.5, 0.2], [0.2, 0.3]]), np.array([[0.3, -0.4], [-0.4, 0.8]]), 1e-4
    rise = (found.information(Q + h * E)[1] - found.information(Q - h * E)[1]) / (2 * h)
    assert rise == pytest.approx(float(np.trace(found.information(Q)[0] @ E)) / 2, rel=1e-7)
    curve = dl.solve(ask(COMMITTEE, [2.999, 3.0, 3.001]))
    slope = float(curve["free_entropy"].values[0, 2] - curve["free_entropy"].values[0, 0]) / 0.002
    assert slope == pytest.approx(found.information(curve["overlap"].values[0, 1])[1], rel=1e-6)


def test_correlated_fields_with_finer_rules() -> None:
    """Halved steps change the information of correlated fields by less than 1e-9."""
    one, two = (channel(COMMITTEE, f, overlap=[[1.0, 0.3], [0.3, 1.0]]) for f in (1.0, 2.0))
    Q = np.array([[0.4, 0.1], [0.1, 0.5]])
    np.testing.assert_allclose(one.information(Q)[0], two.information(Q)[0], rtol=1e-9)


def test_three_signs_are_orthant_probabilities() -> None:
    v = np.array([[0.7, 0.2, -0.1], [0.2, 0.5, 0.15], [-0.1, 0.15, 0.9]])
    omega = np.array([0.3, -0.5, 0.8])
    chances, slopes = np.empty(8), np.empty((8, 3))
    pattern_chances.compiled(omega, v, chances, slopes)
    for p in range(8):
        s = 1.0 - 2.0 * np.array([(p >> (2 - i)) & 1 for i in range(3)])
        wanted = multivariate_normal(cov=v * np.outer(s, s), maxpts=10**6, abseps=1e-9, seed=1).cdf(s * omega)
        assert chances[p] == pytest.approx(wanted, abs=2e-7)
    up, down = np.empty(8), np.empty(8)
    for i in range(3):
        h = 1e-5 * np.eye(3)[i]
        pattern_chances.compiled(omega + h, v, up, np.empty((8, 3)))
        pattern_chances.compiled(omega - h, v, down, np.empty((8, 3)))
        np.testing.assert_allclose(slopes[:, i], (up - down) / 2e-5, atol=1e-9)


def test_a_parity_of_three_fields_has_the_information_of_its_symmetries() -> None:
    """Sign changes of two fields keep y = sign(z1 z2 z3): at Q = q 1 the information is a multiple of 1."""
    info, _, _ = channel("sign(z1*z2*z3)").information(0.3 * np.eye(3))
    np.testing.assert_allclose(info, info[0, 0] * np.eye(3), atol=1e-7)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"formula": "tanh(z1) + tanh(z2)"}, "neither a function of the signs"),
        ({"formula": "z1*z2*z3 + 0.1*n1"}, "signs"),
        ({"formula": COMMITTEE, "flip": 0.1}, "flip"),
        ({"formula": COMMITTEE, "prior": "rademacher"}, "normal entries"),
        ({"formula": "sign(z1*z2*z3*z4)"}, "latent fields"),
    ],
)
def test_what_is_not_solved_is_refused(target: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ask(target.pop("formula"), [1.0], **target)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("target", "ratio", "size"),
    [
        ({"formula": COMMITTEE}, 3.0, 300),
        ({"formula": COMMITTEE, "overlap": [[1.0, 0.3], [0.3, 1.0]]}, 3.0, 300),
        ({"formula": "z1*z2 + z1 + 0.5*n1"}, 1.0, 300),
        ({"formula": "sign(sign(z1) + sign(z2) + sign(z3))"}, 3.0, 150),
    ],
)
def test_message_passing_agrees(target: dict[str, Any], ratio: float, size: int) -> None:
    from dimladder_validation import simulate

    problem = dl.replace(
        ask(target["formula"], [ratio], **{k: v for k, v in target.items() if k != "formula"}),
        {"simulation": {"sizes": [size], "replicas": 8}},
    )
    theory, measured = dl.solve(problem)["overlap"].values[0, 0], simulate(problem)
    value, error = measured["overlap"].values[0, 0, 0], measured["overlap_se"].values[0, 0, 0]
    assert np.max(np.abs(value - theory) / np.hypot(error, 3.0 / size)) < 4.5
