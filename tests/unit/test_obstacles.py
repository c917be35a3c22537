"""Problems that cannot be learned are said to be so, and others are not."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

import dimladder as dl
from dimladder.cli import main
from dimladder.theories.one_pass.obstacles import obstacles
from run_files import path_of


def problem(formula: str, M: Any, **changes: Any) -> Any:
    width = len(M)
    Q = [[1.0 if i == k else 0.1 * (i + k) / width for k in range(width)] for i in range(width)]
    settings: dict[str, Any] = {
        "target": {"kind": "index", "formula": formula}, "student": {"kind": "two-layer", "width": width},
        "algorithm": {"kind": "one-pass", "learning_rate": 0.1}, "initial": {"Q": Q, "M": M},
        "grid": {"time": (0.0, 1.0)},
    }  # fmt: skip
    return dl.replace(dl.problem(**settings), changes)


CASES: dict[str, tuple[Any, list[str]]] = {
    "odd on even": (problem("He2(z1) + z1*z2", [[0.1, 0.2]], **{"student.activation": "tanh"}), ["odd activation"]),
    "odd on neither": (problem("z + He2(z)", [[0.1]], **{"student.activation": "erf"}), ["stays above 1"]),
    "even on odd": (problem("z", [[0.1]], **{"student.activation": "x**2"}), ["even activation"]),
    "no overlap": (problem("He3(z)", [[0.0]], **{"student.activation": "relu"}), ["information exponent is 3"]),
    "one sign": (problem("z", [[0.1]], **{"student.activation": "relu"}), ["never negative"]),
    "bounded": (problem("3*z", [[0.1]], **{"student.activation": "erf"}), ["lies in [-1, 1]"]),
    "zero readout": (problem("z", [[0.1]], **{"student.readout": [0.0]}), ["readout is zero"]),
    "alike": (
        dl.replace(
            problem("tanh(z)", [[0.1], [0.2]]), {"initial.M": [[0.1], [0.1]], "initial.Q": [[1, 0.2], [0.2, 1]]}
        ),
        ["start alike"],
    ),
    "fine": (problem("tanh(z)", [[0.1], [0.2]]), []),
    "trained": (problem("3*z", [[0.1]], **{"student.train_readout": True}), []),
    "relu of both signs": (problem("z + He2(z)", [[0.1], [0.3]], **{
        "student.activation": "relu", "student.readout": [1.0, -1.0]}), []),
    "no overlap, linear part": (problem("z + 0.1*He3(z)", [[0.0]], **{"student.activation": "x + x**2"}), []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_said(name: str) -> None:
    asked, words = CASES[name]
    found = obstacles(asked)
    assert len(found) >= len(words)
    for word in words:
        assert any(word in text for text in found), found
    if not words:
        assert found == []


def test_floor_of_an_odd_student_on_an_even_target() -> None:
    """Var(He2(z1) + z1*z2)/2 = 3/2: with probabilists' polynomials, as everywhere."""
    (text,) = (t for t in obstacles(CASES["odd on even"][0]) if "odd" in t)
    assert "stays above 1.5" in text


@pytest.mark.parametrize("run", ["online-erf", "online-multi-index", "online-reuse"])
def test_the_run_files_are_learnable(run: str) -> None:
    assert obstacles(dl.load(path_of(run))) == []


def test_show_and_solve_say_it(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    run = str(path_of("online-look-ahead"))
    assert main(["show", run, "--set=target.formula='He4(z)'", "--set=student.activation='erf'", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["problem"]
    assert "odd activation" in shown["out of reach"]
    assert shown["target"].startswith("z**4 - 6*z**2 + 3")
    with caplog.at_level(logging.WARNING):
        dl.solve(dl.replace(CASES["odd on neither"][0], {"grid.time": [0.0, 0.1]}))
    assert any("odd activation" in r.getMessage() for r in caplog.records)


def test_solve_logs_the_expanded_target(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dimladder.solve"):
        target = {"target.link": "He2(h) + h", "target.hermite": "orthonormal"}
        dl.solve(dl.load(path_of("hierarchical-plateaus"), target))
    assert any("target: sqrt(2)*h**2/2 + h - sqrt(2)/2 (orthonormal" in r.getMessage() for r in caplog.records)


@pytest.mark.slow
def test_rounding_of_the_error_is_bounded_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """A noiseless ReLU at very late times: e_g is the difference of overlaps, known to what is stated."""
    asked = dl.replace(problem("relu(z)", [[0.3]], **{"student.activation": "relu"}), {"grid.time": [1e2, 1e4, 1e6]})
    curve = dl.solve(asked)
    resolution = curve.stats["generalization_error_resolution"]
    assert 0 < resolution < 1e-8
    assert abs(curve["generalization_error"].values[-1]) < resolution
