"""The numbers of varied problems stay what they were when the language changed its words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cases import CASES, SLOW
from freeze import NUMBERS, numbers_of

FROZEN = json.loads(NUMBERS.read_text())
# Digits that a variable cannot have, whatever it is divided by: differences of numbers of order one.
FLOOR = 1e-13


def test_every_case_is_frozen() -> None:
    assert set(FROZEN) == set(CASES)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if run in SLOW else n for n, (run, _) in CASES.items()]
)
def test_numbers_are_those_frozen(name: str) -> None:
    now = numbers_of(name)
    for variable, kept in FROZEN[name].items():
        assert variable in now, f"{variable} is gone"
        assert now[variable]["dims"] == kept["dims"], variable
        assert now[variable]["shape"] == kept["shape"], variable
        wanted = np.array([np.nan if v is None else v for v in kept["entries"]])
        found = np.array([np.nan if v is None else v for v in now[variable]["entries"]])
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=FLOOR, err_msg=variable)
