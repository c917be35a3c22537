"""The page of published settings: what it says is stated, is stated; and numbers of those papers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dimladder as dl
from dimladder.problem import parse_override

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(r"\| (.+?) \| `([\w-]+)` \| (.*?)\| `([\w-]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((DOCS / "reference" / "published.md").read_text(encoding="utf-8"))


def stated(run: str, changes: str, **more: Any) -> Any:
    overrides = dict(parse_override(text) for text in re.findall(r"`([^`]+)`", changes))
    return dl.load(DOCS / "gallery" / "runs" / f"{run}.toml", overrides | more)


@pytest.mark.parametrize(("run", "changes", "theory"), [r[1:] for r in ROWS], ids=[r[0][:40] for r in ROWS])
def test_a_row_is_a_problem_of_that_theory(run: str, changes: str, theory: str) -> None:
    assert stated(run, changes).theory == theory


def test_every_row_is_read() -> None:
    text = (DOCS / "reference" / "published.md").read_text(encoding="utf-8")
    assert len(ROWS) == len([row for row in text.splitlines() if row.startswith("| ") and "| paper |" not in row])
    assert len(ROWS) >= 45


def row(words: str) -> tuple[str, str]:
    found = [r for r in ROWS if words in r[0]]
    assert len(found) == 1
    return found[0][1], found[0][2]


def test_kernel_ridge_falls_as_source_and_capacity_say() -> None:
    """Cui et al. 2021, without noise and ridge: mse ~ n^-(2 a r), eigenvalues k^-a, a = 1.5, and 2 a r = 1 here."""
    change: dict[str, Any] = {"loss.ridge": 1e-6, "target.noise": 0.0, "grid.sample_ratio": [0.003, 0.03]}
    mse = dl.solve(stated(*row("Cui et al. 2021"), **change)).dataset["mse"].values
    assert np.log10(mse[0] / mse[1]) == pytest.approx(1.0, abs=0.05)


def test_random_labels_are_separable_up_to_two() -> None:
    found = dl.solve(stated(*row("Gerace et al. 2022"), **{"grid.sample_ratio": [1.0]})).dataset
    assert float(found["separability_threshold"]) == pytest.approx(2.0, abs=1e-9)


def test_parity_of_two_signs_is_seen_from_pi_squared_over_four() -> None:
    found = dl.solve(stated(*row("limits of multi-index"), **{"grid.sample_ratio": [2.0]})).dataset
    assert float(found["threshold"][0]) == pytest.approx(np.pi**2 / 4, rel=1e-6)


def test_signs_of_errors_are_one_linear_equation() -> None:
    """Isotropic inputs, q = E(z - f)^2: dq/dt = -2 lr sqrt(2/pi) q/sqrt(q + noise^2) + lr^2, written by hand."""
    from scipy.integrate import solve_ivp

    rate, noise, times = 0.3, 0.5, [1.0, 4.0]
    change = {"data": {"kind": "gaussian"}, "grid.time": times, "algorithm.learning_rate": rate}
    found = dl.solve(stated(*row("signs of errors"), **change)).dataset["generalization_error"].values

    def slope(t: float, q: Any) -> Any:
        return -2 * rate * np.sqrt(2 / np.pi) * q / np.sqrt(q + noise**2) + rate**2

    by_hand = solve_ivp(slope, (0.0, times[-1]), [1.0], t_eval=times, rtol=1e-10, atol=1e-12).y[0]
    assert 2 * found == pytest.approx(by_hand, rel=1e-5)
