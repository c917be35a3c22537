"""Functions of the time: as the formula says, compiled by either compiler, and called by equations that know none."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import dimladder as dl
from dimladder.numerics.addresses import addresses
from dimladder.numerics.times import TIME, as_time
from dimladder.problem import Expression
from dimladder.problem.grammar import FUNCTIONS, TIME_FUNCTIONS
from dimladder.symbolic import store
from dimladder.symbolic.times import time_function

GIVEN = {"clip": "clip({0}, -0.3, t/7)", "min": "min({0}, 0.2)", "max": "max(0.2, {0})", "mod": "mod({0}, 0.7)"}
FORMULAS = [
    *(GIVEN.get(name, f"{name}({{0}})").format("0.3*t - 1" if name not in ("log", "sqrt") else "0.3*t + 1")
      for name in [*FUNCTIONS, *TIME_FUNCTIONS]),
    "1/(1 + t/10)", "-2*t^3 + pi*t - e", "He3(t/5) - He2(0.1)", "0.5**floor(t/3)", "2**(-t)", "3", "relu(min(t, 4))**2",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_in_t_is_compiled_as_it_is_evaluated(text: str) -> None:
    compiled = time_function(text)
    t = np.linspace(0.01, 20.0, 113)
    found = np.array([compiled.function(float(x)) for x in t])
    np.testing.assert_allclose(found, Expression(text, ("t",)).evaluate(np, t=t) + 0.0 * t, rtol=1e-14, atol=1e-15)
    assert as_time(0, int(compiled.address))(1.3) == compiled.function(1.3)
    assert addresses(compiled.function, TIME)[1] == int(compiled.address)


UNIT: dict[str, Any] = {
    "target": {"kind": "committee", "activation": "erf", "readout": [1.0]},
    "student": {"kind": "two-layer", "width": 1, "activation": "erf"},
    "initial": {"Q": [[0.5]], "M": [[0.1]]},
    "grid": {"time": [0.0, 5.0, 20.0]},
}
CASES: dict[str, dict[str, Any]] = {
    "closed": {},
    "jacobian": {"solver": {"method": "bdf"}},
    "quadrature": {"loss": {"function": "logistic"}, "solver": {"rtol": 1e-5}},
    "blocks": {"data": {"kind": "gaussian", "spectrum": {"variances": [0.5, 1.5], "fractions": [0.5, 0.5]}}},
}


def scheduled(name: str, text: str) -> Any:
    sections = {**UNIT, **CASES[name]}
    if name == "blocks":
        sections["initial"] = {"kind": "random", "overlap": 0.1, "seed": 3}
    rule = {"kind": "one-pass", "learning_rate": 0.8, "schedule": text}
    return dl.problem(**sections, algorithm=rule)


@pytest.mark.parametrize("name", CASES)
def test_another_schedule_is_the_same_module(name: str) -> None:
    """Two texts of one function give bitwise one curve, a third another one, and none is printed into equations."""
    first, again, other = (scheduled(name, t) for t in ("1/(1 + t/8)", "(8/8)/(1 + t/8)", "exp(-t/9)"))
    systems: list[Any] = [dl.derive(p) for p in (first, again, other)]
    assert len({id(s.module()) for s in systems}) == 1
    assert "as_time" in store.source(systems[0].module())
    curves = [dl.solve(p)["M"].values for p in (first, again, other)]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert abs(curves[0] - curves[2]).max() > 1e-3


def test_a_rate_that_is_scaled_by_a_schedule_is_that_rate() -> None:
    plain = dl.solve(dl.replace(scheduled("closed", "1"), {"algorithm.learning_rate": 0.4}))
    half = dl.solve(scheduled("closed", "0.5"))
    np.testing.assert_allclose(half["M"].values, plain["M"].values, rtol=1e-13)


def test_code_of_numba_calls_it_too() -> None:
    compiled = time_function("exp(-t/3) + mod(t, 2)")

    @numba.njit
    def twice(address: float, t: float) -> float:
        return 2.0 * as_time(0, int(address))(t)

    assert twice(compiled.address, 2.5) == 2.0 * compiled.function(2.5)
