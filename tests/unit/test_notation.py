"""Every symbol of the printed equations of every theory has its line in the table of notation."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import dimladder as dl
from dimladder import theories
from dimladder.cli import main
from dimladder.symbolic.equations import Equation, latex
from dimladder.symbolic.notation import Notation, lines, notation
from dimladder.typeset.symbols import Occurrence, symbols

ROOT = Path(__file__).parents[2]
RUNS = sorted((ROOT / "docs/gallery/runs").glob("*.toml"))
# Other forms of the same theories: their equations have letters of their own.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (f"{run}.toml", overrides)
    for name, (run, overrides) in json.loads((ROOT / "tests/contract/cases.json").read_text()).items()
}


@cache
def table(path: Path) -> tuple[str, Notation]:
    """The theory that answers a run file, and the table of its equations."""
    problem = dl.load(path)
    return problem.theory, dl.derive(problem).notation()


@cache
def forms() -> dict[str, tuple[str, Notation]]:
    """The same of other forms."""
    problems = {name: dl.load(ROOT / "docs/gallery/runs" / run, changed) for name, (run, changed) in FORMS.items()}
    return {name: (problem.theory, dl.derive(problem).notation()) for name, problem in problems.items()}


def test_symbols_are_letters_with_what_marks_them() -> None:
    formula = r"\frac{\mathrm{d} Q_{ik}}{\mathrm{d} t} = \hat q f_\star^2 + \mathcal{L}_{\mathrm{test}} e^{-\dot x}"
    found = symbols(formula)
    assert found == [
        Occurrence("Q", "ik"), Occurrence("i"), Occurrence("k"), Occurrence("t"), Occurrence(r"\hat{q}"),
        Occurrence(r"f_{\star}"), Occurrence(r"\mathcal{L}_{\mathrm{test}}"), Occurrence("e"), Occurrence("x"),
    ]  # fmt: skip


def test_a_symbol_without_words_is_missing() -> None:
    rows = [Equation("a", r"a_i = \eta b + c_{jk}")]
    known = lines(r"""
    a_i  :: readout
    \eta :: rate :: algorithm.learning_rate
    i    :: units
    b, g :: bias
    """)
    found = notation(rows, known, (), {"algorithm": {"learning_rate": 0.25}})
    assert [(r.latex, r.meaning, r.value) for r in found] == [
        ("a_i", "readout", ""), ("i", "units", ""), (r"\eta", "rate", "0.25"), ("b", "bias", ""),
    ]  # fmt: skip
    assert found.missing == ("c_{jk}", "j", "k")


def test_a_name_below_a_letter_is_told_from_an_index() -> None:
    known = lines("R_w :: response of weights\nR_u :: response of gradients\nQ_{ik} :: overlap\ni, k, j, l :: units")
    found = notation([Equation("", "Q_{jl} = R_u R_w Q")], known, (), {})
    assert [r.meaning for r in found] == ["overlap", "units", "response of gradients", "response of weights"]
    assert not found.missing


def test_every_theory_is_seen() -> None:
    seen = {table(path)[0] for path in RUNS}
    assert set(theories.names()) <= seen


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.stem)
def test_every_symbol_of_a_run_file_is_explained(path: Path) -> None:
    _, found = table(path)
    assert len(found) > 2
    assert found.missing == ()
    assert all(row.meaning for row in found)


def test_every_symbol_of_other_forms_is_explained() -> None:
    assert not {name: found.missing for name, (_, found) in forms().items() if found.missing}


def test_keys_are_those_of_the_language() -> None:
    """A key without a number is a slip, or a formula or table, of which there are these."""
    rows = [(theory, row) for theory, found in [*map(table, RUNS), *forms().values()] for row in found if row.key]
    numbers = {(theory, row.key) for theory, row in rows if row.value}
    without = {(theory, row.key) for theory, row in rows} - numbers
    assert without <= {("estimation", "loss.ridge"), ("giant-step", "loss.ridge"), ("one-pass", "algorithm.batch_size")}


def test_numbers_are_those_of_the_problem() -> None:
    system = dl.derive(dl.load(ROOT / "docs/gallery/runs/online-erf.toml", {"algorithm.learning_rate": 0.125}))
    rows = {r.key: r for r in system.notation()}
    assert rows["algorithm.learning_rate"].value == "0.125"
    assert "learning rate: 0.125  [algorithm.learning_rate]" in system.notation().text()
    assert "<math>" in system.notation().html()


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    run = str(ROOT / "docs/gallery/runs/hierarchical-flow.toml")
    assert main(["derive", run, "--notation"]) == 0
    text = capsys.readouterr().out
    assert "q  squared overlap" in text
    assert text.startswith("subspace_overlap")
    assert main(["derive", run, "--format", "latex", "--notation"]) == 0
    assert r"\parbox" in capsys.readouterr().out
    assert main(["derive", run, "--explain", "--notation"]) == 0
    assert "Notation\n" in capsys.readouterr().out
    assert main(["derive", run, "--format", "python", "--notation"]) == 2


def test_ramps_steps_and_averages_are_written_as_people_do() -> None:
    import sympy as sp

    x, y = sp.symbols("x y", real=True)
    assert latex(x * sp.Heaviside(x, 0)) == r"\max\left(0, x\right)"
    assert latex(3 * y * x**2 * sp.Heaviside(x)) == r"3 y \max\left(0, x\right)^{2}"
    assert latex(sp.Heaviside(x, 0) ** 2) == r"1\left[x > 0\right]^{2}"
    assert latex(sp.Function(r"\mathbb{E}")(x + y)) == r"\mathbb{E}\left[x + y\right]"
    assert latex(sp.Function("s'")(x)) == r"s'\left(x\right)"
    assert latex(sp.Derivative(sp.Function("f")(x), x)).startswith(r"\frac{\mathrm{d}}{\mathrm{d} x}")


def test_numbers_in_which_results_differ_are_left_out(tmp_path: Path) -> None:
    base = dl.load(ROOT / "docs/gallery/runs/deep-linear-posterior.toml")
    curves = [dl.solve(dl.replace(base, {"data.label_alignment": value})) for value in (0.3, 0.5)]
    for results, shown in ((curves, False), (curves[:1], True)):
        dl.export(results, tmp_path, ["notation"], refine=False)
        assert ("a sample: 0.3" in (tmp_path / "notation.tex").read_text()) == shown
