"""Formulas read into a tree, broken to a column and written plainly: nothing is lost, and TeX agrees about widths."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import dimladder as dl
from dimladder.typeset import COLUMNS, displayed, mathml, plain
from dimladder.typeset.breaking import lines, width
from dimladder.typeset.tree import parse, write

RUNS = sorted((Path(__file__).parents[2] / "docs/gallery/runs").glob("*.toml"))
LONG = (
    r"\frac{4 \operatorname{asin}{\left(\frac{{C}_{\alpha,\beta} - {u}_{i,\alpha} {u}_{i,\beta}}{\sqrt{1 + {C}_{\alpha"
    r",\alpha}} \sqrt{{C}_{\beta,\beta} - {u}_{i,\beta}^{2} + 1}} \right)} {c}_{\alpha}}{\pi^{2} \sqrt{{Q}_{i,i} + 1} "
    r"\sqrt{{Q}_{k,k} - {u}_{i,k}^{2} + 1}} - \eta \left(- a + \frac{b + c + d + e}{f}\right) + \sum_{k=1}^{K} a_k b_k"
)


def symbols(latex: str) -> Counter[str]:
    """Letters, numbers and named symbols of a formula: what breaking it must not change."""
    spaces = r"\\(left|right|Bigl|Bigr|quad|qquad|operatorname|begin|end|notag|arcsin)\b|aligned|asin"
    return Counter(re.findall(r"\\[A-Za-z]+|[A-Za-z]|\d+", re.sub(spaces, " ", latex)))


def test_what_is_read_is_written_again() -> None:
    for latex in (
        r"\frac{a}{b}",
        r"\sqrt{x_{i,k}}",
        r"\left( a + b \right)^{2}",
        r"\mathbb{E}\left[ f \right]",
        r"\text{if }x",
    ):
        assert write(parse(latex)) == latex


def test_positive_terms_come_first_and_no_term_is_lost() -> None:
    assert write(parse("- a + b")) == "b - a"
    assert write(parse("- a - b")) == "- a - b"
    assert write(parse(r"D = - a + \sum_{j} b_{j}")) == r"D = \sum_{j}b_{j} - a"
    assert write(parse(r"x = - a - c + b,\quad y = - 1 + z")) == r"x = b - a - c,\quad y = z - 1"


def test_a_narrow_column_loses_no_symbol() -> None:
    lifted: list[str] = []

    def lift(nodes: object) -> list:
        lifted.append(write(nodes))  # type: ignore[arg-type]
        return parse(r"\Xi")

    broken = lines(LONG, 12.0, lift=lift)
    assert len(broken) > 2
    assert all(width(parse(line)) <= 12.0 for line in broken)
    assert lifted
    after = symbols(" ".join([*broken, *lifted]))
    after["\\Xi"] -= len(lifted)
    before = symbols(LONG)
    # A fraction whose bar is kept over its denominator alone begins with 1.
    for name in set(before) - {"\\frac", "\\sqrt", "1", "2"}:
        assert after[name] == before[name], name


def test_lines_fit_or_stay_whole() -> None:
    assert lines("a + b", 20.0) == ["a + b"]
    assert lines(r"a = \quad b", 1e9) == [r"a = \quad b"]
    assert len(lines(r"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 5.0)) == 1


def test_short_sides_are_aligned_and_wide_ones_stand_alone() -> None:
    assert "\\begin{align}" in displayed(["a = b", "c = d"])
    wide = r"\mathbb{E}\left[g'(\lambda_i)\, g'(\lambda_k)\, g(\lambda_j)\, g(\lambda_l)\right] = \int p\, x"
    assert "\\begin{gather}" in displayed(["a = b", wide], 2)


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\frac{\mathrm{d} M_{im}}{\mathrm{d} t} = - \eta D_{im} a_{i}", "dMᵢₘ/dt = -η Dᵢₘ aᵢ"),
        (r"\frac{s^{2}}{d \left(\kappa + 1\right)}", "s²/(d(κ + 1))"),
        (r"\frac{a + b}{c}", "(a + b)/c"),
        (r"\frac{\frac{a}{b} c}{d}", "(a/b c)/d"),
        (r"\sqrt{{Q}_{i,i} + 1}", "√(Qᵢᵢ + 1)"),
        (r"e^{- \frac{x^{2}}{2}}", "e^(-x²/2)"),
        (r"0.25 \operatorname{erf}{\left(x \right)}", "0.25 erf(x)"),
        (r"C = \begin{pmatrix} Q & M \\ M^{\top} & T \end{pmatrix}", "C = [Q, M; Mᵀ, T]"),
        (r"\bar f' = \mathbb E\, \ell''", "f̄′ = E ℓ′′"),
    ],
)
def test_formulas_in_a_terminal(latex: str, text: str) -> None:
    assert plain(latex) == text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX at hand")
def test_equations_of_every_run_file_fit_their_column(tmp_path: Path) -> None:
    """All in one document, with their tables of notation, in one column and in two: no box sticks out by over 5 pt."""
    systems = [(path.stem, dl.derive(dl.load(path))) for path in RUNS]
    for columns in COLUMNS:
        body = "\n".join(
            f"\\section{{{name}}}\n{system.latex(columns)}\n{system.notation().latex(columns)}"
            for name, system in systems
        )
        option = "twocolumn" if columns == 2 else "onecolumn"
        head = f"\\documentclass[{option}]{{article}}\n\\usepackage{{amsmath,amssymb,bm}}\n\\raggedbottom\n"
        (tmp_path / "all.tex").write_text(f"{head}\\begin{{document}}\n{body}\n\\end{{document}}\n")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
        found = re.findall(r"Overfull \\([hv])box \(([\d.]+)pt", done.stdout)
        assert not [(kind, float(size)) for kind, size in found if float(size) > 5.0]


def test_mathml_is_well_formed_and_complete() -> None:
    from xml.etree import ElementTree

    for path in RUNS:
        for equation in dl.derive(dl.load(path)).equations():
            unknown: list[str] = []
            text = mathml(equation.latex, display=True, unknown=unknown)
            ElementTree.fromstring(text.replace("&#x2061;", "").replace("&#xa0;", " "))
            assert not unknown, (path.stem, equation.label, unknown)
    assert mathml(r"\frac{a}{b^{2}}") == (
        "<math><mrow><mfrac><mrow><mi>a</mi></mrow><mrow><msup><mi>b</mi><mrow><mn>2</mn></mrow></msup></mrow></mfrac>"
        "</mrow></math>"
    )
    assert "&lt;" in mathml("a < b")
    unknown = []
    assert "nosuch" in mathml(r"\nosuch x", unknown=unknown)
    assert unknown == [r"\nosuch"]


def test_an_average_stays_whole_where_it_fits_a_line() -> None:
    average = r"\mathbb{E}\left[g'(\lambda_{i})\, g'(\lambda_{k})\, g(\lambda_{j})\, f_\star\right]"
    formula = rf"\sigma^2 Q - 2 \sum_{{j=1}}^{{K}} {average} a_j + \sum_{{j=1}}^{{K}} {average} a_j"
    broken = lines(formula, 18.5)
    assert len(broken) > 1
    assert sum(write(parse(average)) in line for line in broken) == 2
    shown = displayed([rf"\mathcal{{S}}_2(h, k, \rho) = {average}", r"a_{ijklmnopqr} + b_{ijklmnop} = c"], 2)
    assert write(parse(average)) in shown
