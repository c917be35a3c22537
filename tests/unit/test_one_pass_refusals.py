"""What one-pass SGD does not answer is refused by its key; what changes nothing is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem.losses import LossFunction

RUNS = Path(__file__).parents[2] / "docs/gallery/runs"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss.function": "step(-y*f)"}, "loss.function: it jumps"),
        ({"loss.function": "cross-entropy"}, "takes several outputs"),
        ({"loss.function": "one-hot"}, "takes several outputs"),
    ],
)
def test_losses_that_sgd_cannot_follow(change: dict[str, Any], said: str) -> None:
    with pytest.raises(dl.ConfigError) as error:
        dl.load(RUNS / "online-erf.toml", change)
    assert said in str(error.value)


def test_tasks_last_as_long_as_the_grid() -> None:
    with pytest.raises(dl.ConfigError) as error:
        dl.load(RUNS / "online-continual.toml", {"data.tasks": [{"until": 10.0, "weights": [1.0, 0.0]}]})
    assert "the last task ends at 10, before the last time 40" in str(error.value)


@pytest.mark.parametrize(
    ("loss", "jumps"), [("step(-y*f)", True), ("hinge", False), ("abs", False), ("(f - y)**2", False)]
)
def test_jumps_of_a_loss(loss: str, jumps: bool) -> None:
    assert LossFunction(loss).jumps is jumps


def test_rates_of_a_frozen_readout_are_said_to_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    change = {"student.train_readout": False, "algorithm.readout_learning_rate": 5.0, "grid.time": [0.0, 1.0]}
    with caplog.at_level(logging.WARNING, logger="dimladder"):
        dl.solve(dl.load(RUNS / "online-erf.toml", change))
    assert "algorithm.readout_learning_rate changes nothing" in caplog.text


def test_decay_on_the_sphere_is_said_to_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    free = {"algorithm.spherical": True, "grid.time": [0.0, 1.0]}
    with caplog.at_level(logging.WARNING, logger="dimladder"):
        decayed = dl.solve(dl.load(RUNS / "online-erf.toml", {**free, "algorithm.weight_decay": 0.4}))
    assert "algorithm.weight_decay changes nothing" in caplog.text
    plain = dl.solve(dl.load(RUNS / "online-erf.toml", free))
    np.testing.assert_allclose(decayed["M"], plain["M"], rtol=1e-6)


def test_the_error_of_a_quadrature_counts_e_g() -> None:
    """e_g at the start does not depend on the loss that drives the student."""
    problem = {
        "target": {"kind": "index", "formula": "tanh(z)", "noise": 0.4},
        "student": {"kind": "two-layer", "width": 1, "activation": "erf"},
        "algorithm": {"kind": "one-pass", "learning_rate": 0.8},
        "initial": {"Q": [[1.0]], "M": [[0.3]]},
        "grid": {"time": [0.0, 0.001]},
    }
    for loss in ("square", "hinge"):
        curve = dl.solve(dl.problem(loss={"function": loss}, **problem))
        # Gauss-Hermite quadrature of (erf(x/sqrt 2) - tanh z)^2/2 with 100 nodes an axis.
        assert curve["generalization_error"].values[0] == pytest.approx(0.26082656, abs=2e-8)
