"""Workspaces are kept from one integration to the next: no answer depends on what was computed in one before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dimladder.numerics.native import njit
from dimladder.numerics.ode import integrate, integrate_batch, workspace

TIMES = np.linspace(0.0, 30.0, 7)
STATE = np.array([2.0, 0.1])


@njit("void(f8, f8[::1], f8[::1], f8[::1], f8[::1])", error_model="numpy")
def oscillator(t, y, dy, p, work):  # type: ignore[no-untyped-def]
    """Van der Pol's equation; the scratch array remembers how often it was called, which must not matter."""
    work[0] += 1.0
    dy[0] = y[1]
    dy[1] = p[0] * (1.0 - y[0] * y[0]) * y[1] - y[0] + p[1] * y[0] ** 3 + 0.0 * work[0]


# Smooth; stiff, so that `auto` changes its method; and growing beyond every bound in finite time.
PARAMETERS = np.array([[0.5, 0.0], [300.0, 0.0], [0.0, 4.0], [3.0, 0.0]])


@pytest.fixture(autouse=True)
def _none_kept() -> None:
    workspace._idle.clear()


@pytest.mark.parametrize("output", ["interpolate", "step"])
@pytest.mark.parametrize("method", ["auto", "dop853", "bdf", "rodas5p"])
def test_answers_do_not_depend_on_what_was_computed_before(method: str, output: str) -> None:
    options: dict[str, Any] = {"method": method, "output": output, "rtol": 1e-7, "work_size": 1, "max_steps": 3000}
    rhs = oscillator.compiled
    # A batch works in memory of its own.
    batch = integrate_batch(rhs, STATE, TIMES, p=PARAMETERS, workers=1, **options)
    seen = []
    for k in (0, 1, 2, 3, 0, 2, 1, 3):
        found = integrate(rhs, STATE, TIMES, p=PARAMETERS[k], **options)
        assert (found.status, found.message) == (batch.status[k], batch.message[k])
        assert found.stats["n_rhs"] == batch.stats["n_rhs"][k]
        np.testing.assert_array_equal(found.y, batch.y[k, : len(found.t)])
        seen.append((found, found.y.copy(), found.y_final.copy(), found.t.copy()))
    assert {found.status for found, *_ in seen} >= {"success", "blow_up"}
    for found, y, final, times in seen:
        # None of them was overwritten by those that came later.
        np.testing.assert_array_equal(found.y, y)
        np.testing.assert_array_equal(found.y_final, final)
        np.testing.assert_array_equal(found.t, times)
    assert sum(map(len, workspace._idle.values())) == 1


def test_what_decides_the_numbers_has_a_workspace_of_its_own() -> None:
    rhs, p = oscillator.compiled, PARAMETERS[0]
    loose = integrate(rhs, STATE, TIMES, p=p, rtol=1e-5, work_size=1)
    for other in ({"rtol": 1e-10}, {"atol": 1e-3}, {"atol": [1e-3, 1e-12]}, {"max_step": 0.05}, {"method": "tsit5"}):
        fresh = {"rtol": 1e-5, "work_size": 1, **other}
        found = integrate(rhs, STATE, TIMES, p=p, **fresh)
        assert found.stats["n_rhs"] != loose.stats["n_rhs"]
        again = integrate(rhs, STATE, TIMES, p=p, **fresh)
        np.testing.assert_array_equal(found.y, again.y)
    later = integrate(rhs, STATE, TIMES + 0.25, p=p, t0=0.25, rtol=1e-5, work_size=1)
    np.testing.assert_allclose(later.y, loose.y, rtol=1e-9)
    with pytest.raises(ValueError, match="rtol"):
        integrate(rhs, STATE, TIMES, p=p, rtol=2.0, work_size=1)


def test_threads_do_not_meet_in_one_workspace() -> None:
    rhs = oscillator.compiled
    rows = np.column_stack([np.linspace(0.1, 8.0, 60), np.zeros(60)])
    alone = integrate_batch(rhs, STATE, TIMES, p=rows, rtol=1e-9, work_size=1, workers=1).y

    def one(p: Any) -> Any:
        return integrate(rhs, STATE, TIMES, p=p, rtol=1e-9, work_size=1).y

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            np.testing.assert_array_equal(list(pool.map(one, rows)), alone)
    assert 1 <= sum(map(len, workspace._idle.values())) <= 8


def test_few_and_small_ones_are_kept() -> None:
    rhs = oscillator.compiled
    for k in range(workspace.MOST_KEPT + 10):
        integrate(rhs, STATE, TIMES, p=PARAMETERS[0], rtol=1e-4 * (1 + k), work_size=1)
    assert sum(map(len, workspace._idle.values())) == workspace.MOST_KEPT
    workspace._idle.clear()
    integrate(rhs, STATE, TIMES, p=PARAMETERS[0], work_size=workspace.LARGEST_KEPT)
    assert not workspace._idle
