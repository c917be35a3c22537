"""What a later process does not do again: derive, compile, import what only those need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dimladder as dl
from dimladder.kept_equations import equation_rows, equations_text
from dimladder.problem.losses import loss_function
from dimladder.symbolic import store
from dimladder.theories.estimation.channel import Loss
from dimladder.theories.estimation.labels import form_of_target, stored_form

# What a later process imports although its curve does not need it to be derived or compiled, and why.
SOBOL = "scrambled Sobol' points are SciPy's"
MARCH = "the march over samples is compiled by numba"
NEEDS = {
    "estimation-bootstrap": ({"scipy"}, "the law of bootstrap weights"),
    "estimation-mixture": ({"scipy"}, "the separability threshold is the minimum over several overlaps"),
    "giant-step-images": ({"scipy", "pandas"}, "a published data set is read"),
    "hierarchical-learners": ({"scipy"}, "half a million quantiles"),
    "hierarchical-even": ({"scipy"}, "half a million quantiles"),
    "hierarchical-paper": ({"scipy"}, "half a million quantiles"),
    "hierarchical-protocol": ({"scipy"}, "half a million quantiles"),
    "hierarchical-published": ({"scipy"}, "half a million quantiles"),
    "multi-pass-committee": ({"numba", "scipy"}, MARCH),
    "multi-pass-logistic": ({"numba", "scipy"}, MARCH),
    "multi-pass-ridge": ({"numba", "scipy"}, MARCH),
    "mup-tanh": ({"scipy"}, SOBOL),
    "mup-widths": ({"scipy"}, SOBOL),
    "online-classes": ({"scipy", "sympy"}, SOBOL),
    "truncation-separable": ({"scipy"}, "a linear programme"),
    "staircase": ({"scipy", "sympy"}, "particles of a formula"),
}
# Whose curve takes less than a second the first time too.
CHEAP = (
    "online-erf", "online-outputs", "online-update", "truncation-flow", "hierarchical-flow", "hierarchical-branches",
    "estimation-huber", "estimation-random-features", "estimation-bayes", "triple-descent", "multiscale",
    "deep-linear-posterior", "graph-convolution", "mup-linear",
)  # fmt: skip
DEAR = tuple(sorted({p.stem for p in (Path(__file__).parents[2] / "docs/gallery/runs").glob("*.toml")} - {*CHEAP}))
_SCRIPT = """
import contextlib, io, sys
from dimladder.cli import main
path = sys.argv[1]
with contextlib.redirect_stdout(io.StringIO()):
    codes = main(["solve", path, "--json", "-q"]), main(["derive", path, "--format", "latex", "-q"])
print(codes, *(m for m in ("sympy", "numba", "scipy", "pandas", "xarray", "matplotlib") if m in sys.modules))
"""


@pytest.mark.parametrize("name", [*CHEAP, *(pytest.param(name, marks=pytest.mark.nightly) for name in DEAR)])
def test_solving_and_printing_again_need_neither_algebra_nor_compilers_nor_scipy(runs: Path, name: str) -> None:
    for _ in ("first", "again"):
        command = [sys.executable, "-c", _SCRIPT, str(runs / f"{name}.toml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.startswith("(0, 0)"), done.stderr
    assert set(done.stdout.split()[2:]) <= NEEDS.get(name, (set(), ""))[0]


def test_equations_are_kept_until_the_problem_or_the_file_changes(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))
    problem = dl.load(runs / "multiscale.toml")
    forms = {form: equations_text(problem, form) for form in ("latex", "text", "sympy", "explain")}
    system = dl.derive(problem)
    assert forms == {form: getattr(system, form)() for form in forms}
    assert equations_text(problem, "latex", 2) == system.latex(2)
    assert equations_text(problem, "notation as html") == system.notation().html()
    assert equation_rows(problem) == [(e.label, e.latex, e.note) for e in system.equations()]
    with monkeypatch.context() as patch:
        patch.setattr(type(system), "latex", lambda self, columns=1: pytest.fail("derived again"))
        assert equations_text(problem, "latex") == forms["latex"]
        patch.setattr(type(system), "latex", lambda self, columns=1: "another")
        assert equations_text(dl.replace(problem, {"target.noise": 0.7}), "latex") == "another"
        for path in (tmp_path / "generated").glob("*.txt"):
            path.write_text(path.read_text()[:-1])
        assert equations_text(problem, "latex") == "another"


def test_texts_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "MOST_TEXTS", 8)
    for k in range(30):
        assert store.text((k,), "dimladder.theories.multiscale_ridge", lambda k=k: f"text {k}") == f"text {k}"  # type: ignore[misc]
    assert 4 <= len(list((tmp_path / "generated").glob("*.txt"))) <= 8


@pytest.mark.parametrize(
    "formula", ["sign(z + 0.3*n1)", "2*z + 0.5*n1", "tanh(2*z)", "logit(3*z)", "z*n1 + z", "abs(z)"]
)
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_a_stored_label_law_is_the_derived_one(formula: str, noise: float) -> None:
    problem = dl.problem(
        data={"kind": "gaussian"}, target={"kind": "index", "formula": formula, "noise": noise},
        student={"kind": "linear"}, loss={"function": "square", "ridge": 0.1}, algorithm={"kind": "minimise"},
        grid={"sample_ratio": [1.0]},
    )  # fmt: skip
    stored, derived = stored_form(problem.target), form_of_target(problem.target)
    assert stored == derived
    for one, other in zip(stored.main, derived.main, strict=True):
        x = [-1.7, -0.2, 0.0, 0.4, 2.9]
        assert (one.function(x) == other.function(x)).all()
        assert one.formula == other.formula


@pytest.mark.parametrize(
    "formula",
    [
        "huber(y - f, {})",
        "quantile(y - f, {})",
        "huber(y - f, {}) + 0.2*f**2",
        "0.5*(huber(f, {}) + huber(y - f, 2.0))",
    ],
)
def test_another_number_of_a_loss_is_derived_once(
    formula: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMLADDER_CACHE", str(tmp_path))

    def loss(text: str) -> Loss:
        return Loss(text, loss_function(text).expression.text)

    loss(formula.format(1.37)).module()
    with monkeypatch.context() as patch:
        patch.setattr(Loss, "_derived", lambda self: pytest.fail("derived again"))
        given = loss(formula.format(0.37)).module()
    one = Loss("direct", loss_function(formula.format(0.37)).expression.text).module()
    assert (given.KINKS, given.LINEAR_SLOPE, given.SQUARE) == (one.KINKS, one.LINEAR_SLOPE, one.SQUARE)
    for y, u in np.random.default_rng(3).normal(size=(40, 2)):
        for name in ("value", "slope", "curvature"):
            assert getattr(given, name)(y, u, u) == pytest.approx(getattr(one, name)(y, u, u), rel=1e-13, abs=1e-14)
        places = [np.zeros(16) for _ in range(2)]
        assert given.roots(y, places[0]) == one.roots(y, places[1])
        np.testing.assert_allclose(*places, rtol=1e-13)
