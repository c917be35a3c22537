"""What the mixture theories accept and refuse, their small rules."""

from pathlib import Path

import numpy as np
import pytest

from dimladder.errors import ConfigError
from dimladder.solve import load, loads, replace, solve
from dimladder.theories.estimation.mixture_question import MixtureQuestion
from dimladder.theories.estimation.mixture_separability import separability_threshold

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs"
MIXTURE = load(RUNS / "estimation-mixture.toml")


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
    again = loads(MIXTURE.to_toml())
    assert again == MIXTURE
    assert again.content_hash == MIXTURE.content_hash


def test_separability_thresholds():
    def threshold(overrides):
        return separability_threshold(MixtureQuestion(replace(MIXTURE, overrides)))

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
        replace(MIXTURE, {"loss.function": "hinge", "loss.ridge": 1e-6, "grid.sample_ratio": [0.9 * edge, 1.15 * edge]})
    )
    assert float(curve["separability_threshold"]) == pytest.approx(edge)
    below, above = np.asarray(curve["train_loss"])
    assert below < 1e-8 < 1e-2 < above
