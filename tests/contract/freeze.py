"""Write the frozen numbers anew: ``python tests/contract/freeze.py [NAME...]`` (all cases without a name)."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES, Case

import dimladder as dl

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "docs" / "gallery" / "runs"
NUMBERS = HERE / "numbers.json"
# Entries kept of a variable, evenly spread.
KEPT = 6


def problem_of(case: Case) -> tuple[Any, dict[str, str]]:
    """Return the problem of a case and the names its variables had when they were frozen, in whichever words stand."""
    path = RUNS / f"{case.run}.toml"
    if path.is_file() and tomllib.loads(path.read_text())["schema"] == 2:
        return dl.load(path, case.set), {new: old for old, new in case.renamed.items()}
    return dl.load(RUNS / f"{case.was or case.run}.toml", case.set_was), {}


def entries(values: Any) -> list[float | None]:
    """Return a few entries of a variable, evenly spread; None where not finite."""
    flat = np.asarray(values, dtype=float).ravel()
    chosen = flat[np.unique(np.linspace(0, flat.size - 1, min(KEPT, flat.size)).round().astype(int))]
    return [float(v) if np.isfinite(v) else None for v in chosen]


def numbers_of(case: Case) -> dict[str, Any]:
    """Solve a case and return variable (name in schema 1) -> dims, shape, entries."""
    problem, frozen_as = problem_of(case)
    curve = dl.solve(problem)
    found = {}
    for name in curve:
        if curve[name].dtype.kind in "fiub":
            found[frozen_as.get(name, name)] = {
                "dims": list(curve.dims(name)),
                "shape": list(curve[name].shape),
                "entries": entries(curve[name].values),
            }
    return found


def main(names: list[str]) -> None:
    stored = json.loads(NUMBERS.read_text()) if NUMBERS.is_file() else {}
    for name in names or CASES:
        begin = time.process_time()
        stored[name] = numbers_of(CASES[name])
        print(f"{name}: {time.process_time() - begin:.1f} s", flush=True)
        rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(stored[k], separators=(',', ':'))}" for k in stored)
        NUMBERS.write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
