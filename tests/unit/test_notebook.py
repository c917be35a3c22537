"""What a notebook shows: every object that a cell may end with, and tables of curves."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import dimladder as dl
from dimladder_validation import compare

RUNS = Path(__file__).parents[2] / "docs/gallery/runs"


@pytest.fixture(scope="module")
def problem() -> dl.Problem:
    return dl.load(RUNS / "online-erf.toml", {"grid.time": [0.0, 1.0, 2.0]})


@pytest.fixture(scope="module")
def curve(problem: dl.Problem) -> dl.LearningCurve:
    return dl.solve(problem)


def well_formed(html: str) -> None:
    ElementTree.fromstring(f"<div>{html.replace('&#x2061;', '').replace('&#xa0;', ' ')}</div>")


def test_problem_system_and_theory_show_themselves(problem: dl.Problem) -> None:
    for thing in (problem, dl.derive(problem), dl.find_theory("one-pass")):
        well_formed(thing._repr_html_())
    assert "online" not in problem._repr_html_()
    assert "learning_rate=0.4" in problem._repr_html_()
    assert "Gaussian" not in problem._repr_html_(), "defaults are not shown"
    assert dl.derive(problem)._repr_latex_() == dl.derive(problem).latex()
    assert "Assumptions" in dl.find_theory("one-pass")._repr_html_()
    assert repr(dl.find_theory("one-pass")) == "<Theory 'one-pass': One-pass SGD of two-layer networks>"


def test_curves_as_dataframes(curve: dl.LearningCurve) -> None:
    frame = curve.to_dataframe()
    assert frame.index.name == "time"
    assert list(frame.index) == [0.0, 1.0, 2.0]
    assert np.array_equal(frame["Q[0,1]"], curve["Q"].values[:, 0, 1])
    assert np.array_equal(frame["generalization_error"], curve["generalization_error"].values)
    assert "Q" in curve._ipython_key_completions_()


def test_a_comparison_shows_its_verdict_and_plots(problem: dl.Problem, curve: dl.LearningCurve) -> None:
    comparison = compare(problem, d=[40, 80], replicas=4)
    html = comparison._repr_html_()
    well_formed(html)
    assert comparison.verdict.upper() in html
    assert "family-wise p" in html
    assert len(comparison.plot(refine=False, variables=["Q"]).axes) == 1
    assert len(curve.plot(refine=False).axes) >= 3
